"""RLOO: the baseline of a completion is the mean reward of the others.

Paper: Back to Basics (arXiv:2402.14740v2), Eq. 9.

    A_i = R_i - 1/(G-1) Σ_{j≠i} R_j
    L   = -1/G Σ_i 1/|y_i| Σ_t [ min(ρ A, clip(ρ, 1-ε_lo, 1+ε_hi) A) - β k3 ]

ε_lo, ε_hi = `clip_low`, `clip_high`; β = `beta`.

Differs from the paper: there a completion is one action, its gradient A_i ∇log π(y_i), with the KL inside the reward;
here tokens are averaged in a completion, ratios are clipped when a rollout is used more than once, and the KL is a
penalty, so that it compares with the others piece by piece.
"""

from __future__ import annotations

from tessera.algorithms.base import Algorithm
from tessera.algorithms.registry import Config, kl_or_none, register
from tessera.pieces import make
from tessera.pieces.regulariser import Strength
from tessera.pieces.surrogate import Clip


class RLOOConfig(Config):
    """The keys of `algorithm: {name: rloo, ...}`."""

    clip_low: Clip = 0.2
    clip_high: Clip = 0.2
    beta: Strength = 0.0


@register("rloo", RLOOConfig)
def rloo(config: RLOOConfig) -> Algorithm:
    """Compose RLOO."""
    return Algorithm(
        name="rloo",
        advantage=make("advantage", "leave_one_out"),
        selection=make("selection", "all"),
        weight=make("weight", "uniform"),
        surrogate=make("surrogate", "clipped_ratio", clip_low=config.clip_low, clip_high=config.clip_high),
        regulariser=kl_or_none(config.beta),
        aggregation=make("aggregation", "sequence_mean"),
    )
