from __future__ import annotations

import json
import random
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import pytest

from tessera.core.errors import UserError
from tessera.core.types import Problem
from tessera.tasks.base import SPLITS, LoadedTask
from tessera.tasks.data import Row
from tessera.tasks.options import read_options
from tessera.tasks.puzzles import PuzzleTask, whole_numbers


class Letters(PuzzleTask):
    """A letter of 26; every other draw comes to nothing, and capitals are no other letter."""

    def draw(self, source: random.Random) -> Mapping[str, Any] | None:
        letter = source.choice("abcdefghijklmnopqrstuvwxyz")
        return {"letter": source.choice([letter, letter.upper()])} if source.random() < 0.5 else None

    def identity(self, values: Mapping[str, Any]) -> Hashable:
        return str(values["letter"]).lower()

    def problem(self, row: Row) -> Problem:
        return Problem(row.column("id"), str(row.column("letter")), row.column("letter"))

    def reward(self, problem: Problem, text: str) -> float:
        return float(text == problem.answer)


def letters(**options: Any) -> LoadedTask:
    return LoadedTask.load("letters", read_options(Letters, options, "task letters"))


def drawn(task: LoadedTask) -> dict[str, list[str]]:
    return {split: [p.answer for p in task.problems(split)] for split in SPLITS}


SIZES = {"train_size": 10, "validation_size": 6, "test_size": 4}


def test_splits_have_their_sizes_and_share_no_puzzle() -> None:
    found = drawn(letters(**SIZES))
    assert [len(found[split]) for split in SPLITS] == [10, 6, 4]
    assert len({letter.lower() for split in SPLITS for letter in found[split]}) == 20
    assert letters(**SIZES).train[3].id == "train-3"


def test_a_seed_draws_the_same_and_a_larger_train_split_leaves_the_others() -> None:
    small, again, large = (drawn(letters(**SIZES, seed=5)), drawn(letters(**SIZES, seed=5)),
                           drawn(letters(**{**SIZES, "train_size": 16}, seed=5)))  # fmt: skip
    assert small == again != drawn(letters(**SIZES, seed=6))
    assert (large["test"], large["validation"], large["train"][:10]) == tuple(
        small[s] for s in ("test", "validation", "train")
    )


def test_every_puzzle_can_be_drawn_and_no_more() -> None:
    found = drawn(letters(train_size=26, validation_size=0, test_size=0))
    assert len({letter.lower() for letter in found["train"]}) == 26
    with pytest.raises(UserError, match="27 different puzzles are asked for, and no more than 26 were found"):
        letters(train_size=27, validation_size=0, test_size=0)


def write(path: Path, text: str) -> str:
    path.write_text("".join(json.dumps({"letter": letter}) + "\n" for letter in text))
    return str(path)


def test_files_take_the_place_of_draws(tmp_path: Path) -> None:
    train, test = write(tmp_path / "train.jsonl", "abcdef"), write(tmp_path / "test.jsonl", "xyz")
    assert drawn(letters(train=train)) == {"train": [*"abcdef"], "validation": [], "test": []}
    held_out = letters(train=train, test=test, validation_size=2)
    assert drawn(held_out) == {"train": [*"abcd"], "validation": [*"ef"], "test": [*"xyz"]}
    assert held_out.test[0].id == "test-0"  # the rows have no id
    by_file = letters(train=train, validation=test)
    assert drawn(by_file) == {"train": [*"abcdef"], "validation": [*"xyz"], "test": []}


def test_columns_are_renamed(tmp_path: Path) -> None:
    train = write(tmp_path / "train.jsonl", "ab")
    Path(train).write_text(Path(train).read_text().replace("letter", "character"))
    assert drawn(letters(train=train, columns={"letter": "character"}))["train"] == ["a", "b"]
    task = Letters(columns={"letter": "character"}, train=train)
    assert task.problem_of(Row("here", {"id": "x", "character": "c"})).answer == "c"


def test_a_test_split_needs_no_other(tmp_path: Path) -> None:
    """So that it can be evaluated on; training needs train problems."""
    path = write(tmp_path / "x.jsonl", "abc")
    task = Letters(test=path)
    assert [[p.answer for p in task.problems(split)] for split in SPLITS] == [[], [], ["a", "b", "c"]]
    with pytest.raises(UserError, match="task letters has no train problems"):
        letters(test=path)


def test_what_does_not_go_together(tmp_path: Path) -> None:
    path = write(tmp_path / "x.jsonl", "abc")
    for option in ("train_size", "test_size", "seed"):
        with pytest.raises(UserError, match=f"{option}: for puzzles that are drawn, and train says where to read them"):
            letters(train=path, **{option: 3})
    with pytest.raises(UserError, match="give either validation"):
        letters(train=path, validation=path, validation_size=1)


@pytest.mark.parametrize("value", ["12", 12, [1, "2"], [1.0], [True], None])
def test_a_list_of_whole_numbers(value: Any) -> None:
    assert whole_numbers(Row("here", {"nums": [3, 4]}), "nums") == (3, 4)
    with pytest.raises(UserError, match=r"here: nums = .* must be a list of whole numbers"):
        whole_numbers(Row("here", {"nums": value}), "nums")
