"""Two evaluations on the same questions, against values by hand and independent formulas."""

from __future__ import annotations

import random
from math import comb, sqrt
from statistics import NormalDist, fmean, stdev

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tessera.core.errors import UserError
from tessera.evaluation.paired import mcnemar, paired_bootstrap


def test_mcnemar_by_hand() -> None:
    # Only the first solves 1, only the second 5: P(X <= 1), X ~ Bin(6, 1/2), is (1 + 6)/64; p = 14/64.
    first = [True] + [False] * 5 + [True, False]
    second = [False] + [True] * 5 + [True, False]
    assert mcnemar(first, second) == (1, 5, 14 / 64)
    assert mcnemar(second, first) == (5, 1, 14 / 64)


def test_mcnemar_without_a_difference_says_nothing() -> None:
    assert mcnemar([True, False], [True, False]) == (0, 0, 1.0)
    assert mcnemar([True, False], [False, True]).p == 1.0  # 2 P(X <= 1) of Bin(2, 1/2) is 3/2, cut


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=80))
def test_mcnemar_is_the_two_sided_binomial_test(pairs: list[tuple[bool, bool]]) -> None:
    b, c = sum(x and not y for x, y in pairs), sum(y and not x for x, y in pairs)
    ways = [comb(b + c, i) for i in range(b + c + 1)]  # all outcomes that are no likelier than the one seen
    expected = sum(w for w in ways if w <= ways[b]) / 2 ** (b + c)
    assert mcnemar([x for x, _ in pairs], [y for _, y in pairs]).p == pytest.approx(expected, abs=1e-12)


def test_the_paired_bootstrap_agrees_with_the_normal_interval_of_many_questions() -> None:
    source = random.Random(0)
    first = [float(source.random() < 0.4) for _ in range(2000)]
    second = [float(source.random() < 0.5) if source.random() < 0.5 else x for x in first]
    differences = [y - x for x, y in zip(first, second, strict=True)]
    half = NormalDist().inv_cdf(0.975) * stdev(differences) / sqrt(2000)
    found = paired_bootstrap(first, second)
    mean = fmean(differences)
    assert found.difference == mean
    assert (found.low, found.high) == pytest.approx((mean - half, mean + half), abs=0.05 * half)
    z = abs(mean) / (stdev(differences) / sqrt(2000))
    assert found.p == pytest.approx(2 * (1 - NormalDist().cdf(z)), abs=0.005)


def test_the_paired_bootstrap_draws_the_pair_and_not_the_sides() -> None:
    """A difference that is the same at every question is certain, however the scores themselves differ."""
    found = paired_bootstrap([0.0, 0.25, 0.5], [0.25, 0.5, 0.75], resamples=999)
    assert found == (0.25, 0.25, 0.25, 2 * 1 / 1000)
    assert paired_bootstrap([0.5, 0.5], [0.5, 0.5]).p == 1.0


def test_the_paired_bootstrap_has_a_seed() -> None:
    first, second = [0.0, 1.0, 0.0, 0.5], [1.0, 1.0, 0.0, 0.0]
    assert paired_bootstrap(first, second, 1) == paired_bootstrap(first, second, 1)
    assert paired_bootstrap(first, second, 1) != paired_bootstrap(first, second, 2)


@pytest.mark.parametrize(("first", "second"), [([], []), ([1.0], [1.0, 0.0])])
def test_both_need_the_same_questions(first: list[float], second: list[float]) -> None:
    for test in (mcnemar, paired_bootstrap):
        with pytest.raises(UserError, match=f"{len(first)} scores and {len(second)}: both need the same questions"):
            test(first, second)  # type: ignore[operator]
