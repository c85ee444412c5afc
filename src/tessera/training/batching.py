"""Cutting a step's planned rows into micro-batches by a token budget."""

from __future__ import annotations

from collections.abc import Sequence

from tessera.policy.logprobs import Row


def micro_batches(rows: Sequence[Row], budget: int) -> list[list[int]]:
    """Indices of `rows` in micro-batches of at most `budget` tokens each (one row may exceed it alone).

    Rows of one prompt stay together, since a micro-batch computes each of its prompts once; within a prompt rows go by
    length, which keeps padding small. A micro-batch costs its distinct prompts and its rows, padded to the longest of
    each. How rows are cut changes neither loss nor gradient.
    """
    order = sorted(range(len(rows)), key=lambda i: (rows[i].prompt_ids, rows[i].positions[-1]))
    cuts: list[list[int]] = []
    for i in order:
        if cuts and _cost([rows[k] for k in (*cuts[-1], i)]) <= budget:
            cuts[-1].append(i)
        else:
            cuts.append([i])
    return cuts


def _cost(rows: Sequence[Row]) -> int:
    prompts = {row.prompt_ids for row in rows}
    return len(prompts) * max(map(len, prompts)) + len(rows) * max(row.positions[-1] for row in rows)
