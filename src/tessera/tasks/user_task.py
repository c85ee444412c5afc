"""A user's own task: a class in a Python file, named in the recipe as `path/to/file.py:ClassName`."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tessera.core.errors import UserError
from tessera.core.user_code import find_in_file
from tessera.tasks.base import Task
from tessera.tasks.data import locate
from tessera.tasks.options import check_signature

_METHODS = {"problems": ("split",), "reward": ("problem", "text")}


def load_user_task(name: str, options: Mapping[str, Any], base_dir: Path | None = None) -> Task:
    """Import the file, find the class, and construct it with `options` as keywords.

    The path is relative to the working directory, then to `base_dir`. Raises UserError for a missing file, package or
    class, an option that the class does not take, and a method that is missing or takes other arguments. What the
    user's own code raises comes through as it is.
    """
    path, _, class_name = name.rpartition(":")
    if not path.endswith(".py") or not class_name:
        raise UserError(f"task {name!r} names no class; write path/to/file.py:ClassName")
    cls = find_in_file(name, "class", inspect.isclass, locate(path, base_dir))
    check_signature(cls, options, f"task {name}")
    task: Task = cls(**options)
    for method, arguments in _METHODS.items():
        _check_method(name, task, method, arguments)
    return task


def _check_method(name: str, task: Task, method: str, arguments: tuple[str, ...]) -> None:
    wanted = f"{method}(self, {', '.join(arguments)})"
    function = getattr(task, method, None)
    if not callable(function):
        raise UserError(f"task {name} has no method {wanted}")
    try:
        inspect.signature(function).bind(*arguments)
    except TypeError as error:
        raise UserError(f"task {name}: {method} must be {wanted}: {error}") from None
