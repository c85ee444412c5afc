"""Functions and classes of a user's own Python file, named as `path/to/file.py:name`."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path
from types import ModuleType
from typing import Any

from tessera.core.errors import UserError, unknown


def find_in_file(named: str, what: str, is_one: Callable[[Any], bool], path: str | None = None) -> Any:
    """The `what` (say `"class"`) that `named` = `path/to/file.py:name` names; `path` is where the file was found.

    Raises UserError for a missing file or package, and for a name that is not there or not `is_one`. What the user's
    own code raises comes through as it is.
    """
    given, _, name = named.rpartition(":")
    module = _import(path or given)
    found = getattr(module, name, None)
    if not is_one(found):
        own = [n for n, v in vars(module).items() if is_one(v) and v.__module__ == module.__name__]
        raise unknown(f"{what} in {given}:", name, own)
    return found


def beside(named: str, folder: Path | None) -> str:
    """`named` with its file looked up in the working directory, then in `folder`."""
    path, colon, name = named.rpartition(":")
    inside = None if folder is None else folder / path
    return f"{inside}{colon}{name}" if inside and inside.is_file() and not Path(path).is_file() else named


def _import(path: str) -> ModuleType:
    """The module, under a name made from its path so that two files of one name do not meet."""
    if not Path(path).is_file():
        raise UserError(f"there is no file {path}")
    digest = blake2b(str(Path(path).resolve()).encode(), digest_size=6).hexdigest()
    module_name = f"tessera_user_code_{digest}"
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
