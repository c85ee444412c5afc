"""Tasks in one: every problem once, each under its part's name and graded by its own task."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tessera.core.errors import UserError
from tessera.core.types import Problem
from tessera.rollout.boundary import read_answer
from tessera.tasks.base import SPLITS, grade_text, owner
from tessera.tasks.mixture import Mixture, part_of
from tessera.tasks.registry import grade, load_task
from tessera.tasks.validate import corrupted_text, gold_text, validate_task


def sums(operation: str = "addition", **options: Any) -> dict[str, Any]:
    sizes = {"train_size": 6, "validation_size": 2, "test_size": 3}
    return {"name": "arithmetic", "operation": operation, "digits": 1, **sizes, **options}


TIMES = {"name": "multiplication", "digits": 1, "train_size": 3, "validation_size": 2, "test_size": 3}
TWO: list[dict[str, Any]] = [{"task": sums(), "name": "add"}, {"task": TIMES, "weight": 2}]

OWN = '''
from tessera.core.types import Problem


class Shout:
    """A graded reward, with full marks of 3, that knows its problems by id."""

    full_marks = 3.0

    def problems(self, split):
        return [Problem(f"{split}/{n}", f"{split} {n}!", None) for n in range(2)]

    def reward(self, problem, text):
        assert problem.id.split("/")[0] in ("train", "validation", "test")
        return {"loud": 2.0 * text.isupper(), "there": 1.0 * (text != "")}

    def correct(self, problem, text):
        return text.isupper()

    def answer_of(self, problem, text):
        return problem.id + text[-1]

    def gold(self, problem):
        return "YES"

    def corrupted(self, problem):
        return "no"
'''


def mixture(*parts: Any) -> dict[str, Any]:
    return {"name": "mixture", "parts": list(parts)}


def test_a_split_holds_every_problem_under_the_name_of_its_part() -> None:
    loaded = load_task(mixture(*TWO))
    alone = {"add": load_task(sums()), "multiplication": load_task(TIMES)}
    for split in SPLITS:
        expected = {f"{name}/{p.id}": p for name, task in alone.items() for p in task.problems(split)}
        found = {p.id: p for p in loaded.problems(split)}
        assert set(found) == set(expected)
        assert all(found[i].prompt == p.prompt and found[i].prefill == p.prefill for i, p in expected.items())
        assert all(owner(loaded.task, found[i])[1] == p for i, p in expected.items())
    assert loaded.part_weights == {"add": 1.0, "multiplication": 2.0}


@given(st.lists(st.integers(1, 12), min_size=2, max_size=4), st.integers(0, 40))
def test_the_first_problems_are_a_fair_choice_of_the_parts(sizes: list[int], first: int) -> None:
    parts = [{"task": sums(train_size=n, seed=i), "name": f"p{i}"} for i, n in enumerate(sizes)]
    problems = Mixture.model_validate({"parts": parts}).problems("train")[:first]
    taken = len(problems)
    for i, n in enumerate(sizes):
        count = sum(part_of(p) == f"p{i}" for p in problems)
        assert abs(count - taken * n / sum(sizes)) <= len(sizes) / 2


def test_each_problem_is_graded_by_its_own_task(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(OWN)
    loaded = load_task(mixture({"task": sums(), "name": "add"}, {"task": "own.py:Shout"}), tmp_path)
    by_part = {part_of(p): p for p in loaded.train}
    assert set(by_part) == {"add", "Shout"}
    found = grade_text(loaded.task, by_part["Shout"], "LOUD")
    assert (found.value, found.components, found.correct) == (3.0, {"loud": 2.0, "there": 1.0}, True)
    quiet = grade_text(loaded.task, by_part["Shout"], "quiet")
    assert (quiet.value, quiet.correct) == (1.0, False)  # 1 is full marks in the other part alone
    sum_ = by_part["add"]
    assert grade_text(loaded.task, sum_, f" {sum_.answer}").correct
    assert not grade_text(loaded.task, sum_, "LOUD").correct
    assert loaded.task.reward(sum_, str(sum_.answer)) == 1.0
    assert gold_text(loaded.task, by_part["Shout"]) == "YES"
    assert read_answer(loaded.task, by_part["Shout"], "LOUD") == (
        by_part["Shout"].id.removeprefix("Shout/") + "D",
        None,
    )
    assert corrupted_text(loaded.task, sum_) == str(sum_.answer + 1)
    assert validate_task(loaded, size=10_000).ok


def test_a_mixture_may_be_a_part() -> None:
    inner = mixture({"task": sums(), "name": "easy"}, {"task": sums(digits=2), "name": "hard"})
    loaded = load_task(mixture({"task": inner, "name": "add"}, {"task": sums("multiplication"), "name": "times"}))
    hard = next(p for p in loaded.train if p.id.startswith("add/hard/"))
    task, own = owner(loaded.task, hard)
    assert own.id == hard.id.removeprefix("add/hard/")
    assert task.reward(own, str(hard.answer)) == loaded.task.reward(hard, str(hard.answer)) == 1.0


def test_a_row_names_its_part() -> None:
    assert grade("mixture", {"part": "multiplication", "a": 4, "b": 6}, "24", parts=TWO).correct
    assert not grade("mixture", {"part": "add", "a": 4, "b": 6}, "24", parts=TWO).correct
    with pytest.raises(UserError, match=r"unknown part of the mixture 'ad' \(did you mean 'add'\?\)"):
        grade("mixture", {"part": "ad", "a": 4, "b": 6}, "24", parts=TWO)


def test_a_question_may_not_stand_in_two_splits_of_different_parts(tmp_path: Path) -> None:
    def file(name: str, question: str) -> str:
        (tmp_path / name).write_text(json.dumps({"prompt": question, "answer": 1}) + "\n")
        return str(tmp_path / name)

    def part(name: str, train: str, test: str) -> dict[str, Any]:
        files = {"train": file(name + "0", train), "test": file(name + "1", test)}
        return {"name": name, "task": {"name": "jsonl", "reward": "last_integer", **files}}

    assert len(load_task(mixture(part("a", "1?", "2?"), part("b", "1?", "3?"))).train) == 2
    with pytest.raises(UserError, match="train and test share 1 problems, such as 'a/train-0' and 'b/test-0'"):
        load_task(mixture(part("a", "1?", "2?"), part("b", "3?", "1?")))


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([], r"task mixture: parts = \[\]: Input should have more entries"),
        (TWO[:1], "task mixture: parts = .*Input should have more entries"),
        ([{"task": sums()}, {"task": sums("subtraction")}], "2 parts are called 'arithmetic': give them names of"),
        (
            [TWO[0], {"task": "multiplication", "weight": 0}],
            "task mixture: parts.1.weight = 0: Input should be greater",
        ),
        (
            [TWO[0], {"task": "multiplication", "weight": float("inf")}],
            "parts.1.weight = inf: Input should be a finite",
        ),
        ([TWO[0], {"task": "multiplication", "wieght": 2}], r"'parts.1.wieght' \(did you mean 'weight'\?\)"),
        ([TWO[0], {"task": "multiplication", "name": "a/b"}], "parts.1.name = 'a/b': String should match"),
        ([TWO[0], {"task": "multiplicaton"}], r"unknown task 'multiplicaton' \(did you mean 'multiplication'\?\)"),
        ([TWO[0], {"task": {"name": "arithmetic", "digit": 1}}], "unknown option of task arithmetic 'digit'"),
        ([TWO[0], {"task": {}}], "task.name = None must be one of"),
    ],
)
def test_parts_are_read_strictly(parts: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_task(mixture(*parts))


def test_a_mixture_takes_no_wording_of_its_own() -> None:
    with pytest.raises(UserError, match="unknown option of task mixture 'prompt'"):
        load_task({**mixture(*TWO), "prompt": {"style": "chat"}})


def test_a_problem_of_no_part_is_refused() -> None:
    with pytest.raises(UserError, match="unknown part of the mixture"):
        load_task(mixture(*TWO)).task.reward(Problem("x/1", "?", 1), "1")
