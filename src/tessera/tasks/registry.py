"""The tasks by name, and the one way from a recipe's `task` mapping to problems."""

from __future__ import annotations

from collections.abc import Mapping
from os import devnull
from pathlib import Path
from typing import Any, NamedTuple

from tessera.core.errors import UserError, unknown
from tessera.core.types import Problem
from tessera.tasks.arithmetic import Arithmetic
from tessera.tasks.base import LoadedTask, RegisteredTask, Reward, Split, Task, grade_text, read_split
from tessera.tasks.countdown import Countdown
from tessera.tasks.data import Row
from tessera.tasks.files import FileTask
from tessera.tasks.gsm8k import Gsm8k
from tessera.tasks.jsonl import Jsonl
from tessera.tasks.knights_knaves import KnightsKnaves
from tessera.tasks.mathematics import Mathematics
from tessera.tasks.mixture import Mixture
from tessera.tasks.multiplication import Multiplication
from tessera.tasks.options import read_options
from tessera.tasks.reasoning_gym import PREFIX, ReasoningGym
from tessera.tasks.search_qa import SearchQA
from tessera.tasks.svamp import Svamp
from tessera.tasks.user_task import load_user_task

TASKS: dict[str, type[RegisteredTask]] = {
    "arithmetic": Arithmetic,
    "countdown": Countdown,
    "gsm8k": Gsm8k,
    "jsonl": Jsonl,
    "knights_knaves": KnightsKnaves,
    "math": Mathematics,
    "mixture": Mixture,
    "multiplication": Multiplication,
    "reasoning_gym": ReasoningGym,
    "search_qa": SearchQA,
    "svamp": Svamp,
}


class Questions(NamedTuple):
    """One split of a task."""

    task: Task
    problems: tuple[Problem, ...]


class TaskOption(NamedTuple):
    """An option of a task: its key in the recipe, its default (None where it has to be given), what it means."""

    name: str
    default: str | None
    description: str


class TaskInfo(NamedTuple):
    """A registered task: its name, a line on what it asks, and its options."""

    name: str
    summary: str
    options: tuple[TaskOption, ...]


def load_task(spec: Mapping[str, Any], base_dir: Path | None = None) -> LoadedTask:
    """The task that a recipe's mapping `{name: NAME, **options}` describes, with its problems read and checked.

    NAME is a registered name, `reasoning_gym:DATASET` or `path/to/file.py:ClassName`. Relative paths are looked up in
    the working directory, then in `base_dir` (the recipe's folder). Raises UserError for whatever is wrong with the
    name, an option, a file or the splits (see `LoadedTask.load`).
    """
    name, options = _name_and_options(spec)
    return LoadedTask.load(name, _make(name, options, base_dir))


def load_split(spec: Mapping[str, Any], split: Split, base_dir: Path | None = None) -> Questions:
    """One split of the task that `spec` describes, read and checked by itself: what an evaluation needs.

    The test split needs no train file, and the others no test file. Raises UserError as `load_task` does, and for a
    split without problems.
    """
    name, options = _name_and_options(spec)
    read = "test" if split == "test" else "train"
    unread = {key: file for key, file in _no_files(name).items() if key != read}
    task = _make(name, {**unread, **options}, base_dir)
    problems = read_split(name, task, split)
    if not problems:
        raise UserError(f"task {name} has no {split} problems")
    return Questions(task, problems)


def _name_and_options(spec: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    options = dict(spec)
    name = options.pop("name", None)
    if not isinstance(name, str):
        raise UserError(f"task.name = {name!r} must be one of {', '.join(TASKS)}, or path/to/file.py:ClassName")
    return name, options


def _make(name: str, options: Mapping[str, Any], base_dir: Path | None) -> Task:
    if name.startswith(PREFIX):
        if "dataset" in options:
            raise UserError(f"task {name} names its data set after the colon; leave out the option 'dataset'")
        return read_options(ReasoningGym, {"dataset": name.removeprefix(PREFIX), **options}, f"task {name}", base_dir)
    if ":" in name or name.endswith(".py"):
        return load_user_task(name, options, base_dir)
    if name not in TASKS:
        raise unknown("task", name, TASKS)
    return read_options(TASKS[name], options, f"task {name}", base_dir)


def grade(task: str, row: Mapping[str, Any], completion: str, **options: Any) -> Reward:
    """What `completion` earns as an answer to one `row` of data, by the reward of a task.

    `task` is a registered name or `path/to/file.py:ClassName`, `options` its keys in a recipe; data files are not
    needed. `row` has the columns of the task's files, or the numbers that a generated question is about (`a`, `b`).
    `completion` is what the model wrote after the prompt; the task's prefill is put before it unless it is there.
    Raises UserError for a row or an option that does not fit, and what the reward raises.
    """
    made = _make(task, {**_no_files(task), **options}, None)
    if not callable(problem_of := getattr(made, "problem_of", None)):
        raise UserError(f"task {task} has no method problem_of(self, row), which makes a problem of a row")
    problem: Problem = problem_of(Row("the row", {"id": "row", **row}))
    opening = "" if completion.startswith(problem.prefill) else problem.prefill
    return grade_text(made, problem, opening + completion)


def _no_files(task: str) -> dict[str, str]:
    """The files that a task requires, as empty ones: nothing is read from them."""
    kind = TASKS.get(task)
    if kind is None or not issubclass(kind, FileTask):
        return {}
    return {name: devnull for name in ("train", "test") if kind.model_fields[name].is_required()}


def list_tasks() -> list[TaskInfo]:
    """Every registered task, by name, with a line about it and its options."""
    return [_info(name, task) for name, task in sorted(TASKS.items())]


def _info(name: str, task: type[RegisteredTask]) -> TaskInfo:
    options = tuple(
        TaskOption(
            field.alias or key,
            None if field.is_required() else _shown(field.get_default()),
            field.description or _first_line(field.annotation),
        )
        for key, field in task.model_fields.items()
    )
    return TaskInfo(name, _first_line(task), options)


def _first_line(documented: Any) -> str:
    return (documented.__doc__ or "").strip().partition("\n")[0]


def _shown(default: Any) -> str:
    return "null" if default is None else str(default)
