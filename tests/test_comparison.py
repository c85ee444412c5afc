"""Two folders of evaluations, side by side."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from tessera.comparison import compare
from tessera.core.errors import UserError
from tessera.reports.evaluations import EvaluationFolder

Solved = Mapping[str, str]
"""By problem, an attempt a character: 1 where it solved it."""


def evaluation(path: Path, finished: bool = True, text: str = "", **sets: Solved) -> Path:
    with EvaluationFolder.start(path, {"model": str(path)}) as folder:
        for part, problems in sets.items():
            for problem, attempts in problems.items():
                about = {"part": part, "problem_id": problem, "question": text + problem}
                folder.keep([{**about, "solved": attempt == "1"} for attempt in attempts])
        if finished:
            folder.finish({}, "")
    return path


def test_one_attempt_a_question(tmp_path: Path) -> None:
    a = evaluation(tmp_path / "a", sums=dict(zip("abcdefgh", "10000010", strict=True)))
    b = evaluation(tmp_path / "b", sums=dict(zip("hgfedcba", "01111110", strict=True)))  # in another order
    (found,) = compare(a, b)["parts"]
    # a b c d e f g h: 1 0 0 0 0 0 1 0 against 0 1 1 1 1 1 1 0: only the first 1 (a), only the second 5 (b to f)
    assert found["mcnemar"] == {"only_first": 1, "only_second": 5, "p": 14 / 64}
    assert (found["first"], found["second"], found["difference"]) == (0.25, 0.75, 0.5)
    assert found["ci"][0] <= 0.5 <= found["ci"][1]
    assert 0.05 < found["p_bootstrap"] < 0.3
    assert (found["n"], found["only_in_first"], found["only_in_second"]) == (8, 0, 0)


def test_several_attempts_a_question_have_no_test_of_mcnemar(tmp_path: Path) -> None:
    a = evaluation(tmp_path / "a", sums={"a": "1000", "b": "1100"})
    b = evaluation(tmp_path / "b", sums={"a": "1", "b": "1"})
    (found,) = compare(a, b)["parts"]
    assert (found["first"], found["second"], found["mcnemar"]) == (0.375, 1.0, None)


def test_only_the_common_questions_are_compared(tmp_path: Path) -> None:
    a = evaluation(tmp_path / "a", sums={"a": "1", "b": "0"}, words={"w": "1"})
    b = evaluation(tmp_path / "b", sums={"b": "1", "c": "0", "d": "0"}, logic={"l": "1"})
    found = compare(a, b)
    (part,) = found["parts"]
    assert (part["n"], part["first"], part["second"]) == (1, 0.0, 1.0)
    assert (part["only_in_first"], part["only_in_second"]) == (1, 2)
    assert found["left_out"] == ["words", "logic"]


def test_other_questions_under_the_same_ids_are_refused(tmp_path: Path) -> None:
    a = evaluation(tmp_path / "a", sums={"a": "1"})
    b = evaluation(tmp_path / "b", text="other ", sums={"a": "1"})
    with pytest.raises(UserError, match=r"no question in common: sums \(1 questions\), and sums \(1 questions\)"):
        compare(a, b)


def test_what_is_no_finished_evaluation_is_refused(tmp_path: Path) -> None:
    a = evaluation(tmp_path / "a", sums={"a": "1"})
    b = evaluation(tmp_path / "b", finished=False, sums={"a": "1"})
    with pytest.raises(UserError, match=r"the evaluation in .*b is not finished"):
        compare(a, b)
    with pytest.raises(UserError, match=r"is no folder of an evaluation: it has no settings\.json"):
        compare(a, tmp_path)
