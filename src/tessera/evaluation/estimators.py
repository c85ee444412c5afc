"""What answers are worth, and how sure that is: accuracy, several attempts a question, seeds.

Intervals: Wilson's for a share of questions, the bootstrap over questions for any other mean, Student's over seeds, and
Bonett and Price's for the change of a share on the same questions. `paired.py` has the tests for two evaluations.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import comb, cos, inf, pi, sin, sqrt, tan
from statistics import NormalDist, fmean, stdev
from typing import NamedTuple

import numpy as np

from tessera.core.errors import UserError

RESAMPLES = 10_000  # of a bootstrap: its bounds then move by a hundredth of the interval from seed to seed


class PairedDifference(NamedTuple):
    """How much an accuracy changed, as a fraction in [-1, 1], and the interval around it."""

    difference: float
    low: float
    high: float


class MeanInterval(NamedTuple):
    """A mean and the interval around it, in the unit of the values."""

    mean: float
    low: float
    high: float


def wilson_interval(successes: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """The score interval for a proportion (Wilson 1927, J. Am. Stat. Assoc. 22).

    With p = successes / n and z the normal quantile of (1 + confidence) / 2:

        (p + z²/2n ± z √(p (1 - p)/n + z²/4n²)) / (1 + z²/n)

    Returns (low, high) as fractions in [0, 1]. Raises UserError unless 0 <= successes <= n and n >= 1.
    """
    if n < 1 or not 0 <= successes <= n:
        raise UserError(f"successes = {successes} of n = {n}: it takes n >= 1 and 0 <= successes <= n")
    z, p = _quantile(confidence), successes / n
    centre = p + z * z / (2 * n)
    half = z * sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    # At the ends the bound is exactly 0 or 1; rounding may miss it by an ulp.
    low = 0.0 if successes == 0 else (centre - half) / scale
    high = 1.0 if successes == n else (centre + half) / scale
    return low, high


def paired_difference_interval(
    before: Sequence[bool], after: Sequence[bool], confidence: float = 0.95
) -> PairedDifference:
    """The change of accuracy between two models on the same questions, with an interval that uses the pairing.

    `before[i]` and `after[i]` tell whether question i was answered rightly. The interval is the adjusted Wald interval
    of Bonett and Price (2012, J. Educ. Behav. Stat. 37). With b questions lost, c questions won, and
    p_b = (b + 1)/(n + 2), p_c = (c + 1)/(n + 2):

        p_c - p_b ± z √((p_b + p_c - (p_c - p_b)²) / (n + 2)),   cut to [-1, 1]

    The difference itself is (c - b)/n. Questions answered alike by both count in n only, which is why this interval is
    narrower than one from two separate samples. Raises UserError unless both have the same length, at least 1.
    """
    n = len(before)
    if n < 1 or len(after) != n:
        raise UserError(f"before has {n} answers and after {len(after)}; both need the same questions, at least one")
    lost = sum(bool(b) and not a for b, a in zip(before, after, strict=True))
    won = sum(bool(a) and not b for b, a in zip(before, after, strict=True))
    p_lost, p_won = (lost + 1) / (n + 2), (won + 1) / (n + 2)
    centre = p_won - p_lost
    half = _quantile(confidence) * sqrt((p_lost + p_won - centre**2) / (n + 2))
    return PairedDifference((won - lost) / n, max(-1.0, centre - half), min(1.0, centre + half))


def avg_at_k(solved: Sequence[bool]) -> float:
    """The share of a question's attempts that solved it."""
    if not solved:
        raise UserError("avg@k of no attempts: it takes one at least")
    return sum(map(bool, solved)) / len(solved)


def pass_at_k(n: int, solved: int, k: int) -> float:
    """The chance that one at least of k attempts solves a question, from n >= k attempts of which `solved` did.

    The unbiased estimator of Chen et al. (2021, arXiv:2107.03374, Eq. 1), the share of the k-subsets of the n attempts
    that hold a success:

        1 - C(n - c, k) / C(n, k)

    It is one quotient of whole numbers, so no rounding enters before the last digit, however large they are. Raises
    UserError unless 1 <= k <= n and 0 <= solved <= n.
    """
    if not 1 <= k <= n or not 0 <= solved <= n:
        raise UserError(f"pass@{k} of {solved} solved among {n}: it takes 1 <= k <= n and 0 <= solved <= n")
    return (comb(n, k) - comb(n - solved, k)) / comb(n, k)


def maj_at_k(answers: Sequence[str | None], solved: Sequence[bool]) -> float:
    """Whether the most frequent of a question's k answers is right: 0 or 1, or between where answers tie.

    `answers[i]` is what attempt i answered, None where it gave no answer; those do not vote, and if nobody does the
    question is not solved. Of answers with equally many votes one is taken at random, so the value is its expectation:
    the mean over the tied answers. An answer counts as right by the share of its attempts that solved the question.
    Raises UserError unless both have the same length, at least 1.
    """
    if not answers or len(answers) != len(solved):
        raise UserError(f"maj@k of {len(answers)} answers and {len(solved)} results: it takes one of each at least")
    votes: dict[str, list[bool]] = {}
    for answer, right in zip(answers, solved, strict=True):
        if answer is not None:
            votes.setdefault(answer, []).append(bool(right))
    most = max(map(len, votes.values()), default=0)
    leading = [avg_at_k(rights) for rights in votes.values() if len(rights) == most]
    return fmean(leading) if leading else 0.0


def bootstrap_means(values: Sequence[float], seed: int = 0, resamples: int = RESAMPLES) -> np.ndarray:
    """The means of `resamples` draws with replacement of as many values as there are, [resamples] long."""
    if not values:
        raise UserError("a bootstrap of no values: it takes one at least")
    given, source = np.asarray(values, dtype=np.float64), np.random.default_rng(seed)
    at_once = max(1, 1_000_000 // len(given))  # indices in memory
    sizes = [min(at_once, resamples - start) for start in range(0, resamples, at_once)]
    return np.concatenate([given[source.integers(len(given), size=(n, len(given)))].mean(axis=1) for n in sizes])


def bootstrap_interval(
    values: Sequence[float], seed: int = 0, confidence: float = 0.95, resamples: int = RESAMPLES
) -> MeanInterval:
    """The mean of `values`, one a question, and its percentile bootstrap interval (Efron 1979) over questions.

    The bounds are the (1 - confidence)/2 and (1 + confidence)/2 quantiles of the means of `bootstrap_means`. Attempts
    at one question stay together, so that it is about other questions of the same kind. Where all values are equal
    the interval is that point, and says nothing.
    """
    _check_confidence(confidence)
    means = bootstrap_means(values, seed, resamples)
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return MeanInterval(fmean(values), float(low), float(high))


def mean_interval(
    values: Sequence[float], within: tuple[float, float] = (-inf, inf), confidence: float = 0.95
) -> MeanInterval:
    """The mean of independent values, such as a run's accuracy by seed, and Student's t interval (1908, Biometrika 6).

    With n values, their mean m, and their standard deviation s (which divides by n - 1):

        m ± t s / √n,   cut to `within`;   t the quantile of (1 + confidence) / 2 with n - 1 degrees of freedom

    The interval is about other values of the same kind: from runs that differ in their seeds it tells what other seeds
    would give on the same questions. Raises UserError unless there are two values at least.
    """
    n = len(values)
    if n < 2:
        raise UserError(f"an interval over {n} values: it takes two at least")
    mean = fmean(values)
    half = student_quantile(n - 1, confidence) * stdev(values) / sqrt(n)
    return MeanInterval(mean, max(within[0], mean - half), min(within[1], mean + half))


def student_quantile(degrees: int, confidence: float = 0.95) -> float:
    """The t that |T| stays below with probability `confidence`, T of Student's distribution with `degrees` of freedom.

    Found by bisection of the distribution in closed form (Abramowitz and Stegun 1964, 26.7.3 and 26.7.4), which is in
    the angle θ = arctan(t / √degrees). Raises UserError for degrees below 1.
    """
    _check_confidence(confidence)
    if degrees < 1:
        raise UserError(f"degrees = {degrees} must be at least 1")
    low, high = 0.0, pi / 2
    while low < (middle := (low + high) / 2) < high:  # until no number lies between them
        low, high = (middle, high) if _student_within(middle, degrees) < confidence else (low, middle)
    return sqrt(degrees) * tan(low)


def _student_within(angle: float, degrees: int) -> float:
    """P(|T| < √degrees tan(angle)).

    With c = cos θ, s = sin θ: for even degrees s (1 + 1/2 c² + (1·3)/(2·4) c⁴ + ...), for odd ones
    2/π (θ + s (c + 2/3 c³ + (2·4)/(3·5) c⁵ + ...)), the last power of c being degrees - 2 in both.
    """
    odd = degrees % 2
    term, total = (cos(angle) if odd else 1.0), 0.0
    for power in range(odd, degrees - 1, 2):
        total += term
        term *= cos(angle) ** 2 * (power + 1) / (power + 2)
    return 2 / pi * (angle + sin(angle) * total) if odd else sin(angle) * total


def _quantile(confidence: float) -> float:
    _check_confidence(confidence)
    return NormalDist().inv_cdf((1 + confidence) / 2)


def _check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise UserError(f"confidence = {confidence} must lie between 0 and 1, such as 0.95")
