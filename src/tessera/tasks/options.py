"""Reading a task's options from a recipe, with one clear line for whatever is wrong."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from tessera.core.errors import UserError, unknown

M = TypeVar("M", bound=BaseModel)


def read_options(model: type[M], options: Mapping[str, Any], what: str, base_dir: Path | None = None) -> M:
    """`options` as a `model`. Relative data files are looked for in the working directory, then in `base_dir`.

    Raises UserError naming the first wrong key, what it held, and what would be right (or the nearest known key).
    """
    try:
        return model.model_validate(dict(options), context={"base_dir": base_dir})
    except ValidationError as error:
        # A misspelt key comes before the missing one that it was meant to be.
        errors = sorted(error.errors(), key=lambda e: e["type"] != "extra_forbidden")
        raise _one_line(model, errors[0], what) from None


def _one_line(model: type[BaseModel], error: ErrorDetails, what: str) -> UserError:
    *parents, last = error["loc"] or ("",)
    key = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        return unknown(f"option of {what}", key, [".".join([*map(str, parents), k]) for k in keys(model, parents)])
    if error["type"] == "missing":
        return UserError(f"{what} needs the option {last!r}")
    reason = str(error.get("ctx", {}).get("error", error["msg"]))
    if error["type"] == "value_error" and isinstance(error["input"], Mapping):
        return UserError(f"{what}: {key + ': ' if key else ''}{reason}")
    return UserError(f"{what}: {key} = {error['input']!r}: {reason}")


def keys(model: type[BaseModel], path: list[str | int] | tuple[()] = ()) -> list[str]:
    """The keys a recipe may set in `model`, or in the model nested at `path` inside it."""
    for part in path:
        nested = next(f.annotation for n, f in model.model_fields.items() if (f.alias or n) == part)
        assert isinstance(nested, type) and issubclass(nested, BaseModel)
        model = nested
    return [field.alias or name for name, field in model.model_fields.items()]


def check_signature(function: Any, options: Mapping[str, Any], what: str) -> None:
    """Raise UserError unless calling `function(**options)` names every option it needs and none that it lacks."""
    parameters = inspect.signature(function).parameters.values()
    named = {p.name: p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters)
    for name in options:
        if name not in named and not takes_any:
            raise unknown(f"option of {what}", name, named)
    for name, parameter in named.items():
        if parameter.default is parameter.empty and name not in options:
            raise UserError(f"{what} needs the option {name!r}")
