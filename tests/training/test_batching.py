"""Micro-batches: every row once, within the budget, prompts together."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tessera.policy.logprobs import Row
from tessera.training.batching import micro_batches


def row(prompt: int, length: int, last: int) -> Row:
    return Row((prompt,) * length, tuple(range(last + 1)), (last,))


def cost(rows: list[Row]) -> int:
    """Every distinct prompt padded to the longest, and every row up to before its last planned token, padded alike."""
    prompts = {r.prompt_ids for r in rows}
    return len(prompts) * max(len(p) for p in prompts) + len(rows) * max(r.positions[-1] for r in rows)


def test_costs_by_hand() -> None:
    rows = [row(1, 10, 5), row(2, 4, 5), row(1, 10, 2), row(1, 10, 3)]
    # Prompt 1 has 10 tokens; its rows 2, 3 and 5: 10 + 2*3 = 16 with two, 10 + 3*5 = 25 with three. Prompt 2 joins at
    # 2*10 + 4*5 = 40.
    assert micro_batches(rows, 40) == [[2, 3, 0, 1]]
    assert micro_batches(rows, 39) == [[2, 3, 0], [1]]
    assert micro_batches(rows, 25) == [[2, 3, 0], [1]]
    assert micro_batches(rows, 16) == [[2, 3], [0], [1]]
    assert micro_batches(rows, 1) == [[2], [3], [0], [1]]  # a row that exceeds the budget goes alone


def test_nothing_is_no_micro_batch() -> None:
    assert micro_batches([], 100) == []


ROWS = st.lists(st.builds(row, st.integers(1, 3), st.integers(1, 6), st.integers(0, 8)), max_size=20)


@given(ROWS, st.integers(1, 120))
def test_every_row_once_within_the_budget(rows: list[Row], budget: int) -> None:
    cuts = micro_batches(rows, budget)
    assert sorted(i for cut in cuts for i in cut) == list(range(len(rows)))
    assert all(cost([rows[i] for i in cut]) <= budget or len(cut) == 1 for cut in cuts)


@given(ROWS, st.integers(1, 120))
def test_rows_of_one_prompt_are_neighbours_shortest_first(rows: list[Row], budget: int) -> None:
    order = [rows[i] for cut in micro_batches(rows, budget) for i in cut]
    assert order == sorted(order, key=lambda r: (r.prompt_ids, r.positions[-1]))
