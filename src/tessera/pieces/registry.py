"""The six kinds of pieces and the importance correction, by name, with typed configuration.

A piece is a pure function. Its keyword-only parameters are its configuration: their names, types and defaults are
what a recipe may set, checked when the recipe is read.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar, get_type_hints

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from tessera.core.errors import UserError, unknown
from tessera.core.user_code import find_in_file

F = TypeVar("F", bound=Callable[..., Any])
M = TypeVar("M", bound=BaseModel)

STRICT = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
KINDS = ("advantage", "selection", "weight", "surrogate", "regulariser", "aggregation")
CORRECTION = "importance_correction"  # of the sampler, not of the method: any composition can have one


@dataclass(frozen=True)
class PieceSpec:
    """A registered piece: its function, the model of its configuration, and what it needs besides the batch.

    `needs` may hold, of the trainer: `group` (two or more completions a group), `ref_logp` (a reference policy),
    `parameters` (the regulariser is taken over the adapter's matrices, not over tokens), `statistics` (a weight that
    sees the log-probs of the whole step at once), `entropy`, `eos_logp`, `truncated` (fields of the TokenBatch), and
    `on_policy` (one update a rollout: no ratio corrects for more). And of the other pieces, which say what they give:
    `whole_rows` (a selection that leaves no gaps in a completion), `by_prefix` (an advantage that depends on the prefix
    alone), `positive_weight`.
    """

    function: Callable[..., Any]
    config: type[BaseModel]
    needs: frozenset[str] = frozenset()
    gives: frozenset[str] = frozenset()


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

    @property
    def gives(self) -> frozenset[str]:
        """What other pieces may rely on (see PieceSpec)."""
        return _PIECES[self.kind][self.name].gives

    @property
    def summary(self) -> str:
        """What it does: the first paragraph of its docstring, and what that announces with a colon, on one line."""
        first, *others = (inspect.getdoc(_PIECES[self.kind][self.name].function) or "").split("\n\n")
        announced = others[:1] if first.endswith(":") else []
        return " ".join(" ".join([first, *announced]).split())

    def __call__(self, *args: Any) -> Any:
        return _PIECES[self.kind][self.name].function(*args, **self.config)

    def __str__(self) -> str:
        settings = ", ".join(f"{key}={value}" for key, value in self.config.items())
        return f"{self.name}({settings})"


@dataclass(frozen=True)
class Chain:
    """Selections that act in turn: each chooses among the tokens that the one before it left."""

    parts: tuple[Piece, ...]
    kind: str = "selection"

    @property
    def name(self) -> str:
        """The names of the parts."""
        return " then ".join(part.name for part in self.parts)

    @property
    def config(self) -> Mapping[str, Any]:
        """The configurations of the parts, by name."""
        return {part.name: dict(part.config) for part in self.parts}

    @property
    def needs(self) -> frozenset[str]:
        """What any part needs."""
        return frozenset().union(*(part.needs for part in self.parts))

    @property
    def gives(self) -> frozenset[str]:
        """What every part gives."""
        return frozenset.intersection(*(part.gives for part in self.parts))

    @property
    def summary(self) -> str:
        """What the parts do."""
        return " Then: ".join(part.summary for part in self.parts)

    def __call__(self, batch: Any, advantage_BT: Any, generator: Any) -> Any:
        for part in self.parts:
            batch = replace(batch, mask_BT=part(batch, advantage_BT, generator) & batch.mask_BT)
        return batch.mask_BT

    def __str__(self) -> str:
        return " then ".join(map(str, self.parts))


_PIECES: dict[str, dict[str, PieceSpec]] = {kind: {} for kind in (*KINDS, CORRECTION)}


def _config_model(function: Callable[..., Any]) -> type[BaseModel]:
    hints = get_type_hints(function, include_extras=True)
    fields: dict[str, Any] = {
        p.name: (hints[p.name], ... if p.default is p.empty else p.default)
        for p in inspect.signature(function).parameters.values()
        if p.kind is p.KEYWORD_ONLY
    }
    return create_model(f"{function.__name__}_config", __config__=STRICT, **fields)


def piece(kind: str, name: str, *needs: str, gives: Iterable[str] = ()) -> Callable[[F], F]:
    """Register a function as the piece `name` of `kind`."""

    def register(function: F) -> F:
        _PIECES[kind][name] = PieceSpec(function, _config_model(function), frozenset(needs), frozenset(gives))
        return function

    return register


def names(kind: str) -> list[str]:
    """The registered names of a kind, without those of users' own files."""
    return sorted(name for name in _PIECES[kind] if ".py:" not in name)


def giving(kind: str, what: str) -> list[str]:
    """The registered names of a kind that give `what`."""
    return sorted(name for name, spec in _PIECES[kind].items() if what in spec.gives)


def make(kind: str, name: str, /, **config: Any) -> Piece:
    """The piece `name` of `kind`, `config` over its defaults; UserError for an unknown name or key, or a bad value.

    `path/to/file.py:function` is a function of a user's own file, with the arguments of that kind of piece; what it
    needs or gives it says with the decorator `piece`, or it needs and gives nothing.
    """
    if ".py:" in name:
        function = find_in_file(name, "function", inspect.isfunction)
        decorated = [spec for spec in _PIECES[kind].values() if spec.function is function]
        _PIECES[kind][name] = decorated[0] if decorated else PieceSpec(function, _config_model(function))
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
