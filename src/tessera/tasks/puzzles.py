"""Puzzles that are drawn by a seed, or read from data: the options and the splitting that such tasks share."""

from __future__ import annotations

import random
from abc import abstractmethod
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar

from pydantic import Field, model_validator

from tessera.core.errors import UserError
from tessera.core.types import Problem
from tessera.tasks.base import BuiltinTask, Split
from tessera.tasks.data import Row, hold_out
from tessera.tasks.sources import Source, renamed

DEFAULT_SIZES: dict[Split, int] = {"train": 1000, "validation": 100, "test": 300}
DRAWS_IN_VAIN = 1000  # so many draws in a row that bring nothing new: there is no more


class PuzzleTask(BuiltinTask):
    """A task whose problems are drawn by a seed; with a source for a split, they come from files or data sets instead.

    The test split is drawn first, then validation, then train, so that a larger train split leaves the others as they
    were; no puzzle is drawn twice. Of data, the last `validation_size` rows of train are the validation split
    unless it has a source.
    """

    train: Source | None = Field(None, description="file or data set of the train split; null: puzzles are drawn")
    validation: Source | None = Field(None, description="of the validation split")
    test: Source | None = Field(None, description="of the test split")
    columns: dict[str, str] = Field({}, description="the task's column: the column of the data")
    train_size: int | None = Field(None, ge=1, description="puzzles that are drawn: 1000")
    validation_size: int | None = Field(None, ge=0, description="drawn: 100; of data: the last rows of train")
    test_size: int | None = Field(None, ge=0, description="puzzles that are drawn: 300")
    seed: int = Field(0, description="which puzzles are drawn")

    of_drawing: ClassVar[frozenset[str]] = frozenset({"train_size", "test_size", "seed"})
    """The options that mean nothing where the puzzles come from data; a task adds its own."""

    @model_validator(mode="after")
    def _drawn_or_read(self) -> PuzzleTask:
        if not self._drawn and (idle := sorted(self.of_drawing & self.model_fields_set)):
            read = "train" if self.train else "test" if self.test else "validation"
            raise ValueError(f"{', '.join(idle)}: for puzzles that are drawn, and {read} says where to read them")
        if self.validation is not None and self.validation_size is not None:
            raise ValueError("give either validation (a source) or validation_size (rows from the end of train)")
        return self

    @property
    def _drawn(self) -> bool:
        """With a source for any split all are data; one without a source is empty."""
        return self.train is None and self.validation is None and self.test is None

    @abstractmethod
    def problem(self, row: Row) -> Problem:
        """The problem that a row asks, in the task's own columns."""

    @abstractmethod
    def draw(self, source: random.Random) -> Mapping[str, Any] | None:
        """One puzzle in the columns of the files, or None where the draw came to nothing."""

    @abstractmethod
    def identity(self, values: Mapping[str, Any]) -> Hashable:
        """What two rows share that are the same puzzle in other words."""

    def problem_of(self, row: Row) -> Problem:
        """The problem that a row asks, in the columns of the data."""
        return self.problem(renamed(row, self.columns))

    def problems(self, split: Split) -> Sequence[Problem]:
        """The problems of `split`."""
        return self._splits[split]

    @cached_property
    def _splits(self) -> dict[Split, tuple[Problem, ...]]:
        rows = self._drawn_rows() if self._drawn else self._read_rows()
        return {split: tuple(self._named(f"{split}-{n}", row) for n, row in enumerate(rows[split])) for split in rows}

    def _named(self, name: str, row: Row) -> Problem:
        """The problem of `row`, called `name` unless the row has an id."""
        return self.problem(Row(row.where, {"id": name, **row.values}))

    def _drawn_rows(self) -> Mapping[Split, Sequence[Row]]:
        asked: dict[Split, int | None] = {
            "test": self.test_size,
            "validation": self.validation_size,
            "train": self.train_size,
        }
        sizes = {split: DEFAULT_SIZES[split] if size is None else size for split, size in asked.items()}
        return in_splits(different(self._draws(), self.identity, sum(sizes.values())), sizes)

    def _draws(self) -> Iterator[Mapping[str, Any] | None]:
        source = random.Random(f"puzzles, seed {self.seed}")
        while True:
            yield self.draw(source)

    def _read_rows(self) -> Mapping[Split, Sequence[Row]]:
        train, held_out, test = map(self._rows_of, (self.train, self.validation, self.test))
        if self.validation is None:
            train, held_out = hold_out(train, self.validation_size or 0, str(self.train))
        return {"train": train, "validation": held_out, "test": test}

    def _rows_of(self, source: Source | None) -> Sequence[Row]:
        return () if source is None else source.rows(self.columns)


def different(
    draws: Iterator[Mapping[str, Any] | None], identity: Callable[[Mapping[str, Any]], Hashable], count: int
) -> Iterator[Mapping[str, Any]]:
    """Those of `draws` that were not there before; the first of more are those of fewer.

    Raises UserError when DRAWS_IN_VAIN in a row brought nothing new.
    """
    known: set[Hashable] = set()
    in_vain = 0
    for values in draws:
        if values is not None and (found := identity(values)) not in known:
            known.add(found)
            in_vain = 0
            yield values
        elif (in_vain := in_vain + 1) == DRAWS_IN_VAIN:
            break
    raise UserError(
        f"{count} different puzzles are asked for, and no more than {len(known)} were found: ask for fewer "
        "(train_size, validation_size, test_size), or let the task's options leave more room"
    )


def in_splits(puzzles: Iterator[Mapping[str, Any]], sizes: Mapping[Split, int]) -> dict[Split, list[Row]]:
    """The next of `puzzles` for each split, in the order of `sizes`."""
    return {s: [Row(f"drawn {s} puzzle {n}", next(puzzles)) for n in range(size)] for s, size in sizes.items()}


def whole_numbers(row: Row, column: str) -> tuple[int, ...]:
    """The list of whole numbers in `column`; anything else is a UserError."""
    value = row.column(column)
    if not isinstance(value, Sequence) or isinstance(value, str) or not all(type(n) is int for n in value):
        raise UserError(f"{row.where}: {column} = {value!r:.60} must be a list of whole numbers")
    return tuple(value)
