"""Keys and configurations as trackers get them."""

from __future__ import annotations

from mlflow.utils.validation import _validate_metric_name

from tessera.tracking.rows import configuration, flat, numbers, safe


def test_the_kind_tells_apart_what_rows_call_by_one_name() -> None:
    step = {"kind": "rl", "step": 3, "stage": "rl", "accuracy": 0.5, "truncation_rate": 0}
    seen = {"kind": "eval", "step": 3, "label": "final", "split": "test", "truncation_rate": 1.0}
    assert numbers(step) == {"rl/accuracy": 0.5, "rl/truncation_rate": 0}
    assert numbers(seen) == {"eval/test/truncation_rate": 1.0}


def test_a_key_that_no_tracker_forbids_stays_as_it_is() -> None:
    for key in ("rl/reward/mean", "rl/part/two digits/accuracy", "rl/reward/a-b_c.d"):
        assert safe(key) == key


def test_other_characters_are_told_by_their_code_and_stay_different() -> None:
    keys = ["part/gym:x", "part/gym+x", "part/gym*x", "reward/é", "a//b", "../a", "./a"]
    assert [safe(key) for key in keys] == [
        "part/gym_3a_x", "part/gym_2b_x", "part/gym_2a_x", "reward/_e9_", "a/_/b", "_/a", "_/a",
    ]  # fmt: skip
    for key in keys:
        _validate_metric_name(safe(key))  # MLflow's own rule; raises where it is broken


def test_paths_of_a_configuration_are_those_of_overrides() -> None:
    recipe = {"seed": 1, "task": {}, "stages": [{"name": "sft", "steps": 2}, {"name": "rl", "optimizer": {"lr": 0.5}}]}
    assert flat(configuration(recipe)) == {
        "seed": "1",
        "task": "{}",
        "stages.sft.name": "sft",
        "stages.sft.steps": "2",
        "stages.rl.name": "rl",
        "stages.rl.optimizer.lr": "0.5",
    }


def test_lists_are_json() -> None:
    assert flat({"betas": [0.9, 0.999], "stop": [], "name": None, "on": True}) == {
        "betas": "[0.9, 0.999]", "stop": "[]", "name": "null", "on": "true",
    }  # fmt: skip
