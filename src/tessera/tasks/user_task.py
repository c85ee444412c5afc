"""A user's own task: a class in a Python file, named in the recipe as `path/to/file.py:ClassName`."""

from __future__ import annotations

import importlib.util
import inspect
import sys
from collections.abc import Mapping
from hashlib import blake2b
from pathlib import Path
from types import ModuleType
from typing import Any

from tessera.core.errors import UserError, unknown
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
    cls = _find_class(_import(locate(path, base_dir)), path, class_name)
    check_signature(cls, options, f"task {name}")
    task: Task = cls(**options)
    for method, arguments in _METHODS.items():
        _check_method(name, task, method, arguments)
    return task


def _import(path: str) -> ModuleType:
    """The module, under a name made from its path so that two files of one name do not meet."""
    digest = blake2b(str(Path(path).resolve()).encode(), digest_size=6).hexdigest()
    module_name = f"tessera_user_task_{digest}"
    spec = importlib.util.spec_from_file_location(module_name, path)
    if spec is None or spec.loader is None:
        raise UserError(f"{path} cannot be imported as a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module  # dataclasses and pickle look a class's module up here
    try:
        spec.loader.exec_module(module)
    except SyntaxError as error:
        raise UserError(f"{path}, line {error.lineno} is not Python: {error.msg}") from None
    except ImportError as error:
        raise UserError(f"{path} cannot be imported: {error}") from None
    return module


def _find_class(module: ModuleType, path: str, class_name: str) -> type:
    found = getattr(module, class_name, None)
    if not inspect.isclass(found):
        own = [n for n, v in vars(module).items() if inspect.isclass(v) and v.__module__ == module.__name__]
        raise unknown(f"class in {path}:", class_name, own)
    return found


def _check_method(name: str, task: Task, method: str, arguments: tuple[str, ...]) -> None:
    wanted = f"{method}(self, {', '.join(arguments)})"
    function = getattr(task, method, None)
    if not callable(function):
        raise UserError(f"task {name} has no method {wanted}")
    try:
        inspect.signature(function).bind(*arguments)
    except TypeError as error:
        raise UserError(f"task {name}: {method} must be {wanted}: {error}") from None
