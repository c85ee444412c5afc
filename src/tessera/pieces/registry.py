"""The six kinds of pieces, by name, with typed configuration.

A piece is a pure function. Its keyword-only parameters are its configuration: their names, types and defaults are
what a recipe may set, checked when the recipe is read.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar, get_type_hints

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from tessera.core.errors import UserError, unknown

F = TypeVar("F", bound=Callable[..., Any])
M = TypeVar("M", bound=BaseModel)

STRICT = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
KINDS = ("advantage", "selection", "weight", "surrogate", "regulariser", "aggregation")


@dataclass(frozen=True)
class PieceSpec:
    """A registered piece: its function, the model of its configuration, and what it needs besides the batch.

    `needs` may hold `group` (two or more completions a group), `ref_logp` (a reference policy) and `parameters`
    (the regulariser is taken over the adapter's matrices, not over tokens).
    """

    function: Callable[..., Any]
    config: type[BaseModel]
    needs: frozenset[str]


@dataclass(frozen=True)
class Piece:
    """A piece with its configuration, ready to call."""

    kind: str
    name: str
    config: Mapping[str, Any] = field(default_factory=dict)

    @property
    def needs(self) -> frozenset[str]:
        """What the trainer must provide for this piece (see PieceSpec)."""
        return _PIECES[self.kind][self.name].needs

    def __call__(self, *args: Any) -> Any:
        return _PIECES[self.kind][self.name].function(*args, **self.config)

    def __str__(self) -> str:
        settings = ", ".join(f"{key}={value}" for key, value in self.config.items())
        return f"{self.name}({settings})"


_PIECES: dict[str, dict[str, PieceSpec]] = {kind: {} for kind in KINDS}


def _config_model(function: Callable[..., Any]) -> type[BaseModel]:
    hints = get_type_hints(function, include_extras=True)
    fields: dict[str, Any] = {
        p.name: (hints[p.name], ... if p.default is p.empty else p.default)
        for p in inspect.signature(function).parameters.values()
        if p.kind is p.KEYWORD_ONLY
    }
    return create_model(f"{function.__name__}_config", __config__=STRICT, **fields)


def piece(kind: str, name: str, *needs: str) -> Callable[[F], F]:
    """Register a function as the piece `name` of `kind`."""

    def register(function: F) -> F:
        _PIECES[kind][name] = PieceSpec(function, _config_model(function), frozenset(needs))
        return function

    return register


def names(kind: str) -> list[str]:
    """The registered names of a kind."""
    return sorted(_PIECES[kind])


def make(kind: str, name: str, /, **config: Any) -> Piece:
    """The piece `name` of `kind`, `config` over its defaults; UserError for an unknown name or key, or a bad value."""
    if name not in _PIECES[kind]:
        raise unknown(kind, name, _PIECES[kind])
    return Piece(kind, name, validate(_PIECES[kind][name].config, config, f"{kind} {name}").model_dump())


def validate(model: type[M], config: Mapping[str, Any], what: str) -> M:
    """Read `config` into `model`; the error is one line naming the key, what came, and what would be right."""
    try:
        return model(**config)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            raise unknown(f"key of {what}", key, model.model_fields) from None
        if first["type"] == "missing":
            raise UserError(f"{what} needs the key {key!r}") from None
        where = f"{key} = {first['input']!r}: " if key else ""
        raise UserError(f"{what}: {where}{first['msg'].removeprefix('Value error, ')}") from None
