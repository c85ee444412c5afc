"""Clip-Cov: a few tokens of high covariance lose their gradient, so that entropy does not collapse.

Paper: The Entropy Mechanism of RL for Reasoning Language Models (arXiv:2505.22617v1), Eq. 10-12.

    c_{i,t} = (sg[logp_{i,t}] - mean logp) (A_i - mean A),  means over the step's tokens
    L = -1/N Σ_i Σ_t w min(ρ A, clip(ρ, 1-ε_lo, 1+ε_hi) A),  w = 0 for ⌊r N⌋ tokens drawn with ω_lo ≤ c ≤ ω_hi, else 1

ω_lo, ω_hi = `cov_low`, `cov_high`, r = `ratio`, N = tokens of the step, ε_lo, ε_hi = `clip_low`, `clip_high`.

Differs from the paper: its code drops at least one token a micro-batch; here ⌊r N⌋ of the whole step, which is none in
a step of fewer than 1/r tokens. eps in the advantage is ours.
"""

from __future__ import annotations

from pydantic import Field, model_validator

from tessera.algorithms.base import Algorithm
from tessera.algorithms.registry import Config, register
from tessera.pieces import make
from tessera.pieces.advantage import Eps, Std
from tessera.pieces.surrogate import Clip


class ClipCovConfig(Config):
    """The keys of `algorithm: {name: clip_cov, ...}`."""

    cov_low: float = 1.0
    cov_high: float = 5.0
    ratio: float = Field(2e-4, ge=0, le=1)
    clip_low: Clip = 0.2
    clip_high: Clip = 0.2
    std: Std = "sample"
    eps: Eps = 1e-4

    @model_validator(mode="after")
    def _range_in_order(self) -> ClipCovConfig:
        if self.cov_low > self.cov_high:
            raise ValueError(f"cov_low = {self.cov_low} must not be above cov_high = {self.cov_high}")
        return self


@register("clip_cov", ClipCovConfig)
def clip_cov(config: ClipCovConfig) -> Algorithm:
    """Compose Clip-Cov."""
    return Algorithm(
        name="clip_cov",
        advantage=make("advantage", "group_normalized", std=config.std, eps=config.eps),
        selection=make("selection", "all"),
        weight=make("weight", "covariance_clip", **config.model_dump(include={"cov_low", "cov_high", "ratio"})),
        surrogate=make("surrogate", "clipped_ratio", clip_low=config.clip_low, clip_high=config.clip_high),
        regulariser=make("regulariser", "none"),
        aggregation=make("aggregation", "batch_token_mean"),
    )
