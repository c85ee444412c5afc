from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from tessera.core.errors import UserError
from tessera.core.types import Problem
from tessera.tasks.base import LoadedTask, Reward, Split, Task, full_marks, grade_text, read_reward


@dataclass
class Stub:
    splits: dict[str, Any] = field(default_factory=dict)

    def problems(self, split: Split) -> Sequence[Problem]:
        return self.splits.get(split, ())

    def reward(self, problem: Problem, text: str) -> float:
        return float(text == problem.answer)


def questions(*texts: str) -> list[Problem]:
    return [Problem(f"id {text}", text, "") for text in texts]


def test_a_loaded_task_holds_its_splits() -> None:
    task = Stub({"train": questions("a", "b"), "test": questions("c")})
    loaded = LoadedTask.load("stub", task)
    assert isinstance(task, Task)
    assert loaded.problems("train") == loaded.train == tuple(questions("a", "b"))
    assert (loaded.problems("validation"), loaded.problems("test")) == ((), tuple(questions("c")))
    with pytest.raises(UserError, match=r"unknown split 'tests' .did you mean 'test'"):
        loaded.problems("tests")


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        ({}, "task stub has no train problems"),
        ({"train": 3}, "problems.'train'. is a int, not a sequence of Problem"),
        ({"train": [{"id": 1}]}, r"problems\('train'\)\[0\] is a dict, not a Problem"),
        (
            {"train": [Problem("x", "a", 1), Problem("x", "b", 1), Problem("y", "c", 1)]},
            "1 ids occur more than once in train, such as 'x'",
        ),
        (
            # White space is folded: these ask the same thing.
            {"train": questions("a b", "c"), "test": questions("d", "a  b\n", "c")},
            "task stub: train and test share 2 problems, such as 'id a b' and 'id a  b\\\\n': 'a b'",
        ),
        (
            {"train": questions("a"), "validation": questions("b"), "test": questions("b")},
            "validation and test share 1 problems",
        ),
        ({"train": questions("a"), "validation": questions("a")}, "train and validation share 1 problems"),
    ],
)
def test_unsound_splits_are_refused(splits: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        LoadedTask.load("stub", Stub(splits))


def test_the_same_id_may_stand_in_two_splits() -> None:
    splits = {"train": [Problem("0", "a", 1)], "test": [Problem("0", "b", 1)]}
    assert LoadedTask.load("stub", Stub(splits)).test[0].id == "0"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0.5, (0.5, {})),
        (True, (1.0, {})),
        ({"answer": 1, "format": 0.25}, (1.25, {"answer": 1.0, "format": 0.25})),  # the sum
        ({"reward": 0.9, "format": 0.25}, (0.9, {"format": 0.25})),  # the named total
        ({"reward": 1}, (1.0, {})),
    ],
)
def test_rewards_are_numbers_or_named_components(value: Any, expected: tuple[float, dict[str, float]]) -> None:
    assert read_reward(value) == expected


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "the reward is None, a NoneType; it must be a number"),
        ("1.0", "the reward is '1.0', a str"),
        (float("nan"), "the reward is nan; it must be finite"),
        ({}, "empty mapping"),
        ({"format": float("inf")}, "the reward component 'format' is inf"),
        ({"format": None}, "the reward component 'format' is None"),
    ],
)
def test_other_rewards_are_refused(value: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_reward(value)


def test_right_is_full_marks_unless_the_task_judges_itself() -> None:
    problem = Problem("p", "2 + 2 =", "4")

    class Generous(Stub):
        full_marks = 2.0

        def reward(self, problem: Problem, text: str) -> Any:
            return {"answer": float(text == problem.answer), "format": 1.0}

    class Unsure(Stub):
        def reward(self, problem: Problem, text: str) -> float:
            return float("nan")

    class Judge(Generous):
        def correct(self, problem: Problem, text: str) -> bool:
            return "4" in text

    assert (full_marks(Stub()), full_marks(Generous())) == (1.0, 2.0)
    assert grade_text(Stub(), problem, "4") == Reward(1.0, {}, True)
    assert grade_text(Generous(), problem, "4") == Reward(2.0, {"answer": 1.0, "format": 1.0}, True)
    assert grade_text(Generous(), problem, "44") == Reward(1.0, {"answer": 0.0, "format": 1.0}, False)
    assert grade_text(Judge(), problem, "44") == Reward(1.0, {"answer": 0.0, "format": 1.0}, True)
    with pytest.raises(UserError, match="it must be finite"):
        grade_text(Unsure(), problem, "")


def test_a_reward_may_say_itself_what_is_right() -> None:
    class Says(Stub):
        def reward(self, problem: Problem, text: str) -> Any:
            return Reward(float(text), {"part": 0.5}, True)

    assert grade_text(Says(), Problem("p", "?", None), "0.25") == Reward(0.25, {"part": 0.5}, True)
    with pytest.raises(UserError, match="it must be finite"):
        grade_text(Says(), Problem("p", "?", None), "nan")
