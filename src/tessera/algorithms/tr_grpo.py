"""TR-GRPO, token-regulated GRPO: tokens the policy finds likely count more.

Paper: Sharpness-Controlled GRPO with Token-Level Probability Shaping (arXiv:2511.00066v2), Eq. 10-13.

    w_t = clip( a (σ(s(sg[π_t])) - μ), L, U )
    L   = 1/Σ|y_i| Σ_i Σ_t -min(w ρ A, clip(w ρ, 1-ε_lo, 1+ε_hi) A) + β [ w r - log(w r) - 1 ],  r = exp(ref - logp)

a = `alpha`, μ = `mu`, L, U = `lower`, `upper`, τ = `tau`, s = `scale`, ε_lo, ε_hi = `clip_low`, `clip_high`,
β = `beta`; `variant` has the ablations of Table 4.

Differs from the paper: Eq. 12 prints s(p) = p/τ, with which τ = 9 makes every weight 1 and the method GRPO; its own
Table 7 (τ = 0.5 equal to GRPO, τ = 9 best) is what s(p) = τp gives: `scale: multiply`, the printed form being `divide`.
A weight inside the clip silences tokens with A > 0 and w > 1 + ε_hi already at ρ = 1: `clip_form: ratio` multiplies it
outside. The penalty of Eq. 11 does not vanish at π = ref, and Eq. 13 is the gradient of w (r - log r - 1):
`kl_form: scaled`.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from tessera.algorithms.base import Algorithm
from tessera.algorithms.registry import Config, register
from tessera.pieces import make
from tessera.pieces.advantage import Eps, Std
from tessera.pieces.regulariser import Strength
from tessera.pieces.surrogate import Clip
from tessera.pieces.weight import Shape


class TRGRPOConfig(Config):
    """The keys of `algorithm: {name: tr_grpo, ...}`."""

    alpha: float = Field(2.0, gt=0)
    mu: float = Field(0.25, lt=0.5)
    lower: float = Field(1.0, ge=0)
    upper: float = Field(1.4, gt=0)
    tau: float = Field(9.0, gt=0)
    scale: Literal["multiply", "divide"] = "multiply"
    clip_form: Literal["weighted", "ratio"] = "weighted"
    kl_form: Literal["printed", "scaled"] = "printed"
    variant: Shape = "shaped"
    clip_low: Clip = 0.2
    clip_high: Clip = 0.24
    beta: Strength = 0.001
    std: Std = "sample"
    eps: Eps = 1e-4

    @model_validator(mode="after")
    def _bounds_in_order(self) -> TRGRPOConfig:
        if self.lower > self.upper:
            raise ValueError(f"lower = {self.lower} must not be above upper = {self.upper}")
        if self.variant == "reverse" and min(self.upper, max(self.lower, self.alpha * (1 - self.mu))) >= 2:
            raise ValueError("variant = reverse is 2 - w, which is not positive for weights of 2 or more: lower upper")
        return self


@register("tr_grpo", TRGRPOConfig)
def tr_grpo(config: TRGRPOConfig) -> Algorithm:
    """Compose TR-GRPO."""
    shape = config.model_dump(include={"alpha", "mu", "lower", "upper", "tau", "scale", "variant"})
    surrogate = "weighted_ratio" if config.clip_form == "weighted" else "clipped_ratio"
    penalty = make("regulariser", "weighted_kl" if config.kl_form == "printed" else "scaled_kl", beta=config.beta)
    return Algorithm(
        name="tr_grpo",
        advantage=make("advantage", "group_normalized", std=config.std, eps=config.eps),
        selection=make("selection", "all"),
        weight=make("weight", "token_regulated", **shape),
        surrogate=make("surrogate", surrogate, clip_low=config.clip_low, clip_high=config.clip_high),
        regulariser=penalty if config.beta else make("regulariser", "none"),
        aggregation=make("aggregation", "token_mean"),
    )
