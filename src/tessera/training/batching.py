"""Cutting a step's planned rows into micro-batches by a token budget. How they are cut changes no loss or gradient."""

from __future__ import annotations

from collections.abc import Sequence

from tessera.policy.forest import Row, common, in_order

SPARE = Row((0,), (0,), (0,))  # is scored and counts for nothing, where another process has rows


def micro_batches(rows: Sequence[Row], budget: int, *, packed: bool = True) -> list[list[int]]:
    """Indices of `rows` in micro-batches of at most `budget` tokens each (one row may exceed it alone).

    Packed rows are cut in the order of a forest, so that shared prefixes stay together, and cost their distinct
    prefixes. Rows that are to be padded stay with their prompt, sorted by length, and cost their slots.
    """
    return _packed(rows, budget) if packed else _padded(rows, budget)


def padding(rows: Sequence[Row]) -> int:
    """Slots that hold no token when the distinct prompts of `rows` are padded to the longest, and the rows likewise."""
    prompts = {row.prompt_ids for row in rows}
    return slots(rows) - sum(map(len, prompts)) - sum(row.positions[-1] for row in rows)


def slots(rows: Sequence[Row]) -> int:
    """Token slots of padded `rows`: distinct prompts, and what is fed of every row."""
    prompts = {row.prompt_ids for row in rows}
    return len(prompts) * max(map(len, prompts)) + len(rows) * max(row.positions[-1] for row in rows)


def _packed(rows: Sequence[Row], budget: int) -> list[list[int]]:
    cuts: list[list[int]] = []
    cost = 0
    last: tuple[int, ...] = ()
    for i in in_order(rows):
        fed = rows[i].fed
        cost += len(fed) - common(last, fed)
        if cuts and cost <= budget:
            cuts[-1].append(i)
        else:
            cuts.append([i])
            cost = len(fed)
        last = fed
    return cuts


def _padded(rows: Sequence[Row], budget: int) -> list[list[int]]:
    cuts: list[list[int]] = []
    for i in sorted(range(len(rows)), key=lambda i: (rows[i].prompt_ids, rows[i].positions[-1])):
        if cuts and slots([rows[k] for k in (*cuts[-1], i)]) <= budget:
            cuts[-1].append(i)
        else:
            cuts.append([i])
    return cuts
