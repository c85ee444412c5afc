"""Algorithms by name, and how a recipe's `algorithm:` becomes a composition."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import BaseModel

from tessera.algorithms.base import Algorithm
from tessera.core.errors import UserError, unknown
from tessera.pieces import KINDS, STRICT, Piece, make, validate


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


def build(spec: str | Mapping[str, Any]) -> Algorithm:
    """Read `name` or `{name: ..., key: ..., piece: ...}` into a composition.

    A key named like a kind of piece exchanges that piece: `weight: {name: uniform}`, or just its name. A key that the
    algorithm's own configuration has (grpo's `aggregation: token_mean`) is that key.
    """
    settings = _settings("algorithm", spec)
    name = str(settings.pop("name"))
    if name not in _ALGORITHMS:
        raise unknown("algorithm", name, _ALGORITHMS)
    entry = _ALGORITHMS[name]
    own = entry.config.model_fields
    swaps = {k: settings.pop(k) for k in KINDS if k in settings and not (k in own and isinstance(settings[k], str))}
    for key in settings:
        if key not in own:
            raise unknown(f"key of algorithm {name}", str(key), [*own, *KINDS])
    algorithm = entry.compose(validate(entry.config, settings, f"algorithm {name}"))
    return algorithm.exchange({kind: _piece(kind, value) for kind, value in swaps.items()})


def _piece(kind: str, value: Any) -> Piece:
    settings = _settings(kind, value)
    return make(kind, str(settings.pop("name")), **{str(k): v for k, v in settings.items()})


def _settings(what: str, spec: Any) -> dict[Any, Any]:
    """`name` as `{name: name}`; a mapping with a name as a dict of its own."""
    if isinstance(spec, str):
        return {"name": spec}
    if not isinstance(spec, Mapping) or "name" not in spec:
        raise UserError(f"{what} must be a name or a mapping with the key 'name', got {spec!r}")
    return dict(spec)
