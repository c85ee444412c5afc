"""From problems to graded groups, with an engine that says what it is told."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from tessera.core.errors import UserError
from tessera.core.types import Completion, Message, Problem
from tessera.policy.load import Policy
from tessera.rollout.collect import Collector, Start
from tessera.rollout.engine import Request, Sampling
from tessera.rollout.hf import HFEngine
from tessera.tasks.in_memory import InMemoryTask
from tiny import tiny_policy

EOS, IM_END = 2, 4
SAMPLING = Sampling(max_new_tokens=8, temperature=0.7)


class Told:
    """An engine that answers with the given texts in turn, and remembers what it was asked."""

    def __init__(self, policy: Policy, texts: Sequence[str]) -> None:
        self.policy, self.texts = policy, list(texts)
        self.requests: list[Request] = []
        self.sampling: Sampling | None = None
        self.context_length = policy.context_length

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Completion]:
        self.requests, self.sampling = list(requests), sampling
        return [self._completion(self.texts[i % len(self.texts)]) for i in range(len(requests))]

    def _completion(self, text: str) -> Completion:
        ids = encoded(self.policy, text)
        return Completion((*ids, EOS), tuple(-0.5 * t for t in range(len(ids) + 1)), "stop")


def encoded(policy: Policy, text: str) -> tuple[int, ...]:
    return tuple(policy.tokenizer(text, add_special_tokens=False)["input_ids"])


@pytest.fixture(scope="module")
def policy() -> Policy:
    return tiny_policy()


def collector(policy: Policy, texts: Sequence[str], reward: Callable[[Problem, str], Any], **more: Any) -> Collector:
    task = InMemoryTask([{"prompt": "2+2=", "answer": 4}], reward_fn=reward)
    return Collector(Told(policy, texts), policy, task, **more)


PROBLEM = Problem("p", "2+2=", "4")
OTHER = Problem("q", "3+3=", "6", prefill="It is ")


def test_groups_come_in_order_with_prompts_texts_and_rewards(policy: Policy) -> None:
    found = collector(policy, ["4", "5", "6", "7"], lambda problem, text: float(problem.answer in text))
    groups = found.collect([Start(PROBLEM), Start(OTHER)], 2, SAMPLING, seed=9)
    assert [group.problem for group in groups] == [PROBLEM, OTHER]
    assert [[r.text for r in group.rollouts] for group in groups] == [["4", "5"], ["It is 6", "It is 7"]]
    assert [group.rewards for group in groups] == [(1.0, 0.0), (1.0, 0.0)]
    first = groups[1].rollouts[0]
    assert groups[1].prompt_ids == first.prompt_ids == (1, *encoded(policy, "3+3=It is "))
    assert first.ids == (*encoded(policy, "6"), EOS)  # the end token is the policy's own, and not in the text
    assert (first.sampled, first.logprobs, first.finish_reason) == ((True, True), (0.0, -0.5), "stop")
    assert found.engine.sampling is SAMPLING


def test_each_row_has_a_stream_of_its_own(policy: Policy) -> None:
    found = collector(policy, ["4"], lambda problem, text: 1.0)
    found.collect([Start(PROBLEM), Start(OTHER)], 3, SAMPLING, seed=9)
    seeds = [request.seed for request in found.engine.requests]
    assert len(set(seeds)) == 6
    found.collect([Start(OTHER), Start(OTHER)], 3, SAMPLING, seed=9)
    assert [request.seed for request in found.engine.requests] == seeds  # of place and seed, not of the problem
    found.collect([Start(PROBLEM), Start(OTHER)], 3, SAMPLING, seed=10)
    assert not set(seeds) & {request.seed for request in found.engine.requests}


def test_a_reward_that_fails_is_an_error_of_its_rollout_and_the_others_go_on(policy: Policy) -> None:
    def reward(problem: Problem, text: str) -> float:
        if text == "b":
            raise ValueError("cannot read 'b'")
        return float("nan") if text == "c" else 1.0

    (group,) = collector(policy, ["a", "b", "c", "d"], reward).collect([Start(PROBLEM)], 4, SAMPLING, seed=0)
    assert [r.reward for r in group.rollouts] == [1.0, None, None, 1.0]
    assert [r.error for r in group.rollouts] == [
        None,
        "ValueError: cannot read 'b'",
        "UserError: the reward is nan; it must be finite",
        None,
    ]
    assert group.rewards == (1.0, 1.0)


def test_components_stay_with_their_rollout(policy: Policy) -> None:
    found = collector(policy, ["4"], lambda problem, text: {"right": 1.0, "short": 0.5})
    (group,) = found.collect([Start(PROBLEM)], 1, SAMPLING, seed=0)
    assert (group.rewards, group.rollouts[0].components) == ((1.5,), {"right": 1.0, "short": 0.5})


def test_a_restart_is_prompted_with_its_prefix_and_graded_on_the_whole(policy: Policy) -> None:
    seen: list[str] = []
    found = collector(policy, ["3 + 3", " = 6"], lambda problem, text: seen.append(text) or 0.0)
    prefix = encoded(policy, "sum: ")
    (group,) = found.collect([Start(OTHER, prefix)], 2, SAMPLING, seed=0)
    assert seen == ["It is sum: 3 + 3", "It is sum:  = 6"]
    assert group.prompt_ids == found.engine.requests[0].prompt_ids == found.prompt_ids(OTHER) + prefix
    assert group.rollouts[0].ids == (*encoded(policy, "3 + 3"), EOS)  # what the policy wrote now
    assert all(group.rollouts[0].sampled)


def test_end_tokens_and_specials_are_not_in_the_text(policy: Policy) -> None:
    found = collector(policy, ["a<|im_end|>"], lambda problem, text: 0.0)
    (group,) = found.collect([Start(PROBLEM)], 1, SAMPLING, seed=0)
    assert group.rollouts[0].ids == (*encoded(policy, "a"), IM_END, EOS)
    assert group.rollouts[0].text == "a"


def test_two_problems_of_one_id_keep_their_own_prompts(policy: Policy) -> None:
    """Ids are unique in a split; two splits may number their problems alike."""
    found = collector(policy, ["4"], lambda problem, text: 0.0)
    same_id = Problem("p", "7+7=", "14")
    opened = Problem("p", "2+2=", "4", prefill="Well, ")
    ids = [found.prompt_ids(problem) for problem in (PROBLEM, same_id, opened)]
    assert ids == [(1, *encoded(policy, text)) for text in ("2+2=", "7+7=", "2+2=Well, ")]
    assert found.prompt_ids(PROBLEM) is ids[0]


def test_messages_go_through_the_template_with_its_variables(policy: Policy) -> None:
    problem = Problem("m", (Message("user", "2+2?"),), "4")
    found = collector(policy, ["4"], lambda problem, text: 0.0, chat_template_kwargs={"thinking": False})
    text = policy.tokenizer.decode(found.prompt_ids(problem))
    assert text == "<|im_start|>user\n2+2?<|im_end|>\n<|im_start|>assistant\n[no thinking]"


def test_a_problem_that_does_not_fit_is_refused_before_anything_is_sampled(policy: Policy) -> None:
    found = collector(policy, ["4"], lambda problem, text: 0.0)
    found.check_fits([PROBLEM], 512 - 5)  # <bos> and four characters
    with pytest.raises(UserError, match=r"problem 'p' does not fit: 5 prompt tokens \+ 508 new tokens exceed .* 512"):
        found.check_fits([PROBLEM], 512 - 4)


def test_times_add_up_until_they_are_taken(policy: Policy) -> None:
    found = collector(policy, ["4"], lambda problem, text: time.sleep(0.01) or 0.0)
    for _ in range(2):
        found.collect([Start(PROBLEM)], 2, SAMPLING, seed=0)
    times = found.take_times()
    assert times["reward"] >= 0.04
    assert 0 < times["rollout"] < times["reward"]
    assert found.take_times() == {"rollout": 0.0, "reward": 0.0}


def test_the_real_engine_samples_the_same_groups_again(policy: Policy) -> None:
    task = InMemoryTask([{"prompt": "2+2=", "answer": 4}], reward_fn=lambda problem, text: float(len(text)))
    found = Collector(HFEngine(policy), policy, task)
    one, again, other = (found.collect([Start(PROBLEM), Start(OTHER)], 3, SAMPLING, seed) for seed in (1, 1, 2))
    assert one == again
    assert one != other
    assert len({r.ids for group in one for r in group.rollouts}) == 6
