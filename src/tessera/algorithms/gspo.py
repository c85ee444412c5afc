"""GSPO: one ratio, and one clip, a completion.

Paper: Group Sequence Policy Optimization (arXiv:2507.18071v2), Eq. 5-7.

    s_i = exp( 1/|y_i| Σ_t (logp_t - old_t) )
    L   = -1/G Σ_i min(s_i A_i, clip(s_i, 1-ε_lo, 1+ε_hi) A_i) + β k3,  A_i = (R_i - mean R) / (std R + eps)

ε_lo, ε_hi = `clip_low`, `clip_high`; β = `beta`.

Differs from the paper: eps in the advantage is ours, and β, which the paper leaves out (0).
"""

from __future__ import annotations

from tessera.algorithms.base import Algorithm
from tessera.algorithms.registry import Config, kl_or_none, register
from tessera.pieces import make
from tessera.pieces.advantage import Eps, Std
from tessera.pieces.regulariser import Strength
from tessera.pieces.surrogate import Clip


class GSPOConfig(Config):
    """The keys of `algorithm: {name: gspo, ...}`."""

    std: Std = "sample"
    eps: Eps = 1e-4
    clip_low: Clip = 3e-4
    clip_high: Clip = 4e-4
    beta: Strength = 0.0


@register("gspo", GSPOConfig)
def gspo(config: GSPOConfig) -> Algorithm:
    """Compose GSPO."""
    return Algorithm(
        name="gspo",
        advantage=make("advantage", "group_normalized", std=config.std, eps=config.eps),
        selection=make("selection", "all"),
        weight=make("weight", "uniform"),
        surrogate=make("surrogate", "sequence_ratio", clip_low=config.clip_low, clip_high=config.clip_high),
        regulariser=kl_or_none(config.beta),
        aggregation=make("aggregation", "sequence_mean"),
    )
