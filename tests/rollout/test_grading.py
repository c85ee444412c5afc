"""Rows are graded as they end, beside the sampling of the others, and come back in their order."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from scripted import Echo, Scripted
from tessera.core.types import Group, Problem
from tessera.environments.settings import EnvironmentSettings, PythonSettings, ToolSettings
from tessera.policy.load import Policy
from tessera.rollout.collect import Collector, Start
from tessera.rollout.engine import Request, Sampling
from tessera.rollout.episodes import Tooled
from tessera.rollout.hf import HFEngine
from tessera.rollout.refill import Refill
from tessera.tasks.in_memory import InMemoryTask
from tiny import tiny_policy

PROBLEMS = [Problem("a", "2+2=", "4"), Problem("b", "What is 3+4?", "7")]
SAMPLING = Sampling(max_new_tokens=24, temperature=0.8)


@pytest.fixture(scope="module")
def policy() -> Policy:
    return replace(tiny_policy(), eos_ids=frozenset(range(6, 17)))  # many ends, so that rows end at all times


def collect(policy: Policy, reward: Callable[[Problem, str], Any], graders: int) -> list[Group]:
    task = InMemoryTask([{"prompt": "x"}], reward_fn=reward)
    collector = Collector(HFEngine(policy), policy, task, graders=graders)
    return collector.collect([Start(problem) for problem in PROBLEMS], 8, SAMPLING, seed=5)


def slow(problem: Problem, text: str) -> float:
    time.sleep(len(text) % 3 / 100)  # what is sampled first is not graded first
    if "7" in text:
        raise ValueError("it has a 7")
    return float(len(text))


def test_groups_are_those_of_grading_afterwards_in_whatever_order_rows_end(policy: Policy) -> None:
    afterwards = collect(policy, slow, 0)
    lengths = [len(r.ids) for group in afterwards for r in group.rollouts]
    assert len(set(lengths)) > 5
    assert lengths != sorted(lengths)
    failed = [r.error for group in afterwards for r in group.rollouts if r.error]
    assert 0 < len(failed) < 16  # and they leave their siblings as they are
    for graders in (1, 4):
        assert collect(policy, slow, graders) == afterwards


def test_grading_does_not_wait_for_the_longest_row(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    graded, grow, grown = threading.Event(), Refill._grow, []

    def waiting(self: Refill, token_B: Any) -> Any:
        grown.append(len(token_B))
        if grown[-1] < grown[0]:  # a row has ended, the others go on
            assert graded.wait(60)
        return grow(self, token_B)

    monkeypatch.setattr(Refill, "_grow", waiting)
    groups = collect(policy, lambda problem, text: graded.set() or 1.0, 2)
    assert all(reward == 1.0 for group in groups for reward in group.rewards)


def test_an_episode_is_graded_when_it_is_over_and_tools_work_on_others() -> None:
    policy, graded = tiny_policy(), threading.Event()

    def script(request: Request, text: str) -> str:
        return "4" if "2+2" in text or "<information>" in text else "<echo>x</echo>"

    def reward(problem: Problem, text: str) -> float:
        graded.set()
        return float("4" in text)

    asked = EnvironmentSettings(tools=ToolSettings(python=PythonSettings()), seconds=60, introduce=False)
    echo = Echo(does=lambda text: "in time" if graded.wait(20) else "too late")  # it waits for the other's grade
    task = InMemoryTask([{"prompt": "x"}], reward_fn=reward)
    collector = Collector(Scripted(policy, script), policy, task, tooled=Tooled(policy, asked, [echo]), graders=1)
    one, other = collector.collect([Start(problem) for problem in PROBLEMS], 1, Sampling(max_new_tokens=60), seed=1)
    assert one.rewards == other.rewards == (1.0,)
    tokenizer: Any = policy.tokenizer
    assert "in time" in tokenizer.decode(list(other.rollouts[0].ids))


def test_rewards_are_graded_side_by_side(policy: Policy) -> None:
    together = threading.Barrier(3, timeout=60)  # three have to be inside at once

    def reward(problem: Problem, text: str) -> float:
        place = next(order)
        if place < 3:
            together.wait()
        return 1.0

    order = iter(range(16))
    groups = collect(policy, reward, 3)
    assert [group.rewards for group in groups] == [(1.0,) * 8] * 2
