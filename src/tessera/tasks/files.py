"""The options and the splitting that every task read from files or from the hub shares."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import ClassVar

from pydantic import Field, model_validator

from tessera.core.types import Problem
from tessera.tasks.base import BuiltinTask, RewardValue, Split
from tessera.tasks.data import Row, hold_out
from tessera.tasks.rewards import Grader, Weights, read_grader
from tessera.tasks.rows import RowFormat
from tessera.tasks.sources import Source, renamed


class FileTask(BuiltinTask):
    """A task whose splits are files (JSON Lines, Parquet) or data sets of the hub.

    Without a `validation` source the last `validation_size` rows of train are the validation split, and are not
    trained on.
    """

    train: Source = Field(description="file or data set of the train split")
    validation: Source | None = Field(None, description="of the validation split")
    validation_size: int | None = Field(
        None, ge=0, description="without a validation source: this many rows from the end of train"
    )
    test: Source | None = Field(None, description="of the test split")
    columns: dict[str, str] = Field({}, description="the task's column: the column of the data")

    default_validation_size: ClassVar[int] = 0
    ids_required: ClassVar[bool] = False

    @model_validator(mode="after")
    def _one_validation(self) -> FileTask:
        if self.validation is not None and self.validation_size is not None:
            raise ValueError("give either validation (a source) or validation_size (rows from the end of train)")
        return self

    @property
    @abstractmethod
    def grader(self) -> Grader:
        """The named rewards that grade this task."""

    @property
    def full_marks(self) -> float:
        """What a perfect text earns."""
        return self.grader.full_marks

    @property
    @abstractmethod
    def row_format(self) -> RowFormat:
        """How a row of the files becomes a problem."""

    def problems(self, split: Split) -> Sequence[Problem]:
        """The problems of `split`, in the order of the file; files are read once."""
        return self._test if split == "test" else self._learnt[split]

    def problem_of(self, row: Row) -> Problem:
        """The problem that one row asks, in the columns of the files."""
        return self.row_format.problem(renamed(row, self.columns))

    def reward(self, problem: Problem, text: str) -> RewardValue:
        """What `text` earns by the task's named rewards."""
        return self.grader(problem, text)

    @cached_property
    def _test(self) -> tuple[Problem, ...]:
        """Read by itself: an evaluation needs no train file."""
        return self._problems("test", () if self.test is None else self.test.rows(self.columns))

    @cached_property
    def _learnt(self) -> dict[Split, tuple[Problem, ...]]:
        train, validation = self._train_and_validation()
        return {"train": self._problems("train", train), "validation": self._problems("validation", validation)}

    def _problems(self, split: Split, rows: Sequence[Row]) -> tuple[Problem, ...]:
        return self._format_of(rows).problems(split, rows)

    def _train_and_validation(self) -> tuple[Sequence[Row], Sequence[Row]]:
        rows = self.train.rows(self.columns)
        if self.validation is not None:
            return rows, self.validation.rows(self.columns)
        size = self.default_validation_size if self.validation_size is None else self.validation_size
        return hold_out(rows, size, str(self.train))

    def _format_of(self, rows: Sequence[Row]) -> RowFormat:
        """Problems of data without ids are called by split and position, unless the recipe asks for a column."""
        known = self.row_format
        named = self.ids_required or any(known.id_column in row.values for row in rows)
        return known if named else replace(known, id_column=None)


class GradedTask(FileTask):
    """A file task graded by the rewards that its recipe names."""

    # The recipe's key is `reward`, which is here the method's name.
    reward_weights: Weights = Field(alias="reward", description="a reward by name, or names with their weights")

    @cached_property
    def grader(self) -> Grader:
        """The rewards named in the recipe."""
        return read_grader(self.reward_weights)
