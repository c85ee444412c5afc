"""Intervals for accuracies: of one set of answers, of the change between two on the same questions, and over seeds."""

from __future__ import annotations

from collections.abc import Sequence
from math import cos, inf, pi, sin, sqrt, tan
from statistics import NormalDist, fmean, stdev
from typing import NamedTuple

from tessera.core.errors import UserError


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
