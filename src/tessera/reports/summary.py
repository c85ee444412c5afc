"""A run in a few numbers, from the rows of metrics.jsonl."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any

Row = Mapping[str, Any]


def summarise(
    rows: Iterable[Row],
    *,
    algorithm: str = "",
    model: str = "",
    task: str = "",
    status: str = "finished",
    composition: str = "",
    gain: Mapping[str, Any] | None = None,
    pairs: Sequence[Mapping[str, Any]] = (),
    stages: Sequence[Mapping[str, Any]] = (),
    solved: Mapping[str, Sequence[bool]] | None = None,
) -> dict[str, Any]:
    """The content of summary.json.

    `composition` is the algorithm's pieces, one a line. `gain` is the paired comparison of two evaluations
    (`from`, `to`, `difference`, `ci`); without it the difference of the first and the last is given, and `ci` is null.
    `pairs` are those of every two evaluations; `stages` say what each stage worked with; `solved` is by evaluation, in
    order, which test problems were solved. Token counts are sums over the RL steps, except `contributing_per_example`,
    the mean of the steps' means.
    """
    rows = list(rows)
    rl = of_kind(rows, "rl")
    accuracy = accuracies(rows)
    return {
        "status": status,
        "algorithm": algorithm,
        "composition": composition,
        "model": model,
        "task": task,
        "steps": max((row["step"] for row in rows), default=0),
        "seconds": max(values(rows, "seconds"), default=0.0),
        "accuracy": accuracy,
        "gain": dict(gain) if gain else _gain(accuracy),
        "pairs": [dict(pair) for pair in pairs],
        "stages": [dict(stage) for stage in stages],
        "solved": {label: "".join("01"[bool(one)] for one in line) for label, line in (solved or {}).items()},
        "tokens": {
            "generated": sum(values(rl, "tokens/generated")),
            "contributing": sum(values(rl, "tokens/contributing")),
            "contributing_per_example": mean(values(rl, "tokens/contributing_per_example")),
            "scored": sum(values(rl, "tokens/scored")),
        },
    }


def of_kind(rows: Iterable[Row], kind: str) -> list[Row]:
    """The rows of one kind: `sft`, `rl` or `eval`."""
    return [row for row in rows if row["kind"] == kind]


def values(rows: Iterable[Row], key: str) -> list[float]:
    """The values of `key` in the rows that have one (null is none)."""
    return [row[key] for row in rows if row.get(key) is not None]


def mean(numbers: Sequence[float]) -> float | None:
    """The mean, or None of nothing."""
    return fmean(numbers) if numbers else None


def accuracies(rows: Iterable[Row]) -> dict[str, dict[str, Any]]:
    """`{label: {value, ci, n}}` of the labelled evaluations in the order of their steps, the last of a label counting.

    Those of a mixture have `parts` beside. They are those on the test split, or on the validation split in a run that
    has no other.
    """
    scored = [row for row in of_kind(rows, "eval") if row.get("accuracy/value") is not None]
    evaluations = [row for row in scored if row.get("label")]
    tests = [row for row in evaluations if row.get("split") == "test"]
    found: dict[str, dict[str, Any]] = {}
    for row in sorted(tests or evaluations, key=lambda row: row["step"]):
        found.pop(row["label"], None)
        found[row["label"]] = {
            "value": row["accuracy/value"],
            "ci": [row.get("accuracy/ci_low"), row.get("accuracy/ci_high")],
            "n": row.get("accuracy/n"),
            **_parts(row),
        }
    return found


def _parts(row: Row) -> dict[str, Any]:
    """`{parts: {name: {value, ci, n}}}` of an evaluation of a mixture; nothing of another."""
    names = [key.split("/")[1] for key in row if re.fullmatch("part/[^/]+/accuracy", key)]
    parts = {
        name: {
            "value": row[f"part/{name}/accuracy"],
            "ci": [row[f"part/{name}/ci_low"], row[f"part/{name}/ci_high"]],
            "n": row[f"part/{name}/n"],
        }
        for name in names
    }
    return {"parts": parts} if parts else {}


def _gain(accuracy: Mapping[str, Mapping[str, Any]]) -> dict[str, Any] | None:
    """From the first labelled evaluation to the last; None where there are not two."""
    if len(accuracy) < 2:
        return None
    labels = list(accuracy)
    before, after = accuracy[labels[0]]["value"], accuracy[labels[-1]]["value"]
    return {"from": labels[0], "to": labels[-1], "difference": after - before, "ci": None}
