"""CW-GRPO: a Gaussian kernel damps tokens whose covariance of log-prob and advantage is extreme.

Paper: Taming Extreme Tokens (arXiv:2605.11538v1), sec. 2.3, Eq. 4-7.

    c_{i,t} = (sg[logp_{i,t}] - mean logp) (A_i - mean A)
    w = exp(-c² / 2s²),  s = std c;  w̃ = w N / Σ w
    L = 1/G Σ_i 1/|y_i| Σ_t [ -ρ w̃ A + β k3 ]

N = tokens in the group (`scope: group`) or the step (`scope: step`); ε_lo, ε_hi = `clip_low`, `clip_high`; β = `beta`.

Differs from the paper: it takes the means "over responses" and does not name the std: ours are over tokens, and s is
the population's; where c does not vary the weights are 1. It prints no clip (null, null) and no β (0).
"""

from __future__ import annotations

from tessera.algorithms.base import Algorithm
from tessera.algorithms.registry import Config, kl_or_none, register
from tessera.core.covariance import Scope
from tessera.pieces import make
from tessera.pieces.advantage import Eps, Std
from tessera.pieces.regulariser import Strength
from tessera.pieces.surrogate import Clip


class CWGRPOConfig(Config):
    """The keys of `algorithm: {name: cw_grpo, ...}`."""

    scope: Scope = "group"
    clip_low: Clip = None
    clip_high: Clip = None
    beta: Strength = 0.0
    std: Std = "sample"
    eps: Eps = 1e-4


@register("cw_grpo", CWGRPOConfig)
def cw_grpo(config: CWGRPOConfig) -> Algorithm:
    """Compose CW-GRPO."""
    return Algorithm(
        name="cw_grpo",
        advantage=make("advantage", "group_normalized", std=config.std, eps=config.eps),
        selection=make("selection", "all"),
        weight=make("weight", "covariance_kernel", scope=config.scope),
        surrogate=make("surrogate", "clipped_ratio", clip_low=config.clip_low, clip_high=config.clip_high),
        regulariser=kl_or_none(config.beta),
        aggregation=make("aggregation", "sequence_mean"),
    )
