"""The data of the credit view: which recorded groups a page shows, and each of them in few characters."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from statistics import fmean
from typing import Any, NamedTuple, Protocol

from tessera.core.errors import UserError
from tessera.reports import jsonl
from tessera.reports.branches import branches
from tessera.reports.summary import Row
from tessera.reports.text import cut, visible

Line = Sequence[float | None]
LONGEST_PROMPT = 4000  # characters shown
MISSES = 3  # groups too large for the room that is left, after which no more are tried


class Credit(NamedTuple):
    """One method's line for every completion of a group: advantage, weight, selected (0 or 1), push, in groups.jsonl's
    meaning."""

    advantage: list[Sequence[float]]
    weight: list[Line]
    selected: list[Line]
    push: list[Line]


Method = Callable[[Row], Credit]


class Rows(Protocol):
    """Rows by number, as a list has them."""

    def __len__(self) -> int:
        """How many."""

    def __getitem__(self, number: int, /) -> Row:
        """One of them."""


class View(NamedTuple):
    """The data as JSON that holds no `<`, and how many of the recorded groups are in it."""

    json: str
    shown: int
    recorded: int


def view(rows: Rows, trained: Mapping[str, str], methods: Mapping[str, Method], limit: int) -> View:
    """At most `limit` bytes of the groups in `rows`, evenly over the run; only those that are tried are read.

    `trained` names each stage's algorithm. `methods` are applied to the same rollouts; one that refuses a group with a
    UserError is shown with what it said.
    """
    packed: dict[int, str] = {}
    left, misses = limit - len("["), 0
    for n in spread(len(rows)):
        text = _json(pack(rows[n], trained, methods))
        if len(text) < left:
            packed[n] = text
            left -= len(text) + len(",")  # or the bracket that closes
        elif (misses := misses + 1) == MISSES:
            break
    return View(f"[{','.join(packed[n] for n in sorted(packed))}]", len(packed), len(rows))


def spread(count: int) -> list[int]:
    """0 to count - 1, any beginning of the list about even: the first, the last, the middle, the quarters, ..."""
    order: dict[int, None] = {}
    parts = 1
    while count and len(order) < count:
        order |= dict.fromkeys(i * (count - 1) // parts for i in range(parts + 1))
        parts *= 2
    return list(order)


def pack(row: Row, trained: Mapping[str, str], methods: Mapping[str, Method]) -> dict[str, Any]:
    """A row of groups.jsonl as the page's script reads it: log-probs to four decimals, constant lines as one number."""
    table: dict[tuple[int, str], int] = {}
    rollouts = [_rollout(rollout, table) for rollout in row["rollouts"]]
    stage = str(row["stage"])
    own = _packed(row, recorded(row)) | {"name": "as trained", "algorithm": visible(trained.get(stage, ""))}
    return {
        "step": row["step"],
        "stage": visible(stage),
        "replay": bool(row.get("replay")),
        "group": row["group"],
        "groups": row["groups"],
        "problem": visible(row["problem_id"]),
        "prompt": visible(cut(row["prompt"], LONGEST_PROMPT)),
        "table": [list(entry) for entry in table],
        "rollouts": rollouts,
        "methods": [own, *(_method(row, name, method) for name, method in methods.items())],
        "trie": branches(row),
    }


def recorded(row: Row) -> Credit:
    """What the run itself gave to each token."""
    lines = ([rollout[name] for rollout in row["rollouts"]] for name in Credit._fields)
    return Credit(*lines)


def covariances(row: Row, credit: Credit) -> list[list[float]]:
    """(log π - mean log π)(A - mean A) at the selected tokens, means over those of the group; 0 elsewhere."""
    logp = [logps(rollout) for rollout in row["rollouts"]]
    kept = [
        [bool(s) and lp is not None for s, lp in zip(*lines, strict=True)]
        for lines in zip(credit.selected, logp, strict=True)
    ]
    picked = [
        (lp, a)
        for lines in zip(kept, logp, credit.advantage, strict=True)
        for on, lp, a in zip(*lines, strict=True)
        if on
    ]
    mean_lp, mean_a = (fmean(column) for column in zip(*picked, strict=True)) if picked else (0.0, 0.0)
    return [
        [(lp - mean_lp) * (a - mean_a) if on else 0.0 for on, lp, a in zip(*lines, strict=True)]
        for lines in zip(kept, logp, credit.advantage, strict=True)
    ]


def logps(rollout: Row) -> list[Any]:
    """The policy's log-prob of each token: the last update's where it scored the token, else the sampler's."""
    return [s if n is None else n for n, s in zip(rollout["new"], rollout["sampler"], strict=True)]


def _method(row: Row, name: str, method: Method) -> dict[str, Any]:
    try:
        return _packed(row, method(row)) | {"name": name, "algorithm": name}
    except UserError as error:
        return {"name": name, "algorithm": name, "error": visible(error)}


def _packed(row: Row, credit: Credit) -> dict[str, Any]:
    """A method's lines: advantage, weight, selected, gradient share with its sign, covariance."""
    total = sum(abs(push) for push in chain(*credit.push) if push) or 1.0
    share = [[None if push is None else push / total for push in line] for line in credit.push]
    lines = zip(credit.advantage, credit.weight, credit.selected, share, covariances(row, credit), strict=True)
    return {
        "rollouts": [
            {"A": _numbers(a), "w": _numbers(w), "s": _bits(s), "g": _numbers(g), "c": _numbers(c)}
            for a, w, s, g, c in lines
        ]
    }


def _rollout(rollout: Row, table: dict[tuple[int, str], int]) -> dict[str, Any]:
    tokens = zip(rollout["ids"], map(visible, rollout["texts"]), strict=True)
    told: dict[str, Any] = {name: _logps(rollout[name]) for name in ("sampler", "new", "old", "ref")}
    if told["old"] == told["new"]:
        told["old"] = "new"
    return {
        "reward": rollout["reward"],
        "parts": {visible(name): value for name, value in (rollout.get("components") or {}).items()},
        "right": rollout.get("correct"),
        "end": rollout["finish_reason"],
        "t": [table.setdefault(token, len(table)) for token in tokens],
        "written": _bits(rollout["sampled"]),
        "entropy": _logps(rollout["entropy"]),
        **told,
    }


def _logps(values: Line) -> Any:
    return _constant([None if value is None else round(value, 4) for value in values])


def _numbers(values: Line) -> Any:
    return _constant([None if value is None else _short(value) for value in values])


def _short(value: float) -> float | int:
    """Four significant digits; an integer where it is one, which takes less room."""
    number = float(f"{value:.4g}")
    return int(number) if number == int(number) and abs(number) < 1e4 else number


def _bits(values: Iterable[Any]) -> Any:
    line = ["1" if value else "0" for value in values]
    return int(line[0]) if len(set(line)) == 1 else "".join(line)


def _constant(values: list[Any]) -> Any:
    return values[0] if len(set(values)) == 1 else values


def _json(value: Mapping[str, Any]) -> str:
    """ASCII JSON that can stand in a script element, whatever it says."""
    return jsonl.dumps(value, compact=True).replace("<", "\\u003c")


def of_stages(recipe: Mapping[str, Any]) -> dict[str, str]:
    """The algorithm's name of each stage of a recipe that has one."""
    return dict(_named(recipe))


def _named(recipe: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for stage in recipe.get("stages") or ():
        algorithm = stage.get("algorithm")
        if algorithm is not None:
            name = algorithm.get("name", "") if isinstance(algorithm, Mapping) else algorithm
            yield str(stage.get("name", stage.get("kind", ""))), str(name)
