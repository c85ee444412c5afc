"""GRPO, the full-token baseline.

Papers: DeepSeekMath (arXiv:2402.03300v3); Token-Efficient RL for LLM Reasoning (arXiv:2504.20834v2), Eq. 1-4, sec. 3.4.

    A_i = (R_i - mean R) / (std R + eps)
    L   = -1/G Σ_i 1/|y_i| Σ_t [ min(ρ A, clip(ρ, 1-ε_lo, 1+ε_hi) A) - β k3 ]

ε_lo, ε_hi = `clip_low`, `clip_high`; β = `beta`; 1/|y_i| = `aggregation`.

Differs from the paper: β is 0 by default, since a reference pass costs as much as the policy's. With one update a
rollout ρ is 1 and the clip never binds, which is the baseline of arXiv:2504.20834 sec. 3.4 (it sets β = 0.01).
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from tessera.algorithms.base import Algorithm
from tessera.algorithms.registry import Config, kl_or_none, register
from tessera.pieces import make
from tessera.pieces.advantage import Eps, Std
from tessera.pieces.regulariser import Strength
from tessera.pieces.surrogate import Clip


class GRPOConfig(Config):
    """The keys of `algorithm: {name: grpo, ...}`."""

    std: Std = "sample"
    eps: Eps = 1e-4
    clip_low: Clip = 0.2
    clip_high: Clip = 0.2
    beta: Strength = 0.0
    aggregation: Literal["sequence_mean", "token_mean", "batch_token_mean", "fixed_length"] = "sequence_mean"
    max_tokens: int | None = Field(None, gt=0)

    @model_validator(mode="after")
    def _fixed_length_needs_its_length(self) -> GRPOConfig:
        if (self.aggregation == "fixed_length") != (self.max_tokens is not None):
            raise ValueError("max_tokens goes with aggregation = fixed_length, and fixed_length needs it")
        return self


@register("grpo", GRPOConfig)
def grpo(config: GRPOConfig) -> Algorithm:
    """Compose GRPO."""
    length: dict[str, Any] = {} if config.max_tokens is None else {"max_tokens": config.max_tokens}
    return Algorithm(
        name="grpo",
        advantage=make("advantage", "group_normalized", std=config.std, eps=config.eps),
        selection=make("selection", "all"),
        weight=make("weight", "uniform"),
        surrogate=make("surrogate", "clipped_ratio", clip_low=config.clip_low, clip_high=config.clip_high),
        regulariser=kl_or_none(config.beta),
        aggregation=make("aggregation", config.aggregation, **length),
    )
