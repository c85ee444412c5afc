"""Dr. GRPO: without the two divisions that bias GRPO towards long wrong answers and easy questions.

Paper: Understanding R1-Zero-Like Training (arXiv:2503.20783v2), Eq. 3 and sec. 3.2.

    A_i = R_i - mean R
    L   = -1/(G L_max) Σ_i Σ_t min(ρ A, clip(ρ, 1-ε_lo, 1+ε_hi) A)

L_max = `max_tokens`, a constant; ε_lo, ε_hi = `clip_low`, `clip_high`.

Differs from the paper: L_max is its generation budget (3000); set it to your stage's `max_new_tokens`, or the loss is
smaller by their quotient. `beta` brings back the KL penalty that the paper removes (0).
"""

from __future__ import annotations

from pydantic import Field

from tessera.algorithms.base import Algorithm
from tessera.algorithms.registry import Config, kl_or_none, register
from tessera.pieces import make
from tessera.pieces.regulariser import Strength
from tessera.pieces.surrogate import Clip


class DrGRPOConfig(Config):
    """The keys of `algorithm: {name: dr_grpo, ...}`."""

    clip_low: Clip = 0.2
    clip_high: Clip = 0.2
    max_tokens: int = Field(3000, gt=0)
    beta: Strength = 0.0


@register("dr_grpo", DrGRPOConfig)
def dr_grpo(config: DrGRPOConfig) -> Algorithm:
    """Compose Dr. GRPO."""
    return Algorithm(
        name="dr_grpo",
        advantage=make("advantage", "group_normalized", scale="none"),
        selection=make("selection", "all"),
        weight=make("weight", "uniform"),
        surrogate=make("surrogate", "clipped_ratio", clip_low=config.clip_low, clip_high=config.clip_high),
        regulariser=kl_or_none(config.beta),
        aggregation=make("aggregation", "fixed_length", max_tokens=config.max_tokens),
    )
