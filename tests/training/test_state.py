"""What a run remembers survives JSON, and a stage takes its own part with it."""

from __future__ import annotations

import json

from tessera.training.state import RunState

FULL = RunState(
    step=7,
    stage=1,
    stage_step=3,
    seconds=1.5,
    stopped="enough",
    best={"value": 0.1 + 0.2, "step": 5},
    rewards=[0.1, 1 / 3],
    evaluated={"sft": [True, False], "base": [False, False]},
    files={"metrics.jsonl": 12, "completions.jsonl": 0},
)


def test_it_survives_json_with_its_order() -> None:
    again = RunState.from_json(json.loads(json.dumps(FULL.to_json())))
    assert again == FULL
    assert list(again.evaluated) == ["sft", "base"]


def test_what_was_given_away_does_not_change() -> None:
    state = RunState(rewards=[1.0], evaluated={"base": [True]})
    told = state.to_json()
    state.rewards.append(2.0)
    state.evaluated["base"].append(False)
    assert (told["rewards"], told["evaluated"]) == ([1.0], {"base": [True]})


def test_the_next_stage_starts_afresh() -> None:
    state = RunState.from_json(FULL.to_json())
    state.next_stage()
    assert state == RunState(step=7, stage=2, seconds=1.5, evaluated=FULL.evaluated, files=FULL.files)
