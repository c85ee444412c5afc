"""CISPO: the clip bounds a weight on log π, so that no token loses its gradient.

Paper: MiniMax-M1 (arXiv:2506.13585v1), Eq. 4-5.

    L = -1/Σ_i |y_i| Σ_i Σ_t sg[clip(ρ, 1-ε_lo, 1+ε_hi)] A logp,  A_i = (R_i - mean R) / (std R + eps)

ε_lo, ε_hi = `clip_low`, `clip_high`; β = `beta`. The sum over tokens runs over the whole optimiser step.

Differs from the paper: it sets no lower bound (`clip_low: null`) and does not print ε_hi; both are 0.2 here, as in the
other methods. β, which the paper leaves out, is 0.
"""

from __future__ import annotations

from tessera.algorithms.base import Algorithm
from tessera.algorithms.registry import Config, kl_or_none, register
from tessera.pieces import make
from tessera.pieces.advantage import Eps, Std
from tessera.pieces.regulariser import Strength
from tessera.pieces.surrogate import Clip


class CISPOConfig(Config):
    """The keys of `algorithm: {name: cispo, ...}`."""

    std: Std = "sample"
    eps: Eps = 1e-4
    clip_low: Clip = 0.2
    clip_high: Clip = 0.2
    beta: Strength = 0.0


@register("cispo", CISPOConfig)
def cispo(config: CISPOConfig) -> Algorithm:
    """Compose CISPO."""
    return Algorithm(
        name="cispo",
        advantage=make("advantage", "group_normalized", std=config.std, eps=config.eps),
        selection=make("selection", "all"),
        weight=make("weight", "uniform"),
        surrogate=make("surrogate", "clipped_importance", clip_low=config.clip_low, clip_high=config.clip_high),
        regulariser=kl_or_none(config.beta),
        aggregation=make("aggregation", "batch_token_mean"),
    )
