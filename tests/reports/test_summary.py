from __future__ import annotations

import pytest

from tessera.reports.summary import accuracies, mean, summarise, values


def test_tokens_are_summed_and_the_per_example_count_averaged(made) -> None:
    first = made.rl(1) | {"tokens/generated": 100, "tokens/contributing": 40, "tokens/scored": 50}
    second = made.rl(2) | {"tokens/generated": 300, "tokens/contributing": 20, "tokens/scored": 30}
    rows = [
        first | {"tokens/contributing_per_example": 10.0},
        second | {"tokens/contributing_per_example": 5.0, "seconds": 61.5},
        made.sft(3) | {"seconds": 3.0},
    ]
    told = summarise(rows, algorithm="s_grpo", model="nano", task="svamp", status="interrupted")
    # 100 + 300, 40 + 20, (10 + 5) / 2, 50 + 30
    assert told["tokens"] == {"generated": 400, "contributing": 60, "contributing_per_example": 7.5, "scored": 80}
    assert (told["steps"], told["seconds"]) == (3, 61.5)
    assert [told[key] for key in ("algorithm", "model", "task", "status")] == ["s_grpo", "nano", "svamp", "interrupted"]


def test_no_rows_and_no_rl_rows_have_a_summary_too(made) -> None:
    told = summarise([])
    assert (told["steps"], told["seconds"], told["accuracy"], told["gain"]) == (0, 0.0, {}, None)
    assert summarise([made.sft(1)])["tokens"]["contributing_per_example"] is None


def test_accuracy_is_that_of_the_test_split(made) -> None:
    warm, rl = (0, "sft"), (1, "rl")
    rows = [
        made.evaluation(0, "base", 0.25, warm),
        made.evaluation(0, "base", 0.9, warm, split="validation"),
        made.evaluation(10, "", 0.5, rl),
        made.evaluation(20, "final", 0.75, rl),
    ]
    told = summarise(rows)
    assert told["accuracy"] == {
        "base": {"value": 0.25, "ci": [0.2, 0.3], "n": 300},
        "final": {"value": 0.75, "ci": [pytest.approx(0.7), 0.8], "n": 300},
    }
    assert told["gain"] == {"from": "base", "to": "final", "difference": 0.5, "ci": None}


def test_without_a_test_split_it_is_that_of_validation(made) -> None:
    assert accuracies([made.evaluation(0, "base", 0.4, (0, "rl"), "validation")])["base"]["value"] == 0.4


def test_the_last_of_a_label_counts_and_comes_in_its_place(made) -> None:
    steps = [(0, "base", 0.1), (5, "again", 0.2), (9, "after", 0.3), (12, "again", 0.4)]
    found = accuracies([made.evaluation(step, label, value, (0, "rl")) for step, label, value in steps])
    assert [(label, row["value"]) for label, row in found.items()] == [("base", 0.1), ("after", 0.3), ("again", 0.4)]


def test_a_paired_gain_is_kept_as_it_was_given(made) -> None:
    gain = {"from": "base", "to": "final", "difference": 0.2, "ci": [0.1, 0.3]}
    assert summarise([], gain=gain)["gain"] == gain


def test_null_is_no_value(made) -> None:
    rows = [{"kl": None}, {"kl": 0.0}, {}, {"kl": 2.0}]
    assert values(rows, "kl") == [0.0, 2.0]
    assert (mean([0.0, 2.0]), mean([])) == (1.0, None)
    unscored = made.evaluation(0, "base", 0.5, (0, "rl")) | {"accuracy/value": None}
    assert accuracies([unscored]) == {}
