"""Greedy accuracy on held-out problems."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tessera.core.types import Group, Problem
from tessera.evaluation.estimators import wilson_interval
from tessera.rollout.collect import Collector, Start
from tessera.rollout.engine import Sampling


@dataclass(frozen=True)
class Evaluation:
    """Greedy pass@1: which problems were solved, in order, and the completions behind it.

    A completion whose reward failed counts as not solved; `failed` says how many there were.
    """

    correct: tuple[bool, ...]
    groups: tuple[Group, ...]

    @property
    def value(self) -> float:
        """The share of problems solved."""
        return sum(self.correct) / len(self.correct)

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % Wilson interval of `value`."""
        return wilson_interval(sum(self.correct), len(self.correct))

    @property
    def failed(self) -> int:
        """Completions whose reward raised or was not finite."""
        return sum(group.rollouts[0].error is not None for group in self.groups)

    @property
    def truncation_rate(self) -> float:
        """The share of completions cut at the token limit."""
        return sum(group.rollouts[0].finish_reason == "length" for group in self.groups) / len(self.groups)

    @property
    def mean_length(self) -> float:
        """Tokens a completion."""
        return sum(group.rollouts[0].written for group in self.groups) / len(self.groups)


def evaluate(
    collector: Collector, problems: Sequence[Problem], *, max_new_tokens: int, success: float | None = None
) -> Evaluation:
    """Answer every problem once, greedily; `Rollout.solved` says what `success` means."""
    sampling = Sampling(max_new_tokens=max_new_tokens, temperature=0.0)
    groups = collector.collect([Start(problem) for problem in problems], 1, sampling, seed=0)
    collector.take_times()  # an evaluation is not part of a step
    return Evaluation(tuple(group.rollouts[0].solved(success) for group in groups), tuple(groups))
