"""The order of problems is data: each once an epoch, and the same after a restart."""

from __future__ import annotations

import json
from collections import Counter
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tessera.core.errors import UserError
from tessera.training.sampler import ProblemSampler, WeightedSampler


@given(st.integers(1, 20), st.integers(0, 5), st.lists(st.integers(0, 30), max_size=6))
def test_every_problem_once_an_epoch(n: int, seed: int, counts: list[int]) -> None:
    sampler = ProblemSampler(range(n), seed)
    taken = [i for count in counts for i in sampler.take(count)]
    assert len(taken) == sum(counts)
    for start in range(0, len(taken) - n + 1, n):
        assert sorted(taken[start : start + n]) == list(range(n))


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    sampler = ProblemSampler(range(50), 7)
    first, second = sampler.take(50), sampler.take(50)
    assert first != second
    assert first != list(range(50))
    assert ProblemSampler(range(50), 8).take(50) != first
    assert ProblemSampler(range(50), 7).take(50) == first


@given(st.integers(1, 12), st.integers(0, 40))
def test_a_restored_sampler_goes_on(n: int, before: int) -> None:
    sampler = ProblemSampler(range(n), 3)
    sampler.take(before)
    state = json.loads(json.dumps(sampler.state()))
    other = ProblemSampler(range(n), 3)
    other.take(5)
    other.restore(state)
    assert other.take(25) == sampler.take(25)


def test_other_data_is_refused() -> None:
    with pytest.raises(UserError, match="made with 5 problems, the task now has 6"):
        ProblemSampler(range(6), 0).restore(ProblemSampler(range(5), 0).state())


@given(st.lists(st.integers(0, 4), min_size=1, max_size=15), st.integers(0, 5))
def test_by_rank_an_epoch_goes_up_and_equals_change_places(ranks: list[int], seed: int) -> None:
    sampler = ProblemSampler(range(len(ranks)), seed, rank=lambda i: ranks[i])
    for _ in range(3):
        epoch = sampler.take(len(ranks))
        assert sorted(epoch) == list(range(len(ranks)))
        assert [ranks[i] for i in epoch] == sorted(ranks)


def test_the_order_of_equals_is_drawn_anew_every_epoch() -> None:
    sampler = ProblemSampler(range(20), 1, rank=lambda i: i % 2)
    first, second = sampler.take(20), sampler.take(20)
    assert first != second
    assert first[:10] != sorted(first[:10])


@given(st.integers(1, 10), st.integers(0, 5), st.integers(1, 40))
def test_what_is_not_admitted_is_passed_over_and_the_rest_comes_once_an_epoch(n: int, seed: int, count: int) -> None:
    opens = [1 + (i * 7) % 5 if i else 1 for i in range(n)]  # the step from which on each takes part; 0 at once
    sampler = ProblemSampler(range(n), seed, admits=lambda i, step: step >= opens[i])
    drawn = [(step, sampler.next(step)) for step in (1 + k * 6 // count for k in range(count))]
    assert all(step >= opens[i] for step, i in drawn)
    closed = ProblemSampler(range(n), seed, admits=lambda i, step: step >= opens[i])
    always = [i for i in range(n) if opens[i] == 1]
    for _ in range(3):
        assert sorted(closed.take(len(always), step=1)) == always


SHARES = st.lists(st.sampled_from([0.1, 0.3, 0.5, 1.0, 2.0, 3.0, 7.0, 97.0]), min_size=1, max_size=7)


def weighted(weights: list[float], seed: int = 0) -> WeightedSampler:
    """Sampler k draws from 10 k, 10 k + 1, 10 k + 2."""
    samplers = {f"p{k}": ProblemSampler(range(10 * k, 10 * k + 3), seed + k) for k in range(len(weights))}
    return WeightedSampler(samplers, {f"p{k}": w for k, w in enumerate(weights)})


@given(SHARES, st.integers(1, 120))
def test_every_count_is_within_one_draw_of_its_share_at_every_moment(weights: list[float], draws: int) -> None:
    sampler, counts, total = weighted(weights), Counter[int](), sum(map(Fraction, map(str, weights)))
    bound = 1 - Fraction(1, max(1, 2 * len(weights) - 2))
    for t in range(1, draws + 1):
        counts[sampler.next(1) // 10] += 1
        for k, weight in enumerate(weights):
            assert abs(counts[k] - t * Fraction(str(weight)) / total) <= bound


def test_turns_by_hand() -> None:
    # Shares 1/4 and 3/4, k = 2, so 1/2 behind is late. Shares x draws - drawn before each draw:
    # 1: (1/4, 3/4) second; 2: (1/2, 1/2) both, a deadline (1 - 1/2 - 1/2) / share = 0 each: the first;
    # 3: (-1/4, 5/4) second; 4: (0, 1) second; and again from the start.
    assert [i // 10 for i in weighted([1, 3]).take(8)] == [1, 0, 1, 1, 1, 0, 1, 1]


@given(SHARES, st.integers(0, 40))
def test_a_restored_weighted_sampler_goes_on(weights: list[float], before: int) -> None:
    sampler, other = weighted(weights), weighted(weights)
    sampler.take(before)
    other.take(7)
    other.restore(json.loads(json.dumps(sampler.state())))
    assert other.take(30) == sampler.take(30)
    assert other.state() == sampler.state()


def test_within_a_sampler_every_problem_comes_once_an_epoch_whatever_the_weights() -> None:
    drawn = weighted([1, 2, 5]).take(80)
    for k in range(3):
        own = [i for i in drawn if i // 10 == k]
        assert len(own) in (10, 20, 50)
        assert all(sorted(own[at : at + 3]) == [10 * k, 10 * k + 1, 10 * k + 2] for at in range(0, len(own) - 2, 3))


def test_other_parts_are_refused() -> None:
    with pytest.raises(UserError, match="made with problems of p0, p1, p2; now there are p0, p1"):
        weighted([1, 1]).restore(weighted([1, 1, 1]).state())
