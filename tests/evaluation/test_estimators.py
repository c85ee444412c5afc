from itertools import combinations
from math import pi, prod, sqrt, tan
from statistics import fmean, stdev

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tessera.core.errors import UserError
from tessera.evaluation.estimators import (
    avg_at_k,
    bootstrap_interval,
    bootstrap_means,
    maj_at_k,
    mean_interval,
    paired_difference_interval,
    pass_at_k,
    student_quantile,
    wilson_interval,
)

# In the arithmetic below Z = 1.959963985, the 0.975 quantile of the normal distribution, and Z² = 3.841458821.


def test_wilson_by_hand() -> None:
    # p = 0.5, n = 10: the centre is 0.5; half = Z √(0.025 + Z²/400) / (1 + Z²/10)
    #   = 1.959964 * √(0.025 + 0.009603647) / 1.384145882 = 1.959964 * 0.18602056 / 1.384145882 = 0.263407
    assert wilson_interval(5, 10) == pytest.approx((0.236593, 0.763407), abs=1e-6)


def test_wilson_at_the_ends() -> None:
    # p = 0: the upper bound is (Z²/n) / (1 + Z²/n) = Z² / (n + Z²) = 3.841459 / 13.841459 = 0.277533
    low, high = wilson_interval(0, 10)
    assert (low, high) == (0.0, pytest.approx(0.277533, abs=1e-6))
    low, high = wilson_interval(10, 10)
    assert (low, high) == (pytest.approx(1 - 0.277533, abs=1e-6), 1.0)


def test_wilson_confidence() -> None:
    # z = 1 at 68.2689 %: p = 0, n = 9 gives 1 / (9 + 1) = 0.1
    assert wilson_interval(0, 9, confidence=0.6826894921370859)[1] == pytest.approx(0.1, abs=1e-9)


@given(st.integers(1, 10_000), st.data())
def test_wilson_lies_in_the_unit_interval_holds_p_and_is_symmetric(n: int, data: st.DataObject) -> None:
    successes = data.draw(st.integers(0, n))
    low, high = wilson_interval(successes, n)
    assert 0 <= low <= successes / n <= high <= 1
    mirrored = wilson_interval(n - successes, n)
    assert mirrored == pytest.approx((1 - high, 1 - low), abs=1e-12)


@pytest.mark.parametrize("counts", [(0, 0), (-1, 5), (6, 5)])
def test_wilson_refuses_impossible_counts(counts: tuple[int, int]) -> None:
    with pytest.raises(UserError, match=f"successes = {counts[0]} of n = {counts[1]}"):
        wilson_interval(*counts)


def pairs(both: int, lost: int, won: int, neither: int) -> tuple[list[bool], list[bool]]:
    before = [True] * both + [True] * lost + [False] * won + [False] * neither
    after = [True] * both + [False] * lost + [True] * won + [False] * neither
    return before, after


def test_paired_by_hand() -> None:
    # n = 98, 4 lost, 14 won: p_lost = 5/100, p_won = 15/100, centre 0.10,
    # half = Z √((0.05 + 0.15 - 0.01) / 100) = 1.959964 * √0.0019 = 1.959964 * 0.04358899 = 0.08543285
    difference, low, high = paired_difference_interval(*pairs(50, 4, 14, 30))
    assert difference == pytest.approx(10 / 98)
    assert (low, high) == pytest.approx((0.01456715, 0.18543285), abs=1e-8)


def test_equal_answers_still_leave_some_doubt() -> None:
    # n = 98, none lost or won: both are 1/100, centre 0, half = Z √(0.02 / 100) = 1.959964 * 0.01414214 = 0.02771808
    result = paired_difference_interval(*pairs(60, 0, 0, 38))
    assert result == pytest.approx((0.0, -0.02771808, 0.02771808), abs=1e-8)


def test_pairing_matters_and_the_marginals_do_not() -> None:
    # 50 of 100 right before and 60 after, both times; but once 10 questions changed, once 90 did.
    few, many = pairs(50, 0, 10, 40), pairs(10, 40, 50, 0)
    narrow, wide = paired_difference_interval(*few), paired_difference_interval(*many)
    assert narrow.difference == wide.difference == pytest.approx(0.1)
    assert narrow.low > 0 > wide.low


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=200))
def test_paired_holds_the_difference_and_turns_round(answers: list[tuple[bool, bool]]) -> None:
    before, after = zip(*answers, strict=True)
    result = paired_difference_interval(before, after)
    assert result.difference == pytest.approx(sum(after) / len(after) - sum(before) / len(before))
    assert -1 <= result.low <= result.difference <= result.high <= 1
    back = paired_difference_interval(after, before)
    assert back == pytest.approx((-result.difference, -result.high, -result.low))


@pytest.mark.parametrize(("before", "after"), [([], []), ([True], [True, False])])
def test_paired_refuses_answers_to_other_questions(before: list[bool], after: list[bool]) -> None:
    with pytest.raises(UserError, match=f"before has {len(before)} answers and after {len(after)}"):
        paired_difference_interval(before, after)


@pytest.mark.parametrize("confidence", [0, 1, 95])
def test_confidence_is_a_fraction(confidence: float) -> None:
    with pytest.raises(UserError, match=f"confidence = {confidence} must lie between 0 and 1"):
        wilson_interval(1, 2, confidence)
    with pytest.raises(UserError, match=f"confidence = {confidence} must lie between 0 and 1"):
        paired_difference_interval([True], [True], confidence)
    with pytest.raises(UserError, match=f"confidence = {confidence} must lie between 0 and 1"):
        mean_interval([0.1, 0.2], confidence=confidence)


# Over seeds


@pytest.mark.parametrize(
    ("degrees", "at_95", "at_99"),
    [  # the printed tables of Student's t, two-sided
        (1, 12.706, 63.657),
        (2, 4.303, 9.925),
        (3, 3.182, 5.841),
        (4, 2.776, 4.604),
        (5, 2.571, 4.032),
        (9, 2.262, 3.250),
        (10, 2.228, 3.169),
        (29, 2.045, 2.756),
        (30, 2.042, 2.750),
        (120, 1.980, 2.617),
    ],
)
def test_student_quantiles_are_those_of_the_tables(degrees: int, at_95: float, at_99: float) -> None:
    assert student_quantile(degrees) == pytest.approx(at_95, abs=5e-4)
    assert student_quantile(degrees, 0.99) == pytest.approx(at_99, abs=5e-4)


@pytest.mark.parametrize("confidence", [0.01, 0.5, 0.95, 0.999])
def test_student_quantiles_in_closed_form(confidence: float) -> None:
    # One degree: P(|T| < t) = 2/π arctan t. Two: t / √(2 + t²). Four: t (t² + 6) / (t² + 4)^1.5.
    assert student_quantile(1, confidence) == pytest.approx(tan(pi / 2 * confidence), rel=1e-9)
    assert student_quantile(2, confidence) == pytest.approx(confidence * sqrt(2 / (1 - confidence**2)), rel=1e-9)
    t = student_quantile(4, confidence)
    assert t * (t * t + 6) / (t * t + 4) ** 1.5 == pytest.approx(confidence, rel=1e-9)


def test_with_many_degrees_student_is_normal() -> None:
    # z + (z³ + z) / 4n is the first term of the expansion (Abramowitz and Stegun 26.7.5): 1.959964 + 9.489165 / 4n.
    assert student_quantile(10_000) == pytest.approx(1.959964 + 9.489165 / 40_000, abs=1e-6)


def test_mean_interval_by_hand() -> None:
    # 1, 2, 3, 4, 5: mean 3, squares 4 + 1 + 0 + 1 + 4 = 10, s = √(10/4) = 1.58113883, t = 2.77644511 (4 degrees):
    # half = 2.77644511 * 1.58113883 / √5 = 2.77644511 * 0.70710678 = 1.96324317
    found = mean_interval([1, 2, 3, 4, 5])
    assert found == pytest.approx((3.0, 1.03675683, 4.96324317), abs=1e-7)


def test_mean_interval_of_two_is_wide_and_cut() -> None:
    # 0.4 and 0.6: s = √(2 * 0.01) = 0.14142136, half = 12.70620474 * 0.14142136 / √2 = 1.27062047
    assert mean_interval([0.4, 0.6]) == pytest.approx((0.5, -0.77062047, 1.77062047), abs=1e-7)
    assert mean_interval([0.4, 0.6], within=(0, 1)) == pytest.approx((0.5, 0.0, 1.0))


@given(st.lists(st.floats(-1, 1), min_size=2, max_size=30), st.floats(-3, 3))
def test_mean_interval_holds_the_mean_and_moves_with_the_values(values: list[float], by: float) -> None:
    found = mean_interval(values)
    assert found.low <= found.mean <= found.high
    assert mean_interval([value + by for value in values]) == pytest.approx([bound + by for bound in found], abs=1e-9)


@pytest.mark.parametrize("values", [[], [0.5]])
def test_mean_interval_refuses_less_than_two(values: list[float]) -> None:
    with pytest.raises(UserError, match=f"an interval over {len(values)} values"):
        mean_interval(values)


def test_student_refuses_no_degrees() -> None:
    with pytest.raises(UserError, match="degrees = 0 must be at least 1"):
        student_quantile(0)


def test_avg_at_k_by_hand() -> None:
    assert avg_at_k([True, False, False, True, False]) == 0.4


@pytest.mark.parametrize(
    ("n", "solved", "k", "expected"),
    [
        (4, 1, 2, 1 / 2),  # of the six pairs of 4 attempts three hold the one that solved
        (5, 2, 3, 9 / 10),  # of ten triples only the three that failed together do not
        (5, 2, 1, 2 / 5),
        (5, 0, 3, 0.0),
        (5, 3, 3, 1.0),  # two failures cannot fill three places
        (16, 16, 16, 1.0),
    ],
)
def test_pass_at_k_by_hand(n: int, solved: int, k: int, expected: float) -> None:
    assert pass_at_k(n, solved, k) == expected


@given(st.data())
def test_pass_at_k_is_the_share_of_subsets_and_the_product_form(data: st.DataObject) -> None:
    """Counted over all subsets, and as the paper's code multiplies it: 1 - prod_{i=n-c+1}^{n} (1 - k/i)."""
    n = data.draw(st.integers(1, 9))
    solved, k = data.draw(st.integers(0, n)), data.draw(st.integers(1, n))
    subsets = list(combinations([True] * solved + [False] * (n - solved), k))
    assert pass_at_k(n, solved, k) == pytest.approx(sum(map(any, subsets)) / len(subsets), abs=1e-15)
    product = prod(1 - k / i for i in range(n - solved + 1, n + 1)) if n - solved >= k else 0.0
    assert pass_at_k(n, solved, k) == pytest.approx(1 - product, abs=1e-12)


def test_pass_at_k_keeps_its_digits_where_a_difference_from_one_would_lose_them() -> None:
    # One of 10^6 attempts solved, k = 1: exactly 10^-6. And numbers far beyond a float's range.
    assert pass_at_k(10**6, 1, 1) == 1e-6
    assert pass_at_k(4000, 1, 2000) == 0.5


@pytest.mark.parametrize(("n", "solved", "k"), [(4, 1, 5), (4, 5, 2), (4, -1, 2), (4, 1, 0)])
def test_pass_at_k_refuses_what_cannot_be(n: int, solved: int, k: int) -> None:
    with pytest.raises(UserError, match=f"pass@{k} of {solved} solved among {n}"):
        pass_at_k(n, solved, k)


@pytest.mark.parametrize(
    ("answers", "solved", "expected"),
    [
        (["7", "7", "8"], [True, True, False], 1.0),
        (["7", "8", "8"], [True, False, False], 0.0),
        (["7", "8", "9"], [True, False, False], 1 / 3),  # a tie of three: the expectation over them
        (["7", "7", "8", "8", "9"], [True, True, False, False, False], 1 / 2),
        ([None, None, "7"], [False, False, True], 1.0),  # who gives no answer does not vote
        ([None, None], [False, False], 0.0),
        (["7", "7", "8"], [True, False, False], 1 / 2),  # right by half of its attempts
    ],
)
def test_maj_at_k_by_hand(answers: list[str | None], solved: list[bool], expected: float) -> None:
    assert maj_at_k(answers, solved) == pytest.approx(expected)


def test_attempts_are_needed() -> None:
    with pytest.raises(UserError, match="avg@k of no attempts"):
        avg_at_k([])
    with pytest.raises(UserError, match="maj@k of 1 answers and 2 results"):
        maj_at_k(["7"], [True, False])
    with pytest.raises(UserError, match="a bootstrap of no values"):
        bootstrap_interval([])


def test_the_bootstrap_of_two_values_by_hand() -> None:
    # Means of two draws from {0, 1}: 0, 1/2, 1 with 1/4, 1/2, 1/4; the outer 2.5 % are 0 and 1, the middle half is 1/2.
    assert bootstrap_interval([0.0, 1.0]) == (0.5, 0.0, 1.0)
    assert bootstrap_interval([0.0, 1.0], confidence=0.4) == (0.5, 0.5, 0.5)
    assert bootstrap_interval([0.3, 0.3]) == pytest.approx((0.3, 0.3, 0.3))


def test_the_bootstrap_agrees_with_the_normal_interval_of_many_values() -> None:
    values = [(i * 37 % 101) / 101 for i in range(1000)]
    half = 1.959964 * stdev(values) / 1000**0.5
    found = bootstrap_interval(values)
    assert (found.low, found.high) == pytest.approx((fmean(values) - half, fmean(values) + half), abs=0.05 * half)


def test_the_bootstrap_has_a_seed_and_as_many_means_as_were_asked_for() -> None:
    values = [0.0, 0.25, 1.0] * 5
    assert list(bootstrap_means(values, 3, 50)) == list(bootstrap_means(values, 3, 50))
    assert list(bootstrap_means(values, 3, 50)) != list(bootstrap_means(values, 4, 50))
    assert len(bootstrap_means([0.5] * 300_001, 0, 7)) == 7
