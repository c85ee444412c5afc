"""The options and the splitting that every task read from JSON Lines files shares."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import ClassVar

from pydantic import Field, model_validator

from tessera.core.types import Problem
from tessera.tasks.base import BuiltinTask, RewardValue, Split
from tessera.tasks.data import DataPath, Row, hold_out, read_jsonl
from tessera.tasks.rewards import NamedReward
from tessera.tasks.rows import RowFormat


class FileTask(BuiltinTask):
    """A task whose splits are JSON Lines files, plain or gzipped (`.gz`).

    Without a `validation` file the last `validation_size` rows of the train file are the validation split, and are
    not trained on.
    """

    train: DataPath = Field(description="JSON Lines file of the train split")
    validation: DataPath | None = Field(None, description="file of the validation split")
    validation_size: int | None = Field(
        None, ge=0, description="without a validation file: this many rows from the end of train"
    )
    test: DataPath | None = Field(None, description="JSON Lines file of the test split")

    default_validation_size: ClassVar[int] = 0

    @model_validator(mode="after")
    def _one_validation(self) -> FileTask:
        if self.validation is not None and self.validation_size is not None:
            raise ValueError("give either validation (a file) or validation_size (rows from the end of train)")
        return self

    @property
    @abstractmethod
    def grader(self) -> NamedReward:
        """The reward that grades this task."""

    @property
    @abstractmethod
    def row_format(self) -> RowFormat:
        """How a row of the files becomes a problem."""

    def problems(self, split: Split) -> Sequence[Problem]:
        """The problems of `split`, in the order of the file; files are read once."""
        return self._splits[split]

    def problem_of(self, row: Row) -> Problem:
        """The problem that one row asks, in the columns of the files."""
        return self.row_format.problem(row)

    def reward(self, problem: Problem, text: str) -> RewardValue:
        """What `text` earns by the task's named reward."""
        return self.grader(problem, text)

    @cached_property
    def _splits(self) -> dict[Split, tuple[Problem, ...]]:
        train, validation = self._train_and_validation()
        rows: dict[Split, Sequence[Row]] = {
            "train": train,
            "validation": validation,
            "test": () if self.test is None else read_jsonl(self.test),
        }
        return {split: self.row_format.problems(split, rows[split]) for split in rows}

    def _train_and_validation(self) -> tuple[Sequence[Row], Sequence[Row]]:
        rows = read_jsonl(self.train)
        if self.validation is not None:
            return rows, read_jsonl(self.validation)
        size = self.default_validation_size if self.validation_size is None else self.validation_size
        return hold_out(rows, size, self.train)
