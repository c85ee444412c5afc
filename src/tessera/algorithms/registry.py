"""Algorithms by name, and how a recipe's `algorithm:` becomes a composition."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel

from tessera.algorithms.base import Algorithm
from tessera.core.errors import UserError, unknown
from tessera.core.user_code import beside
from tessera.pieces import CORRECTION, KINDS, STRICT, Chain, Piece, make, validate


class Config(BaseModel):
    """Base of every algorithm's configuration: frozen; an unknown key, infinity or NaN is an error."""

    model_config = STRICT


C = TypeVar("C", bound=Config)


@dataclass(frozen=True)
class Registered:
    """A named algorithm: its configuration and the function that composes it."""

    config: type[Config]
    compose: Callable[[Any], Algorithm]


_ALGORITHMS: dict[str, Registered] = {}


def register(name: str, config: type[C]) -> Callable[[Callable[[C], Algorithm]], Callable[[C], Algorithm]]:
    """Register `compose(config) -> Algorithm` under `name`."""

    def decorate(compose: Callable[[C], Algorithm]) -> Callable[[C], Algorithm]:
        _ALGORITHMS[name] = Registered(config, compose)
        return compose

    return decorate


def registered() -> dict[str, Registered]:
    """All algorithms by name."""
    return dict(sorted(_ALGORITHMS.items()))


def kl_or_none(beta: float) -> Piece:
    """The KL penalty, or no penalty where its strength is 0: then no reference is needed."""
    return make("regulariser", "kl", beta=beta) if beta else make("regulariser", "none")


def build(spec: str | Mapping[str, Any], folder: Path | None = None) -> Algorithm:
    """Read `name` or `{name: ..., key: ..., piece: ...}` into a composition.

    A key named like a kind of piece exchanges that piece: `weight: {name: uniform}`, or just its name; a list of
    selections acts in turn; `importance_correction` adds one (null: none). A key that the algorithm's own configuration
    has (grpo's `aggregation: token_mean`) is that key. Pieces that do not fit each other are a UserError that says why.
    The files of a user's own pieces are looked up in the working directory, then in `folder`.
    """
    settings = _settings("algorithm", spec)
    name = str(settings.pop("name"))
    if name not in _ALGORITHMS:
        raise unknown("algorithm", name, _ALGORITHMS)
    entry = _ALGORITHMS[name]
    own = entry.config.model_fields
    correction = settings.pop(CORRECTION, None)
    swaps = {k: settings.pop(k) for k in KINDS if k in settings and not (k in own and isinstance(settings[k], str))}
    for key in settings:
        if key not in own:
            raise unknown(f"key of algorithm {name}", str(key), [*own, *KINDS, CORRECTION])
    algorithm = entry.compose(validate(entry.config, settings, f"algorithm {name}"))
    exchanged = {kind: _piece(kind, value, folder) for kind, value in swaps.items()}
    corrected = None if correction is None else _one_piece(CORRECTION, correction, folder)
    return algorithm.exchange({**exchanged, CORRECTION: corrected})


def idle_keys(spec: Mapping[str, Any], folder: Path | None = None) -> list[str]:
    """Keys of a valid `spec` that differ from their defaults and change nothing beside its other keys."""
    own, whole = _ALGORITHMS[spec["name"]].config.model_fields, build(spec, folder)
    changed = [key for key in spec if key in own and spec[key] != own[key].default]
    return [key for key in changed if _without(spec, key, folder) == whole]


def _without(spec: Mapping[str, Any], key: str, folder: Path | None) -> Algorithm | None:
    """The composition without a key; None where it is needed."""
    try:
        return build({k: v for k, v in spec.items() if k != key}, folder)
    except UserError:
        return None


def _piece(kind: str, value: Any, folder: Path | None) -> Piece | Chain:
    if kind == "selection" and isinstance(value, list) and value:
        return Chain(tuple(_one_piece(kind, part, folder) for part in value))
    return _one_piece(kind, value, folder)


def _one_piece(kind: str, value: Any, folder: Path | None) -> Piece:
    settings = _settings(kind, value)
    name = beside(str(settings.pop("name")), folder)
    return make(kind, name, **{str(k): v for k, v in settings.items()})


def _settings(what: str, spec: Any) -> dict[Any, Any]:
    """`name` as `{name: name}`; a mapping with a name as a dict of its own."""
    if isinstance(spec, str):
        return {"name": spec}
    if not isinstance(spec, Mapping) or "name" not in spec:
        raise UserError(f"{what} must be a name or a mapping with the key 'name', got {spec!r}")
    return dict(spec)
