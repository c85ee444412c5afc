"""What a task is: problems in three splits, and a reward for a text. And what is checked before one is used."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal, Protocol, get_args, runtime_checkable

from pydantic import BaseModel, ConfigDict, field_validator

from tessera.core.errors import UserError, unknown
from tessera.core.types import Problem
from tessera.tasks.data import Row
from tessera.tasks.prompts import VERBATIM, PromptFormat

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)


@dataclass(frozen=True)
class Reward:
    """What a text earned: the reward, its named components, and whether the answer is right.

    Where a reward is graded, or pays for more than the answer, `correct` is plain accuracy.
    """

    value: float
    components: Mapping[str, float]
    correct: bool


RewardValue = float | Mapping[str, float] | Reward
RewardFunction = Callable[[Problem, str], RewardValue]


@runtime_checkable
class Task(Protocol):
    """What a user implements: one class, constructed with the recipe's options as keywords.

    `problems(split)` returns the problems of a split, the same on every call. `reward(problem, text)` grades the
    assistant's whole turn, prefill included, and returns a finite number, or a mapping of named components whose
    total is the key `reward` when present and their sum otherwise, or a `Reward`, which also says what is right.

    Optional members: `correct(problem, text) -> bool`, plain accuracy, for a task whose reward is graded or pays for
    more than the answer (default: the reward is at least `full_marks`); `full_marks: float`, what a perfect text earns
    (default 1.0); `answer_of(problem, text) -> str | None`, the answer read out of a text, equal where two texts answer
    the same (an evaluation's majority vote needs it); `problem_of(row) -> Problem`, which lets `tessera.grade` take a
    row; of a mixture, `part_weights` and `owner_of` (see tessera.tasks.mixture). And for `tessera tasks --validate`:
    `gold(problem) -> str`, a continuation that earns full marks (default: the answer as text), and
    `corrupted(problem) -> str`, a wrong one of the same form (default: the answer changed).
    """

    def problems(self, split: Split) -> Sequence[Problem]:
        """The problems of `split`; an empty sequence where there is none (train must not be empty)."""
        ...

    def reward(self, problem: Problem, text: str) -> RewardValue:
        """What `text` earns as an answer to `problem`."""
        ...


class RegisteredTask(BaseModel):
    """Base of the tasks a recipe names: the options are the fields of a strict, frozen model."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @abstractmethod
    def problems(self, split: Split) -> Sequence[Problem]:
        """The problems of `split`."""

    @abstractmethod
    def reward(self, problem: Problem, text: str) -> RewardValue:
        """What `text` earns as an answer to `problem`."""

    @abstractmethod
    def problem_of(self, row: Row) -> Problem:
        """The problem that a row of data asks; a row that does not fit is a UserError that says where."""


class BuiltinTask(RegisteredTask):
    """A registered task that words its own questions."""

    prompt: PromptFormat = VERBATIM

    @field_validator("prompt", mode="before")
    @classmethod
    def _over_the_defaults(cls, prompt: Any) -> Any:
        """A recipe that sets one key of `prompt` keeps the task's defaults for the others."""
        if not isinstance(prompt, Mapping):
            return prompt
        return {**cls.model_fields["prompt"].get_default().model_dump(), **prompt}


def owner(task: Task, problem: Problem) -> tuple[Task, Problem]:
    """Who grades `problem`, and how it calls it: the part of a mixture that it comes from, else the task itself."""
    owner_of = getattr(task, "owner_of", None)
    found: tuple[Task, Problem] = owner_of(problem) if callable(owner_of) else (task, problem)
    return found


def grade_text(task: Task, problem: Problem, text: str) -> Reward:
    """Grade `text`, the assistant's whole turn, as an answer to `problem`.

    Raises what the task raises, and UserError for a reward that is not a finite number.
    """
    task, problem = owner(task, problem)
    earned = task.reward(problem, text)
    if isinstance(earned, Reward):
        return Reward(*read_reward({**earned.components, "reward": earned.value}), earned.correct)
    value, components = read_reward(earned)
    judge = getattr(task, "correct", None)
    correct = judge(problem, text) if callable(judge) else value >= full_marks(task)
    return Reward(value, components, bool(correct))


def full_marks(task: Task) -> float:
    """What a perfect text earns: the task's `full_marks`, 1 unless it says otherwise."""
    return float(getattr(task, "full_marks", 1.0))


def read_reward(value: Any) -> tuple[float, dict[str, float]]:
    """The scalar reward and its named components, from what a task's `reward` returned.

    Raises UserError for anything that is not a finite number or a non-empty mapping of finite numbers.
    """
    if not isinstance(value, Mapping):
        return _finite("reward", value), {}
    if not value:
        raise UserError("the reward is an empty mapping; it needs 'reward' or at least one named component")
    parts = {str(name): _finite(f"reward component {name!r}", part) for name, part in value.items()}
    components = {name: part for name, part in parts.items() if name != "reward"}
    return parts.get("reward", math.fsum(components.values())), components


def _finite(what: str, value: Any) -> float:
    if isinstance(value, str | bytes) or not hasattr(value, "__float__"):
        raise UserError(f"the {what} is {value!r:.80}, a {type(value).__name__}; it must be a number")
    if not math.isfinite(number := float(value)):
        raise UserError(f"the {what} is {number}; it must be finite")
    return number


@dataclass(frozen=True)
class LoadedTask:
    """A task with its problems read and checked; `LoadedTask.load(name, task)` makes one."""

    name: str
    task: Task
    train: tuple[Problem, ...]
    validation: tuple[Problem, ...]
    test: tuple[Problem, ...]

    @classmethod
    def load(cls, name: str, task: Task) -> LoadedTask:
        """Read the three splits of `task` and check them.

        Raises UserError for an empty train split, something that is not a Problem, an id that occurs twice in a
        split, or a question (`Problem.key`) that two splits share.
        """
        splits = {split: read_split(name, task, split) for split in SPLITS}
        if not splits["train"]:
            raise UserError(f"task {name} has no train problems")
        for one, other in combinations(SPLITS, 2):
            _check_disjoint(name, one, splits[one], other, splits[other])
        return cls(name, task, **splits)

    def problems(self, split: str) -> tuple[Problem, ...]:
        """The problems of `split`; an unknown split is a UserError."""
        if split not in SPLITS:
            raise unknown("split", split, SPLITS)
        return {"train": self.train, "validation": self.validation, "test": self.test}[split]

    @property
    def part_weights(self) -> Mapping[str, float]:
        """How often each part of a mixture is drawn, by name; empty for a task that has no parts."""
        found: Mapping[str, float] = getattr(self.task, "part_weights", {})
        return found


def read_split(name: str, task: Task, split: Split) -> tuple[Problem, ...]:
    """The problems of one split; UserError for something that is not a Problem, or an id that occurs twice."""
    returned = task.problems(split)
    if not isinstance(returned, Iterable):
        raise UserError(f"task {name}: problems({split!r}) is a {type(returned).__name__}, not a sequence of Problem")
    problems = tuple(returned)
    for position, problem in enumerate(problems):
        if not isinstance(problem, Problem):
            found = type(problem).__name__
            raise UserError(f"task {name}: problems({split!r})[{position}] is a {found}, not a Problem")
    repeated = [i for i, count in Counter(p.id for p in problems).items() if count > 1]
    if repeated:
        raise UserError(f"task {name}: {len(repeated)} ids occur more than once in {split}, such as {repeated[0]!r}")
    return problems


def _check_disjoint(name: str, one: Split, ones: Sequence[Problem], other: Split, others: Sequence[Problem]) -> None:
    known = {p.key: p.id for p in ones}
    shared = [p for p in others if p.key in known]
    if shared:
        first = shared[0]
        raise UserError(
            f"task {name}: {one} and {other} share {len(shared)} problems, such as {known[first.key]!r} and "
            f"{first.id!r}: {_shortened(first.key)!r}; no question may stand in two splits"
        )


def _shortened(text: str, limit: int = 120) -> str:
    return text if len(text) <= limit else text[: limit - 3] + "..."
