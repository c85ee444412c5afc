"""Replay: where a restart may begin, and what the buffer remembers."""

from __future__ import annotations

import json
import math
from collections import Counter

import pytest

from tessera.core.seeding import generator
from tessera.core.types import Group, Problem, Rollout
from tessera.rollout.collect import Start
from tessera.rollout.replay import ReplayBuffer

PROBLEMS = {name: Problem(name, f"{name}?", None) for name in "abc"}
LENGTHS = {"a": 3, "b": 2, "c": 4}  # tokens of each problem's own prompt


def group(name: str, rows: list[tuple[tuple[int, ...], float | None]], prefix: tuple[int, ...] = ()) -> Group:
    prompt = (*range(900, 900 + LENGTHS[name]), *prefix)
    rollouts = tuple(
        Rollout(prompt, ids, (True,) * len(ids), (0.0,) * len(ids), "stop", "", reward) for ids, reward in rows
    )
    return Group(PROBLEMS[name], prompt, rollouts)


def buffer(*groups: Group, capacity: int = 100, threshold: float = 1.0) -> ReplayBuffer:
    found = ReplayBuffer(capacity, threshold)
    found.add(groups, LENGTHS)
    return found


def draws(found: ReplayBuffer, outcome: str, n: int = 1) -> list[Start | None]:
    stream = generator(0, outcome)
    return [found.draw(outcome, PROBLEMS, stream) for _ in range(n)]


def test_success_is_a_reward_at_the_threshold_or_above() -> None:
    found = buffer(group("a", [((10,), 1.0), ((11, 12), 0.5)]), group("b", [((20,), 2.0), ((21, 22), 0.999)]))
    assert {start.problem.id for start in draws(found, "success", 50)} == {"a", "b"}
    assert {start.prefix_ids for start in draws(found, "success", 50)} == {()}  # both have one token
    failures = {(start.problem.id, start.prefix_ids) for start in draws(found, "failure", 100)}
    assert failures == {("a", ()), ("a", (11,)), ("b", ()), ("b", (21,))}


def test_cuts_are_uniform_from_before_the_first_token_to_before_the_last() -> None:
    ids = tuple(range(10, 15))
    n = 5000
    cuts = Counter(len(start.prefix_ids) for start in draws(buffer(group("a", [(ids, 1.0)])), "success", n))
    assert sorted(cuts) == [0, 1, 2, 3, 4]
    # Each cut is binomial: mean n/5 = 1000, deviation sqrt(n * 0.2 * 0.8) = 28.3; four deviations are no accident.
    assert all(abs(count - n / 5) < 4 * math.sqrt(n * 0.16) for count in cuts.values())


def test_completions_are_drawn_uniformly_whatever_their_length() -> None:
    found = buffer(group("a", [((10,), 1.0)]), group("b", [(tuple(range(50)), 1.0)]))
    n = 4000
    drawn = Counter(start.problem.id for start in draws(found, "success", n))
    assert abs(drawn["a"] - n / 2) < 4 * math.sqrt(n / 4)


def test_a_start_carries_the_first_tokens_of_its_completion() -> None:
    ids = (10, 11, 12, 13)
    for start in draws(buffer(group("c", [(ids, 0.0)])), "failure", 20):
        assert start.problem is PROBLEMS["c"]
        assert start.prefix_ids == ids[: len(start.prefix_ids)]


def test_a_replayed_completion_is_remembered_from_its_problems_own_prompt() -> None:
    found = buffer(group("a", [((12, 13), 1.0)], prefix=(10, 11)))
    assert found.state() == [{"problem_id": "a", "ids": (10, 11, 12, 13), "sampled": (True,) * 4, "solved": True}]


def test_nothing_of_that_outcome_is_none() -> None:
    assert draws(ReplayBuffer(4, 1.0), "success") == [None]
    won = buffer(group("a", [((10, 11), 1.0)]))
    assert draws(won, "failure") == [None]
    assert draws(won, "success")[0] is not None


def test_what_has_no_reward_or_no_token_is_not_drawn() -> None:
    found = buffer(group("a", [((10, 11), None), ((), 0.0)]))
    assert draws(found, "failure") == [None]
    assert [entry["ids"] for entry in found.state()] == [()]


def test_the_oldest_make_room() -> None:
    found = buffer(group("a", [((i,), 1.0) for i in range(6)]), capacity=4)
    assert len(found) == 4
    assert [entry["ids"] for entry in found.state()] == [(2,), (3,), (4,), (5,)]


def test_clearing_forgets() -> None:
    found = buffer(group("a", [((10,), 1.0)]))
    found.clear()
    assert (len(found), draws(found, "success")) == (0, [None])


@pytest.mark.parametrize("outcome", ["success", "failure"])
def test_a_restored_buffer_draws_the_same(outcome: str) -> None:
    found = buffer(group("a", [((10, 11, 12), 1.0), ((13, 14), 0.1)]), group("b", [((20, 21), 0.0), ((22,), 1.5)]))
    saved = json.loads(json.dumps(found.state()))
    other = buffer(group("c", [((1, 2), 1.0)]))  # what it held before is gone
    other.restore(saved)
    assert draws(other, outcome, 50) == draws(found, outcome, 50)
    assert other.state() == found.state()
    other.add([group("c", [((30,), 1.0)])], LENGTHS)
    assert len(other) == 5


def test_a_smaller_buffer_restores_the_newest() -> None:
    found = buffer(group("a", [((i,), 1.0) for i in range(6)]))
    other = ReplayBuffer(2, 1.0)
    other.restore(found.state())
    assert [entry["ids"] for entry in other.state()] == [(4,), (5,)]
