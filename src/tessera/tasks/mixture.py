"""Several tasks as one: each problem is worded and graded by the task that it comes from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationInfo, field_validator, model_validator

from tessera.core.errors import UserError, unknown
from tessera.core.types import Problem
from tessera.tasks.base import SPLITS, LoadedTask, RegisteredTask, RewardValue, Split, Task, owner
from tessera.tasks.data import Row


class Part(BaseModel):
    """One task of a mixture."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    task: dict[str, Any] = Field(description="a name, or a mapping of `name` and the task's options")
    weight: float = Field(1.0, gt=0, description="how often it is drawn in training, beside the others'")
    name: str = Field("", pattern=r"^[A-Za-z0-9_.-]*$", description="in ids and metrics; without, the task's own")

    @field_validator("task", mode="before")
    @classmethod
    def _by_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @property
    def called(self) -> str:
        """The part's name; that of `path/to/file.py:Class` is the class."""
        return self.name or str(self.task.get("name")).rpartition(":")[2]


class Mixture(RegisteredTask):
    """Other tasks in one, drawn by weight, each problem graded by its own task.

    The id of a problem is its part's name, `/`, and its id there. A split holds all problems of the parts' splits,
    interleaved in proportion to their numbers, so that its first so many are a fair choice of them; in training,
    `part_weights` say how often each part is drawn.
    """

    parts: tuple[Part, ...] = Field(min_length=2, description="a list of {task, weight, name}")

    _loaded: dict[str, LoadedTask] = PrivateAttr(default_factory=dict)

    @model_validator(mode="after")
    def _load(self, info: ValidationInfo) -> Mixture:
        from tessera.tasks.registry import load_task  # which lists this task among the others

        names = Counter(part.called for part in self.parts)
        if twice := [name for name, count in names.items() if count > 1]:
            raise ValueError(f"{names[twice[0]]} parts are called {twice[0]!r}: give them names of their own")
        base_dir = (info.context or {}).get("base_dir")
        self._loaded.update({part.called: load_task(part.task, base_dir) for part in self.parts})
        return self

    @property
    def part_weights(self) -> Mapping[str, float]:
        """How often each part is drawn, by name."""
        return {part.called: part.weight for part in self.parts}

    def problems(self, split: Split) -> tuple[Problem, ...]:
        """The problems of the parts, interleaved."""
        return self._splits[split]

    def reward(self, problem: Problem, text: str) -> RewardValue:
        """What `text` earns from the part that asked."""
        task, own = self.owner_of(problem)
        return task.reward(own, text)

    def owner_of(self, problem: Problem) -> tuple[Task, Problem]:
        """The task that `problem` comes from, and the problem as that task made it."""
        name, _, own = problem.id.partition("/")
        return owner(self._part(name).task, replace(problem, id=own))

    def problem_of(self, row: Row) -> Problem:
        """The problem of a row that names its part in the column `part`."""
        name = str(row.column("part"))
        own = Row(row.where, {column: value for column, value in row.values.items() if column != "part"})
        problem_of = getattr(self._part(name).task, "problem_of", None)
        if not callable(problem_of):
            raise UserError(f"task {self._part(name).name} has no method problem_of(self, row)")
        return _renamed(name, problem_of(own))

    def _part(self, name: str) -> LoadedTask:
        if name not in self._loaded:
            raise unknown("part of the mixture", name, self._loaded)
        return self._loaded[name]

    @cached_property
    def _splits(self) -> dict[Split, tuple[Problem, ...]]:
        return {split: self._interleaved(split) for split in SPLITS}

    def _interleaved(self, split: Split) -> tuple[Problem, ...]:
        """The i-th of n problems of a part stands at (i + 1/2) / n of the whole."""
        placed = [
            ((i + 0.5) / len(problems), at, _renamed(name, problem))
            for at, (name, loaded) in enumerate(self._loaded.items())
            for problems in (loaded.problems(split),)
            for i, problem in enumerate(problems)
        ]
        return tuple(problem for *_, problem in sorted(placed, key=lambda place: place[:2]))


def part_of(problem: Problem) -> str:
    """The name of the part that a problem of a mixture comes from."""
    return problem.id.partition("/")[0]


def _renamed(part: str, problem: Problem) -> Problem:
    return replace(problem, id=f"{part}/{problem.id}")
