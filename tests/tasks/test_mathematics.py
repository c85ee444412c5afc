import json
from os import devnull
from pathlib import Path
from typing import Any

import pytest

from tessera.tasks.base import Reward
from tessera.tasks.data import Row
from tessera.tasks.mathematics import Mathematics
from tessera.tasks.options import read_options
from tessera.tasks.registry import grade, load_task
from tessera.tasks.validate import validate_task

pytest.importorskip("math_verify")

DATA = Path(__file__).parents[2].parent / "shared" / "data"

POINT = {
    "id": "p",
    "problem": "Where?",
    "answer": "\\left( 3, \\frac{\\pi}{2} \\right)",
    "solution": "There.",
    "level": 2,
}
RADIUS = {"id": "r", "problem": "How far?", "answer": "8.7e8", "answer_alt": ["8.7 \\times 10^{8}", "5"], "course": "8"}
SPEED = {"id": "s", "problem": "How fast?", "answer": "\\frac{600}{7}", "unit": "km/h", "multiple": False}
ROOTS = {"id": "t", "problem": "Roots?", "answer": "1,3,5", "unit": None, "multiple": True, "answer_type": "Numerical"}


@pytest.mark.parametrize(
    ("row", "completion", "right"),
    [
        (POINT, "So $\\boxed{(3,\\pi/2)}$.", True),
        (POINT, "\\boxed{(4,\\frac{\\pi}{2})}", False),
        (POINT, "\\boxed{(\\frac{\\pi}{2}, 3)}", False),  # a point is ordered
        (POINT, "\\boxed{(4,\\pi)} no, \\boxed{(3,\\frac{\\pi}{2})}", True),  # the last word counts
        (POINT, "\\boxed{(3,\\frac{\\pi}{2})} no, \\boxed{(4,\\pi)}", False),
        (POINT, "\\boxed{(3,\\frac{\\pi}{2})", False),  # cut short
        (POINT, "match by substring (3, \\frac{\\pi}{2})", False),
        (POINT, "", False),
        (RADIUS, "\\boxed{870000000}", True),
        (RADIUS, "\\boxed{5}", True),  # the second of the further references
        (RADIUS, "\\boxed{6}", False),
        (SPEED, "\\boxed{\\frac{600}{7}}", True),
        (SPEED, "\\boxed{\\frac{600}{7} \\text{ km/h}}", True),
        (SPEED, "\\boxed{\\frac{60}{7}}", False),
        (ROOTS, "\\boxed{5, 1, 3}", True),
        (ROOTS, "\\boxed{1, 3}", False),
        (ROOTS, "\\boxed{1}", False),
        ({"id": "a", "problem": "?", "answer": 204}, "\\boxed{204}", True),
        ({"id": "a", "problem": "?", "answer": "204"}, "\\boxed{204.5}", False),
    ],
)
def test_one_row_and_one_completion(row: dict[str, Any], completion: str, right: bool) -> None:
    assert grade("math", row, completion) == Reward(float(right), {}, right)


def test_answers_that_differ_in_spelling_alone_are_told_as_one() -> None:
    loaded: Any = read_options(Mathematics, {"train": devnull}, "task math")
    problem = loaded.problem_of(Row("here", POINT))
    texts = (
        "\\boxed{1} no, $\\boxed{\\dfrac{1}{2}}$",
        "\\boxed{0.5}",
        "\\boxed{ \\frac24 }",
        "\\boxed{x+1}",
        "\\boxed{10,\\!080}",
        "\\boxed{}",
        "it is 5",
        "\\boxed{5",
    )
    read = [loaded.answer_of(problem, text) for text in texts]
    assert read == ["1/2", "1/2", "1/2", "x+1", "10080", None, None, None]


def test_further_references_can_be_left_out() -> None:
    assert not grade("math", RADIUS, "\\boxed{5}", alternatives=False).correct
    assert grade("math", RADIUS, "\\boxed{870000000}", alternatives=False).correct


def test_a_layout_is_paid_apart() -> None:
    options: dict[str, Any] = {"wording": "think", "reward": {"math": 1.0, "format_think": 1.0}}
    text = "<think>one, three, five</think><answer>\\boxed{1,3,5}</answer>"
    assert grade("math", ROOTS, text, **options) == Reward(2.0, {"math": 1.0, "format_think": 1.0}, True)
    assert grade("math", ROOTS, text[7:], **options) == Reward(1.0, {"math": 1.0, "format_think": 0.0}, True)
    prefilled = {**options, "prompt": {"prefill": "<think>\n"}}
    assert grade("math", ROOTS, text[7:], **prefilled).value == 2.0


def test_golds_and_wrong_answers(tmp_path: Path) -> None:
    rows = [POINT, RADIUS, SPEED, ROOTS, {"id": "x", "problem": "Which?", "answer": "x - y"}]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    loaded = load_task({"name": "math", "train": str(tmp_path / "train.jsonl"), "validation_size": 0})
    task: Any = loaded.task
    assert [p.answer for p in loaded.train][:3] == [
        POINT["answer"],
        ("8.7e8", "8.7 \\times 10^{8}", "5"),
        ("\\frac{600}{7}", "\\frac{600}{7} km/h"),
    ]
    assert task.gold(loaded.train[0]) == f"There.\nThe answer is $\\boxed{{{POINT['answer']}}}$."
    assert "\\boxed{9.7e8}" in task.corrupted(loaded.train[1])
    assert "\\boxed{x - y + 1}" in task.corrupted(loaded.train[4])
    assert validate_task(loaded, size=100_000).ok


def test_a_wrong_answer_is_none_of_the_references() -> None:
    task: Any = read_options(Mathematics, {"train": devnull}, "task math")
    rows = [
        {**POINT, "answer": "1", "answer_alt": ["2", "3.0"]},  # up to 4, which none of them is
        {**POINT, "answer": "2", "answer_alt": [str(n) for n in range(10)]},
        {**POINT, "answer": "9", "answer_alt": []},
    ]
    wrong = [task.answer_of(None, task.corrupted(task.problem_of(Row("here", row)))) for row in rows]
    assert wrong == ["4", "10", "10"]


@pytest.mark.parametrize(
    ("answer", "inside"),
    [(r"$\boxed{a=170}$", "a=170"), (r"n=\boxed {1,3}", "1,3"), (r"\boxed{1", r"\boxed{1"), ("5", "5"), (5, "5")],
)
def test_a_box_of_the_reference_is_taken_off(answer: object, inside: str) -> None:
    task: Any = read_options(Mathematics, {"train": devnull}, "task math")
    assert task.problem_of(Row("here", {**POINT, "answer": answer})).answer == inside


@pytest.mark.parametrize("file", ["math500", "aime24", "minerva", "olympiadbench"])
def test_rows_of_the_public_sets(file: str) -> None:
    path = DATA / file / "test.jsonl"
    if not path.exists():
        pytest.skip(f"there is no {path}")
    loaded = load_task({"name": "math", "train": str(path), "validation_size": 0})
    report = validate_task(loaded, sample=20, size=100_000)
    assert report.ok, str(report)
