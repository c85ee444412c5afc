"""GRPO-λ: credit flows back along the completion by eligibility traces.

Paper: GRPO-λ (arXiv:2510.00194v1), Eq. 1-2, 17-18, Algorithms 1-2, Lemma 1.

    Â = max(A, -0.1)
    tr(t,j) = (γλ)^(t-j), or max((γλ)^(t-j), (γλ)^j);  tr(t,t) = 1
    ε-trace   ρ_t = exp( Σ_{j≤t} tr(t,j) (logp_j - old_j) ),  l_t = -min(ρ_t Â, clip(ρ_t, 1-ε_lo, 1+ε_hi) Â)
    ε-weight  l_t = -e_t min(ρ Â, clip(ρ) Â) with the plain ratio, e_t = Σ_{j≤t} tr(t,j) f(logp_j)
    L = 1/G Σ_i 1/|y_i| Σ_t [ l_t + β k3 ]

γ = `gamma`, λ = `lambda_`, ε-trace or ε-weight = `update`, the two traces = `trace` (`recent`, `both`), -0.1 =
`advantage_floor`, f = `soft_clamp`, ε_lo, ε_hi = `clip_low`, `clip_high`, β = `beta`.

Differs from the paper: the clip is PPO's, as its text has it; Algorithms 1-2 print -min(ρ, clip(ρ)) Â, another thing
where Â < 0 (`clip_form: printed_algorithm`). Sec. 3.2 describes ε-weight by Σ_j tr(t,j) alone (`weight_form:
row_sum`). Eq. 17-18 print exponents n - cols and max(cols) - cols; read with the row for n they are the two traces. The
floor of the trace (`trace_floor`) has no published value: 0. The exponent of ρ_t is held within ±20.
"""

from __future__ import annotations

from typing import Any, Literal

from tessera.algorithms.base import Algorithm
from tessera.algorithms.registry import Config, kl_or_none, register
from tessera.core.trace import TraceKind
from tessera.pieces import make
from tessera.pieces.advantage import Eps, Floor, Std
from tessera.pieces.regulariser import Strength
from tessera.pieces.surrogate import Clip, ClipForm, Decay, SoftClamp, WeightForm


class GRPOLambdaConfig(Config):
    """The keys of `algorithm: {name: grpo_lambda, ...}`."""

    lambda_: Decay = 0.99
    gamma: Decay = 1.0
    trace: TraceKind = "recent"
    update: Literal["trace", "weight"] = "trace"
    advantage_floor: Floor = -0.1
    trace_floor: Decay = 0.0
    clip_form: ClipForm = "ppo"
    weight_form: WeightForm = "matrix"
    soft_clamp: SoftClamp = "sigmoid"
    value_bound: bool = False
    clip_low: Clip = 0.2
    clip_high: Clip = 0.2
    beta: Strength = 0.04
    std: Std = "sample"
    eps: Eps = 1e-4


@register("grpo_lambda", GRPOLambdaConfig)
def grpo_lambda(config: GRPOLambdaConfig) -> Algorithm:
    """Compose GRPO-λ."""
    credit: dict[str, Any] = {"floor": config.advantage_floor, "std": config.std, "eps": config.eps}
    shared = {"lambda_", "gamma", "trace", "trace_floor", "clip_form", "clip_low", "clip_high"}
    own = {"weight_form", "soft_clamp"} if config.update == "weight" else set()
    return Algorithm(
        name="grpo_lambda",
        advantage=make("advantage", "value_bounded" if config.value_bound else "floored", **credit),
        selection=make("selection", "all"),
        weight=make("weight", "uniform"),
        surrogate=make(
            "surrogate", "trace_weight" if own else "trace_ratio", **config.model_dump(include=shared | own)
        ),
        regulariser=kl_or_none(config.beta),
        aggregation=make("aggregation", "sequence_mean"),
    )
