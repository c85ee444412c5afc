"""Micro-batches: every row once, within the budget, shared prefixes together; padded ones by prompt and length."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tessera.policy.forest import Row, plant
from tessera.training.batching import micro_batches, padding, slots


def row(prompt: int, length: int, last: int, first: int = 0) -> Row:
    return Row((prompt,) * length, (first, *range(1, last + 1)), (last,))


def test_packed_costs_by_hand() -> None:
    rows = [row(1, 10, 5), row(2, 4, 5), row(1, 10, 2), row(1, 10, 3, first=9)]
    # Prompt 1 with its first two rows, one of which begins the other: 10 + 5. The third begins with a 9: 3 more.
    # Prompt 2 and its row: 9 more.
    assert micro_batches(rows, 27) == [[2, 0, 3, 1]]
    assert micro_batches(rows, 26) == [[2, 0, 3], [1]]
    assert micro_batches(rows, 18) == [[2, 0, 3], [1]]
    assert micro_batches(rows, 17) == [[2, 0], [3], [1]]
    assert micro_batches(rows, 1) == [[2], [0], [3], [1]]  # a row that exceeds the budget goes alone


def test_padded_costs_by_hand() -> None:
    rows = [row(1, 10, 5), row(2, 4, 5), row(1, 10, 2), row(1, 10, 3)]
    # Prompt 1 has 10 tokens; its rows 2, 3 and 5: 10 + 2*3 = 16 with two, 10 + 3*5 = 25 with three. Prompt 2 joins at
    # 2*10 + 4*5 = 40, of which its own 6 and 0 + 2 + 3 + 0 of the rows hold no token.
    assert micro_batches(rows, 40, packed=False) == [[2, 3, 0, 1]]
    assert micro_batches(rows, 39, packed=False) == [[2, 3, 0], [1]]
    assert micro_batches(rows, 25, packed=False) == [[2, 3, 0], [1]]
    assert micro_batches(rows, 16, packed=False) == [[2, 3], [0], [1]]
    assert micro_batches(rows, 1, packed=False) == [[2], [3], [0], [1]]
    assert padding(rows) == 6 + 5


@pytest.mark.parametrize("packed", [True, False])
def test_nothing_is_no_micro_batch(packed: bool) -> None:
    assert micro_batches([], 100, packed=packed) == []


ROWS = st.lists(st.builds(row, st.integers(1, 3), st.integers(1, 6), st.integers(0, 8), st.integers(0, 2)), max_size=20)


@given(ROWS, st.integers(1, 120), st.booleans())
def test_every_row_once_within_the_budget(rows: list[Row], budget: int, packed: bool) -> None:
    cuts = micro_batches(rows, budget, packed=packed)
    assert sorted(i for cut in cuts for i in cut) == list(range(len(rows)))
    for members in ([rows[i] for i in cut] for cut in cuts):
        cost = len(plant(members)) if packed else slots(members)
        assert cost <= budget or len(members) == 1


@given(ROWS, st.integers(1, 120))
def test_padded_rows_of_one_prompt_are_neighbours_shortest_first(rows: list[Row], budget: int) -> None:
    order = [rows[i] for cut in micro_batches(rows, budget, packed=False) for i in cut]
    assert order == sorted(order, key=lambda r: (r.prompt_ids, r.positions[-1]))
