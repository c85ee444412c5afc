"""S-GRPO, stochastic GRPO: a completion trains on its first tokens and a few later ones.

Paper: Token-Efficient RL for LLM Reasoning (arXiv:2504.20834v2), sec. 3.2, Eq. 5-6.

    t ∈ T_i  ⇔  t < α, or t ≥ α and |T_i so far| < k with probability P
    L = -1/G Σ_i 1/|T_i| Σ_{t∈T_i} [ exp(logp - sg[logp]) A_i - β k3 ]

α = `cutoff`, k = `max_selected`, P = `probability`, β = `beta`.

Differs from the paper: P is not published. 0.15 is inferred from its Table 3: 84 of 271 tokens a completion on
multiplication, if that run used (α, k) = (50, 100): 50 + 0.15 * 221 = 83. ε in the advantage is ours.
"""

from __future__ import annotations

from pydantic import Field

from tessera.algorithms.base import Algorithm
from tessera.algorithms.registry import Config, kl_or_none, register
from tessera.pieces import make
from tessera.pieces.advantage import Eps, Std
from tessera.pieces.regulariser import Strength
from tessera.pieces.selection import Probability


class SGRPOConfig(Config):
    """The keys of `algorithm: {name: s_grpo, ...}`."""

    cutoff: int = Field(50, ge=0)
    max_selected: int = Field(100, ge=0)
    probability: Probability = 0.15
    beta: Strength = 0.01
    std: Std = "sample"
    eps: Eps = 1e-4


@register("s_grpo", SGRPOConfig)
def s_grpo(config: SGRPOConfig) -> Algorithm:
    """Compose S-GRPO."""
    rule = config.model_dump(include={"cutoff", "max_selected", "probability"})
    return Algorithm(
        name="s_grpo",
        advantage=make("advantage", "group_normalized", std=config.std, eps=config.eps),
        selection=make("selection", "stochastic_prefix", **rule),
        weight=make("weight", "uniform"),
        surrogate=make("surrogate", "detached_ratio"),
        regulariser=kl_or_none(config.beta),
        aggregation=make("aggregation", "sequence_mean"),
    )
