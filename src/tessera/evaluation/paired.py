"""Two evaluations on the same questions: does one solve more than the other?"""

from __future__ import annotations

from collections.abc import Sequence
from math import comb
from typing import NamedTuple

import numpy as np

from tessera.core.errors import UserError
from tessera.evaluation.estimators import RESAMPLES, bootstrap_interval, bootstrap_means


class McNemar(NamedTuple):
    """Questions that only the first and only the second solved, and the p-value of their being equally likely."""

    only_first: int
    only_second: int
    p: float


class PairedBootstrap(NamedTuple):
    """How much the second scores above the first on average, the 95 % interval, and the two-sided p-value."""

    difference: float
    low: float
    high: float
    p: float


def mcnemar(first: Sequence[bool], second: Sequence[bool]) -> McNemar:
    """The exact test of McNemar (1947, Psychometrika 12) for answers to the same questions.

    Of the b + c questions that one of the two alone solved, each is as likely to be either's if the two are equally
    good: with X ~ Binomial(b + c, 1/2),

        p = min(1, 2 P(X <= min(b, c)))

    Raises UserError unless both have the same length, at least 1.
    """
    _check_paired(first, second)
    b = sum(bool(x) and not y for x, y in zip(first, second, strict=True))
    c = sum(bool(y) and not x for x, y in zip(first, second, strict=True))
    tail = sum(comb(b + c, i) for i in range(min(b, c) + 1))
    return McNemar(b, c, min(1.0, 2 * tail / 2 ** (b + c)))


def paired_bootstrap(
    first: Sequence[float], second: Sequence[float], seed: int = 0, resamples: int = RESAMPLES
) -> PairedBootstrap:
    """The mean of second - first over questions, with the bootstrap that draws questions, both scores of each together.

    Of B resamples let `below` have a mean difference <= 0, and `above` one >= 0:

        p = min(1, 2 (min(below, above) + 1) / (B + 1))

    Raises UserError unless both have the same length, at least 1.
    """
    _check_paired(first, second)
    differences = [float(y) - float(x) for x, y in zip(first, second, strict=True)]
    mean, low, high = bootstrap_interval(differences, seed, resamples=resamples)
    means = bootstrap_means(differences, seed, resamples)
    below, above = int(np.count_nonzero(means <= 0)), int(np.count_nonzero(means >= 0))
    return PairedBootstrap(mean, low, high, min(1.0, 2 * (min(below, above) + 1) / (resamples + 1)))


def _check_paired(first: Sequence[object], second: Sequence[object]) -> None:
    if not first or len(first) != len(second):
        raise UserError(f"{len(first)} scores and {len(second)}: both need the same questions, at least one")
