"""Reading a task's options from a recipe, with one clear line for whatever is wrong."""

from __future__ import annotations

import inspect
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from tessera.core.errors import UserError, nearest, unknown

M = TypeVar("M", bound=BaseModel)

# pydantic speaks of Python's types; who writes a recipe sees YAML.
_A_MAPPING, _A_LIST = "Input should be a mapping of keys", "Input should be a list"
_WORDS = {"model_type": _A_MAPPING, "dict_type": _A_MAPPING, "tuple_type": _A_LIST, "list_type": _A_LIST,
          "too_short": "Input should have more entries"}  # fmt: skip
_UNIONS = (Union, types.UnionType)


def read_options(model: type[M], options: Mapping[str, Any], what: str, base_dir: Path | None = None) -> M:
    """`options` as a `model`. Relative data files are looked for in the working directory, then in `base_dir`.

    Raises UserError naming the first wrong key, what it held, and what would be right (or the nearest known key).
    """
    try:
        return model.model_validate(dict(options), context={"base_dir": base_dir})
    except ValidationError as error:
        # A misspelt key comes before the missing one that it was meant to be.
        errors = sorted(error.errors(), key=lambda e: e["type"] != "extra_forbidden")
        raise _one_line(model, errors, what) from None


def _one_line(model: type[BaseModel], errors: Sequence[Mapping[str, Any]], what: str) -> UserError:
    """The line for the first of `errors`; others about the same key are further forms that it may take."""
    first = errors[0]
    path, kind = _written(model, first["loc"])
    key = ".".join(path)
    if first["type"] == "extra_forbidden":
        return UserError(f"unknown option of {what} {key!r}{nearest(path[-1], keys(kind or model))}")
    if first["type"] == "missing":
        return UserError(f"{what} needs the option {key!r}")
    same = [error for error in errors if _written(model, error["loc"])[0] == path]
    reason = " or ".join(dict.fromkeys(map(_reason, same))).replace(" or Input should be ", " or ")
    if first["type"] == "value_error" and isinstance(first["input"], Mapping):
        return UserError(f"{what}: {key + ': ' if key else ''}{reason}")
    return UserError(f"{what}: {key} = {first['input']!r}: {reason}")


def _reason(error: Mapping[str, Any]) -> str:
    return _WORDS.get(error["type"]) or str(error.get("ctx", {}).get("error", error["msg"]))


def _written(annotation: Any, loc: Sequence[str | int]) -> tuple[list[str], type[BaseModel] | None]:
    """The keys of `loc` that a person wrote, and the innermost model on the way to the last.

    pydantic adds the name of a union's member to a location; nobody has written that.
    """
    path: list[str] = []
    model: type[BaseModel] | None = None
    for part in loc:
        annotation, named = _member(annotation, part)
        if named:
            continue
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            model = annotation
        path.append(str(part))
        annotation = _inside(annotation, part)
    return path, model


def _member(annotation: Any, part: str | int) -> tuple[Any, bool]:
    """`annotation` without what surrounds its type; for a union, the member that `part` names, and True."""
    if get_origin(annotation) is Annotated:
        return _member(get_args(annotation)[0], part)
    if get_origin(annotation) not in _UNIONS:
        return annotation, False
    members = [a for a in get_args(annotation) if a is not types.NoneType]
    if len(members) == 1:
        return _member(members[0], part)
    named = [m for m in members if isinstance(m, type) and issubclass(m, BaseModel) and _is_named(m, part)]
    return (named[0] if named else None), True


def _is_named(model: type[BaseModel], part: str | int) -> bool:
    """Whether `part` is the model's name, or the value of the key that tells it from the union's other members."""
    return part == model.__name__ or any(field.default == part for field in model.model_fields.values())


def _inside(annotation: Any, part: str | int) -> Any:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return next((f.annotation for n, f in annotation.model_fields.items() if (f.alias or n) == part), None)
    arguments = get_args(annotation)
    if get_origin(annotation) in (list, tuple) and arguments:
        return arguments[0]  # of a list, or of a tuple of one type; nothing lies inside the others
    return None


def keys(model: type[BaseModel]) -> list[str]:
    """The keys a recipe may set in `model`."""
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
