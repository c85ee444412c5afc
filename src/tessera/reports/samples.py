"""Which completions a report shows."""

from __future__ import annotations

from collections.abc import Iterable

from tessera.reports.summary import Row

STEPS = 2  # shown from the start, and as many from the end


def choose(rows: Iterable[Row], steps: int = STEPS) -> list[tuple[int, list[Row]]]:
    """The chosen completions of the first and the last `steps` steps, in order.

    Of each step: the highest reward, the lowest, and the first whose reward failed. Reads `rows` once and holds no
    more than these steps.
    """
    held: dict[int, list[Row]] = {}
    for row in rows:
        if row["step"] not in held and len(held) == 2 * steps:
            del held[list(held)[steps]]
        held.setdefault(row["step"], []).append(row)
    return [(step, _chosen(found)) for step, found in held.items()]


def _chosen(rows: list[Row]) -> list[Row]:
    scored = sorted((row for row in rows if row.get("reward") is not None), key=lambda row: -row["reward"])
    failed = [row for row in rows if row.get("reward") is None]
    return [*scored[:1], *scored[1:][-1:], *failed[:1]]
