"""From rows to numbers, by hand."""

from __future__ import annotations

from typing import Any

import pytest

from tessera.evaluation.estimators import wilson_interval
from tessera.evaluation.scores import finished, score


def row(problem: str, solved: bool, **more: Any) -> dict[str, Any]:
    return {"problem_id": problem, "solved": solved, "error": None, "finish_reason": "stop", "tokens": 4, **more}


def test_one_attempt_a_question_is_pass_at_1() -> None:
    rows = [
        row("a", True),
        row("b", False, finish_reason="length", tokens=8),
        row("c", False, error="it broke"),
        row("d", True),
    ]
    found = score(rows, 1)
    assert found["metrics"] == {"pass@1": {"value": 0.5, "ci": list(wilson_interval(2, 4)), "interval": "wilson"}}
    assert (found["value"], found["ci"], found["n"]) == (0.5, list(wilson_interval(2, 4)), 4)
    assert (found["failed"], found["truncation_rate"], found["completion_length"]) == (1, 0.25, 5.0)
    assert "by" not in found


def test_several_attempts_are_averaged_over_questions() -> None:
    # a: 1 of 4 right, answers 7 8 8 8; b: 3 of 4, answers 5 5 5 6
    rows = [row("a", i == 0, answer=answer) for i, answer in enumerate("7888")]
    rows += [row("b", i < 3, answer=answer) for i, answer in enumerate("5556")]
    found = score(rows, 4)
    values = {name: metric["value"] for name, metric in found["metrics"].items()}
    # avg (1/4 + 3/4)/2; pass@2 (1/2 + 1)/2: of six pairs three hold the one right, and no pair is without two wrong
    assert values == {"avg@4": 0.5, "pass@2": 0.75, "pass@4": 1.0, "maj@4": 0.5}
    assert (found["value"], found["n"], found["completions"]) == (0.5, 2, 8)
    assert found["metrics"]["avg@4"]["ci"] == [0.25, 0.75]  # the bootstrap of two questions
    assert {metric["interval"] for metric in found["metrics"].values()} == {"bootstrap"}


def test_without_answers_nobody_votes() -> None:
    assert list(score([row("a", True), row("a", False)], 2)["metrics"]) == ["avg@2", "pass@2"]


def test_groups_are_scored_apart() -> None:
    rows = [row("b", False, by="3"), row("a", True, by="2"), row("c", True, by="3")]
    found = score(rows, 1)
    assert [(group, part["value"], part["n"]) for group, part in found["by"].items()] == [("2", 1.0, 1), ("3", 0.5, 2)]
    assert found["value"] == pytest.approx(2 / 3)


def test_what_tools_did_is_counted() -> None:
    good, late, none = ({"failure": f, "empty": e} for f, e in ((None, False), ("timeout", False), (None, True)))
    told = [[{"calls": [good, late]}, {"calls": [none]}], [{"calls": [late]}], [], []]
    rows = [row(name, True, turns=turns) for name, turns in zip("abcd", told, strict=True)]
    # two of four call; 2 + 1 turns over four completions; four calls
    assert score(rows, 1)["tools"] == {"users": 0.5, "turns": 0.75, "calls": 4, "failed": {"timeout": 2}, "empty": 1}
    assert "tools" not in score([row("a", True)], 1)


def test_a_question_is_finished_with_all_its_attempts() -> None:
    assert finished([row("a", True), row("a", True), row("b", True)], 2) == {"a"}
