"""The tasks by name, and the one way from a recipe's `task` mapping to problems."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from tessera.core.errors import UserError, unknown
from tessera.tasks.arithmetic import Arithmetic
from tessera.tasks.base import BuiltinTask, LoadedTask, Task
from tessera.tasks.jsonl import Jsonl
from tessera.tasks.multiplication import Multiplication
from tessera.tasks.options import read_options
from tessera.tasks.svamp import Svamp
from tessera.tasks.user_task import load_user_task

TASKS: dict[str, type[BuiltinTask]] = {
    "arithmetic": Arithmetic,
    "jsonl": Jsonl,
    "multiplication": Multiplication,
    "svamp": Svamp,
}


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

    NAME is a registered name or `path/to/file.py:ClassName`. Relative paths are looked up in the working directory,
    then in `base_dir` (the recipe's folder). Raises UserError for whatever is wrong with the name, an option, a file
    or the splits (see `LoadedTask.load`).
    """
    options = dict(spec)
    name = options.pop("name", None)
    if not isinstance(name, str):
        raise UserError(f"task.name = {name!r} must be one of {', '.join(TASKS)}, or path/to/file.py:ClassName")
    return LoadedTask.load(name, _make(name, options, base_dir))


def _make(name: str, options: Mapping[str, Any], base_dir: Path | None) -> Task:
    if ":" in name or name.endswith(".py"):
        return load_user_task(name, options, base_dir)
    if name not in TASKS:
        raise unknown("task", name, TASKS)
    return read_options(TASKS[name], options, f"task {name}", base_dir)


def list_tasks() -> list[TaskInfo]:
    """Every registered task, by name, with a line about it and its options."""
    return [_info(name, task) for name, task in sorted(TASKS.items())]


def _info(name: str, task: type[BuiltinTask]) -> TaskInfo:
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
