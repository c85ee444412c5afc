"""The order of problems is data: each once an epoch, and the same after a restart."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tessera.core.errors import UserError
from tessera.training.sampler import ProblemSampler


@given(st.integers(1, 20), st.integers(0, 5), st.lists(st.integers(0, 30), max_size=6))
def test_every_problem_once_an_epoch(n: int, seed: int, counts: list[int]) -> None:
    sampler = ProblemSampler(n, seed)
    taken = [i for count in counts for i in sampler.take(count)]
    assert len(taken) == sum(counts)
    for start in range(0, len(taken) - n + 1, n):
        assert sorted(taken[start : start + n]) == list(range(n))


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    sampler = ProblemSampler(50, 7)
    first, second = sampler.take(50), sampler.take(50)
    assert first != second
    assert first != list(range(50))
    assert ProblemSampler(50, 8).take(50) != first
    assert ProblemSampler(50, 7).take(50) == first


@given(st.integers(1, 12), st.integers(0, 40))
def test_a_restored_sampler_goes_on(n: int, before: int) -> None:
    sampler = ProblemSampler(n, 3)
    sampler.take(before)
    state = json.loads(json.dumps(sampler.state()))
    other = ProblemSampler(n, 3)
    other.take(5)
    other.restore(state)
    assert other.take(25) == sampler.take(25)


def test_other_data_is_refused() -> None:
    with pytest.raises(UserError, match="made with 5 problems, the task now has 6"):
        ProblemSampler(6, 0).restore(ProblemSampler(5, 0).state())
