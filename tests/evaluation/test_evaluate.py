"""Greedy accuracy, with an engine that answers from a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest

from tessera.core.types import Completion, Problem
from tessera.evaluation.evaluate import evaluate
from tessera.policy.load import Policy
from tessera.rollout.collect import Collector
from tessera.rollout.engine import Request, Sampling
from tessera.rollout.hf import HFEngine
from tessera.tasks.in_memory import InMemoryTask
from tiny import tiny_policy

EOS = 2
PROBLEMS = [Problem(str(i), f"{i}?", str(i)) for i in range(5)]


class Table:
    """Answers a prompt with its entry, cut at the limit."""

    def __init__(self, policy: Policy, answers: Mapping[str, str]) -> None:
        self.policy, self.answers = policy, answers
        self.calls: list[tuple[int, Sampling]] = []

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Completion]:
        self.calls.append((len(requests), sampling))
        return [self._answer(request.prompt_ids, sampling.max_new_tokens) for request in requests]

    def _answer(self, prompt_ids: tuple[int, ...], limit: int) -> Completion:
        text = self.answers[self.policy.tokenizer.decode(list(prompt_ids), skip_special_tokens=True)]
        ids = (*self.policy.tokenizer(text, add_special_tokens=False)["input_ids"], EOS)[:limit]
        return Completion(ids, (0.0,) * len(ids), "stop" if ids[-1] == EOS else "length")


@pytest.fixture(scope="module")
def policy() -> Policy:
    return tiny_policy()


def reward(problem: Problem, text: str) -> float:
    if text == "!":
        raise ValueError("cannot read it")
    return 1.0 if text == problem.answer else 0.5 if text else 0.0


def collector(policy: Policy, answers: Mapping[str, str]) -> Collector:
    task = InMemoryTask([{"prompt": "x"}], reward_fn=reward)
    return Collector(Table(policy, answers), policy, task)


ANSWERS = {"0?": "0", "1?": "2", "2?": "!", "3?": "3", "4?": "44444"}


def test_solved_problems_are_counted_in_order(policy: Policy) -> None:
    asked = collector(policy, ANSWERS)
    found = evaluate(asked, PROBLEMS, max_new_tokens=4)
    assert found.correct == (True, False, False, True, False)
    assert found.value == 0.4
    # Wilson, z = 1.96, 2 of 5: (0.4 + 1.92/5 +- 1.96 sqrt(0.24/5 + 0.96/25)) / (1 + 3.84/5)
    assert found.interval == pytest.approx((0.1176, 0.7693), abs=1e-4)
    assert found.failed == 1
    assert found.truncation_rate == 0.2  # the last was cut
    assert found.mean_length == (2 + 2 + 2 + 2 + 4) / 5
    assert [group.problem for group in found.groups] == PROBLEMS
    assert asked.engine.calls == [(5, Sampling(max_new_tokens=4, temperature=0.0))]  # once each, greedily


def test_solved_is_what_reaches_the_threshold(policy: Policy) -> None:
    found = evaluate(collector(policy, ANSWERS), PROBLEMS, max_new_tokens=8, success=0.5)
    assert found.correct == (True, True, False, True, True)  # a reward that failed solves nothing


def test_the_time_of_an_evaluation_belongs_to_no_step(policy: Policy) -> None:
    asked = collector(policy, ANSWERS)
    evaluate(asked, PROBLEMS, max_new_tokens=4)
    assert asked.take_times() == {"rollout": 0.0, "reward": 0.0}


def test_it_is_the_same_every_time(policy: Policy) -> None:
    task = InMemoryTask([{"prompt": "x"}], reward_fn=lambda problem, text: float(len(set(text))))
    asked = Collector(HFEngine(policy), policy, task)
    assert evaluate(asked, PROBLEMS, max_new_tokens=6) == evaluate(asked, PROBLEMS, max_new_tokens=6)
