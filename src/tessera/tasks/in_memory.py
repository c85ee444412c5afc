"""A task from rows that are already in memory: a list of mappings, a `datasets.Dataset`, any iterable of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from tessera.core.errors import UserError
from tessera.core.types import Problem
from tessera.tasks.base import RewardFunction, RewardValue, Split
from tessera.tasks.data import Row, hold_out
from tessera.tasks.prompts import VERBATIM, PromptFormat
from tessera.tasks.rewards import read_grader
from tessera.tasks.rows import RowFormat

Rows = Iterable[Mapping[str, Any]]


class InMemoryTask:
    """Problems from rows, graded by a function `reward_fn(problem, text)`, a registered reward by name, or
    a mapping of such names to their weights.

    A row has `prompt` (a text, or a list of {role, content} messages), usually `answer`, and any other columns, which
    the reward finds in `problem.metadata`. Without `validation`, its problems are the last `validation_size` rows of
    `train`. Raises UserError for a row that does not fit, naming the split and the position.
    """

    full_marks: float = 1.0

    def __init__(
        self,
        train: Rows,
        validation: Rows | None = None,
        test: Rows | None = None,
        *,
        reward_fn: RewardFunction | str | Mapping[str, float],
        validation_size: int = 0,
        prompt_column: str = "prompt",
        answer_column: str = "answer",
        id_column: str | None = None,
        prompt: PromptFormat = VERBATIM,
    ) -> None:
        if validation is not None and validation_size:
            raise UserError("give either validation (rows) or validation_size (rows from the end of train)")
        grader = read_grader(reward_fn) if isinstance(reward_fn, str | Mapping) else None
        row_format = RowFormat(prompt_column, answer_column, id_column, prompt, grader)
        training, held_out = hold_out(_rows("train", train), validation_size, "train")
        self._reward: RewardFunction = grader if grader is not None else reward_fn  # type: ignore[assignment]
        if grader is not None:
            self.full_marks = grader.full_marks
        self._splits: dict[Split, tuple[Problem, ...]] = {
            "train": row_format.problems("train", training),
            "validation": row_format.problems("validation", held_out or _rows("validation", validation)),
            "test": row_format.problems("test", _rows("test", test)),
        }

    def problems(self, split: Split) -> tuple[Problem, ...]:
        """The problems of `split`, in the order of the rows."""
        return self._splits[split]

    def reward(self, problem: Problem, text: str) -> RewardValue:
        """What `reward_fn` makes of `text`."""
        return self._reward(problem, text)


def _rows(split: str, rows: Rows | None) -> list[Row]:
    return [Row(f"{split} row {n}", _mapping(split, n, row)) for n, row in enumerate(() if rows is None else rows)]


def _mapping(split: str, position: int, row: Any) -> Mapping[str, Any]:
    if not isinstance(row, Mapping):
        raise UserError(f"{split} row {position} is a {type(row).__name__}; a row is a mapping of columns")
    return row
