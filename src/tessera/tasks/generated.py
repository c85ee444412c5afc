"""Generated arithmetic: pairs of numbers, drawn so that no two splits ask the same thing."""

from __future__ import annotations

import random
from abc import abstractmethod
from collections.abc import Sequence
from functools import cached_property

from pydantic import Field, model_validator

from tessera.core.errors import UserError
from tessera.core.types import Problem
from tessera.tasks.base import BuiltinTask, Split
from tessera.tasks.data import Row
from tessera.tasks.grading import integer_text, last_integer
from tessera.tasks.rewards import REWARDS

Pair = tuple[int, int]
DEFAULT_SIZES: dict[Split, int] = {"train": 1000, "validation": 100, "test": 3000}


def operand_range(digits: int) -> tuple[int, int]:
    """The smallest and largest operand: 10^(d-1) + 1 and 10^d - 1 (101..999 for three digits), 2..9 for one.

    2504.20834 App. A.1 draws between 101 and 999; round numbers and one are left out at every length.
    """
    return (2, 9) if digits == 1 else (10 ** (digits - 1) + 1, 10**digits - 1)


def pair_count(digits: int) -> int:
    """How many unordered pairs of operands there are: n (n + 1) / 2 for n operands."""
    low, high = operand_range(digits)
    n = high - low + 1
    return n * (n + 1) // 2


def draw_pairs(digits: int, count: int, seed: int) -> list[Pair]:
    """`count` ordered pairs of operands, uniform, of which no two are equal even when one is turned round.

    The first pairs of a longer draw are those of a shorter one. `count` must not exceed `pair_count(digits)`.
    """
    assert count <= pair_count(digits)
    low, high = operand_range(digits)
    source = random.Random(f"pairs of {digits} digits, seed {seed}")
    drawn: dict[Pair, Pair] = {}
    while len(drawn) < count:
        a, b = source.randint(low, high), source.randint(low, high)
        drawn.setdefault((min(a, b), max(a, b)), (a, b))
    return list(drawn.values())


class GeneratedTask(BuiltinTask):
    """A task about two numbers of `digits` digits each, reproducible by `seed`.

    (a, b) and (b, a) count as one question. The test split is drawn first, then validation, then train, so that a
    larger train split leaves the others as they were. Sizes that are not given are 1000, 100 and 3000, or, where
    fewer problems are left, shares of them in that proportion.
    """

    digits: int = Field(3, ge=1, le=1000, description="digits of each number")
    train_size: int | None = Field(None, ge=1, description="1000, or what fits")
    validation_size: int | None = Field(None, ge=0, description="100, or what fits")
    test_size: int | None = Field(None, ge=0, description="3000, or what fits")
    seed: int = Field(0, description="which problems are drawn")

    @model_validator(mode="after")
    def _enough_pairs(self) -> GeneratedTask:
        asked = sum(size or 0 for size in self._asked.values())
        if asked > pair_count(self.digits):
            raise ValueError(
                f"{asked} problems are asked for, and {pair_count(self.digits)} exist with digits = {self.digits}"
            )
        return self

    @property
    def _asked(self) -> dict[Split, int | None]:
        return {"train": self.train_size, "validation": self.validation_size, "test": self.test_size}

    @property
    def sizes(self) -> dict[Split, int]:
        """The number of problems in each split."""
        left = pair_count(self.digits) - sum(size or 0 for size in self._asked.values())
        wanted = sum(DEFAULT_SIZES[split] for split, size in self._asked.items() if size is None)
        return {
            split: size if size is not None else min(DEFAULT_SIZES[split], left * DEFAULT_SIZES[split] // wanted)
            for split, size in self._asked.items()
        }

    def answer_of(self, problem: Problem, text: str) -> str | None:
        """The last number of `text`."""
        return last_integer(text)

    def problem_of(self, row: Row) -> Problem:
        """The problem about the row's `a` and `b`."""
        return self.problem(_whole(row, "a"), _whole(row, "b"))

    @abstractmethod
    def problem(self, a: int, b: int) -> Problem:
        """The question about `a` and `b`, in this order."""

    def problems(self, split: Split) -> Sequence[Problem]:
        """The problems of `split`."""
        return self._splits[split]

    def reward(self, problem: Problem, text: str) -> float:
        """1 if the last number of `text` is the answer (2504.20834 App. B), else 0."""
        return REWARDS["last_integer"].score(problem, text)

    @cached_property
    def _splits(self) -> dict[Split, tuple[Problem, ...]]:
        sizes = self.sizes
        pairs = iter(draw_pairs(self.digits, sum(sizes.values()), self.seed))
        order: tuple[Split, ...] = ("test", "validation", "train")
        return {split: tuple(self.problem(*next(pairs)) for _ in range(sizes[split])) for split in order}


def _whole(row: Row, column: str) -> int:
    if (text := integer_text(value := row.column(column))) is None:
        raise UserError(f"{row.where}: {column} = {value!r:.60} must be an integer")
    return int(text)
