"""BNPO as TRL has it: GRPO averaged over every token of the optimiser step.

Source: TRL's GRPOTrainer, `loss_type="bnpo"`; the objective is GRPO's (DeepSeekMath, arXiv:2402.03300v3, Eq. 3) with
another average.

    A_i = (R_i - mean R) / (std R + eps)
    L   = -1/Σ_i |y_i| Σ_i Σ_t min(ρ A, clip(ρ, 1-ε_lo, 1+ε_hi) A) + β k3,  sums over the whole step

ε_lo, ε_hi = `clip_low`, `clip_high`; β = `beta`.

Differs from the paper: TRL divides by the tokens of the local micro-batch, so its loss changes with the way a step is
cut; here the sum runs over the step. The paper that the name comes from (arXiv:2506.02864v1) fits a Beta distribution
to the rewards for its advantage; neither TRL nor this does.
"""

from __future__ import annotations

from tessera.algorithms.base import Algorithm
from tessera.algorithms.registry import Config, kl_or_none, register
from tessera.pieces import make
from tessera.pieces.advantage import Eps, Std
from tessera.pieces.regulariser import Strength
from tessera.pieces.surrogate import Clip


class BNPOConfig(Config):
    """The keys of `algorithm: {name: bnpo, ...}`."""

    std: Std = "sample"
    eps: Eps = 1e-4
    clip_low: Clip = 0.2
    clip_high: Clip = 0.2
    beta: Strength = 0.0


@register("bnpo", BNPOConfig)
def bnpo(config: BNPOConfig) -> Algorithm:
    """Compose BNPO as TRL has it."""
    return Algorithm(
        name="bnpo",
        advantage=make("advantage", "group_normalized", std=config.std, eps=config.eps),
        selection=make("selection", "all"),
        weight=make("weight", "uniform"),
        surrogate=make("surrogate", "clipped_ratio", clip_low=config.clip_low, clip_high=config.clip_high),
        regulariser=kl_or_none(config.beta),
        aggregation=make("aggregation", "batch_token_mean"),
    )
