"""Rejection sampling: which completions are written, and which of them are chosen."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tessera.core.errors import RunStopped
from tessera.core.types import FinishReason, Group, Message, Problem, Rollout
from tessera.training.harvest import choose, traces
from tessera.training.settings import HarvestSettings

PROMPT = (1, 10, 11)


def rollout(
    ids: tuple[int, ...], reward: float | None, finish: FinishReason = "stop", text: str = "t", **more: Any
) -> Rollout:
    return Rollout(PROMPT, ids, (True,) * len(ids), (0.0,) * len(ids), finish, text, reward, **more)


def group(*rollouts: Rollout, prefix: tuple[int, ...] = (), problem: Problem | None = None) -> Group:
    return Group(problem or Problem("p", "ask", 1), PROMPT + prefix, rollouts)


def test_completions_of_enough_reward_are_written_with_their_ids() -> None:
    """0.5 and 0.9 of five: 0.4 is too little, and what failed has no reward."""
    given = group(
        rollout((5, 2), 0.5), rollout((6, 2), 0.4), rollout((7,), 0.9, "length"), rollout((8,), None, error="x")
    )
    found = list(traces(given, [HarvestSettings(threshold=0.5)], 3))
    assert [(t["ids"], t["reward"], t["finish_reason"]) for t in found] == [([5, 2], 0.5, "stop"), ([7], 0.9, "length")]
    assert found[0]["prompt"] == "ask"


def test_one_that_any_stage_wants_is_written_once() -> None:
    wanted = [HarvestSettings(threshold=0.8), HarvestSettings(threshold=0.1)]
    assert [t["reward"] for t in traces(group(rollout((5,), 0.9), rollout((6,), 0.2)), wanted, 3)] == [0.9, 0.2]


def test_without_a_threshold_what_solved_the_problem_counts() -> None:
    given = group(rollout((5,), 0.3, correct=True), rollout((6,), 0.9, correct=False))
    assert [t["ids"] for t in traces(given, [HarvestSettings()], 3)] == [[5]]
    assert [t["ids"] for t in traces(given, [HarvestSettings()], 3, success=0.8)] == [[6]]


def test_a_penalty_on_length_is_no_part_of_the_reward() -> None:
    given = group(rollout((5,), 0.2, unshaped=1.0))
    assert [t["reward"] for t in traces(given, [HarvestSettings(threshold=1)], 3)] == [1.0]


def test_a_replay_is_learnt_from_its_problems_prompt_on() -> None:
    (found,) = traces(group(rollout((5, 2), 1.0), prefix=(20, 21)), [HarvestSettings(threshold=1)], 3)
    assert (found["ids"], found["sampled"]) == ([20, 21, 5, 2], [True] * 4)


def test_what_tools_wrote_is_told_apart() -> None:
    played = replace(rollout((5, 30, 2), 1.0), sampled=(True, False, True))
    episode = replace(group(played, prefix=(20, 21)), prefix_sampled=(True, False))
    (found,) = traces(episode, [HarvestSettings(threshold=1)], 3)
    assert found["sampled"] == [True, False, True, False, True]


def test_prompt_and_completion_are_a_row_of_data() -> None:
    chat = Problem("p", (Message("user", "ask"),), 1, prefill="Well, ")
    (found,) = traces(group(rollout((5,), 1.0, text="Well, 4"), problem=chat), [HarvestSettings(threshold=1)], 3)
    turns = [{"role": "user", "content": "ask"}, {"role": "assistant", "content": "Well, "}]
    assert (found["prompt"], found["completion"]) == (turns, "4")
    plain = Problem("p", "ask ", 1, prefill="Well, ")
    (found,) = traces(group(rollout((5,), 1.0, text="Well, 4"), problem=plain), [HarvestSettings(threshold=1)], 3)
    assert (found["prompt"], found["completion"]) == ("ask Well, ", "4")


def trace(problem: str, text: str, length: int, reward: float = 1.0, **more: Any) -> dict[str, Any]:
    told = {"stage": "one", "solved": reward == 1.0, "finish_reason": "stop", **more}
    return {"problem_id": problem, "completion": text, "ids": [9] * length, "reward": reward, **told}


ROWS = [
    trace("p", "long", 9),
    trace("q", "x", 4),
    trace("p", "short", 3),
    trace("p", "long", 2),  # the same text, in other tokens
    trace("p", "middle", 5),
    trace("p", "wrong", 1, 0.9),
    trace("p", "cut", 1, finish_reason="length"),
    trace("p", "of another stage", 1, stage="two"),
]


def chosen(**settings: Any) -> list[tuple[str, str, int]]:
    harvest = choose(ROWS, HarvestSettings(stage="one", **settings), seed=3)
    return [(t["problem_id"], t["completion"], len(t["ids"])) for t in harvest.traces]


def test_distinct_texts_are_chosen_by_problem() -> None:
    assert chosen(most=2) == [("p", "short", 3), ("p", "middle", 5), ("q", "x", 4)]
    assert chosen(most=2, pick="first") == [("p", "long", 9), ("p", "short", 3), ("q", "x", 4)]
    assert chosen(most=9, pick="first") == [("p", "long", 9), ("p", "short", 3), ("p", "middle", 5), ("q", "x", 4)]
    assert chosen(threshold=0.9, most=1) == [("p", "wrong", 1), ("q", "x", 4)]


def test_a_random_choice_follows_from_the_seed() -> None:
    """Over seeds, each of three texts is chosen about a third of the time."""
    settings = HarvestSettings(stage="one", most=1, pick="random")
    texts = [choose(ROWS, settings, seed).traces[0]["completion"] for seed in range(300)]
    assert texts == [choose(ROWS, settings, seed).traces[0]["completion"] for seed in range(300)]
    assert all(70 < texts.count(text) < 130 for text in ("long", "short", "middle"))


def test_the_record_counts_what_there_was() -> None:
    """Of stage one five traces of 1.0 ended by themselves and one was cut; two of p are the same text."""
    harvest = choose(ROWS, HarvestSettings(stage="one", most=2), seed=0)
    record = harvest.record("one")
    assert record == {
        "stage": "one", "good": 6, "cut": 1, "distinct": 4, "problems": 2, "kept": 3, "sha256": harvest.sha256,
    }  # fmt: skip
    other = choose(ROWS, HarvestSettings(stage="one", most=1), seed=0)
    assert other.sha256 != harvest.sha256


def test_nothing_left_is_an_error_that_says_what_there_was() -> None:
    with pytest.raises(RunStopped, match=r"from stage one: 1 completions earned 1, and 1 of them were cut"):
        choose([trace("p", "cut", 1, finish_reason="length")], HarvestSettings(stage="one", threshold=1), seed=0)
