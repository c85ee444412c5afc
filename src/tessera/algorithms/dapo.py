"""DAPO: a wider clip upwards, and every token of the step counts the same.

Paper: DAPO (arXiv:2503.14476v2), Eq. 8-9 (objective), Eq. 11 (dynamic sampling), Eq. 13 (overlong shaping).

    A_i = (R_i - mean R) / (std R + eps)
    L   = -1/Σ_i |y_i| Σ_i Σ_t min(ρ A, clip(ρ, 1-ε_lo, 1+ε_hi) A),  ε_hi > ε_lo

ε_lo, ε_hi = `clip_low`, `clip_high`. The sum over tokens runs over the whole optimiser step. Dynamic sampling and
overlong shaping decide about rollouts and rewards, not about the objective: they are keys of the stage's `rollouts`.

Differs from the paper: eps in the advantage is ours; `beta` brings back the KL penalty that the paper removes (0).
"""

from __future__ import annotations

from tessera.algorithms.base import Algorithm
from tessera.algorithms.registry import Config, kl_or_none, register
from tessera.pieces import make
from tessera.pieces.advantage import Eps, Std
from tessera.pieces.regulariser import Strength
from tessera.pieces.surrogate import Clip


class DAPOConfig(Config):
    """The keys of `algorithm: {name: dapo, ...}`."""

    std: Std = "sample"
    eps: Eps = 1e-4
    clip_low: Clip = 0.2
    clip_high: Clip = 0.28
    beta: Strength = 0.0


@register("dapo", DAPOConfig)
def dapo(config: DAPOConfig) -> Algorithm:
    """Compose DAPO."""
    return Algorithm(
        name="dapo",
        advantage=make("advantage", "group_normalized", std=config.std, eps=config.eps),
        selection=make("selection", "all"),
        weight=make("weight", "uniform"),
        surrogate=make("surrogate", "clipped_ratio", clip_low=config.clip_low, clip_high=config.clip_high),
        regulariser=kl_or_none(config.beta),
        aggregation=make("aggregation", "batch_token_mean"),
    )
