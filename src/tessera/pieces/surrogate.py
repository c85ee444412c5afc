"""Surrogates: the differentiable stand-in for the advantage. Only here are there a ratio and a clip.

Every function takes a Scored and returns SurrogateTerms: the objective to maximise, float [B,T], where a clip bound it
and where an exponent had to be bounded. A bound of None is no bound on that side.
"""

from __future__ import annotations

from typing import Annotated, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from tessera.core.batch import Scored
from tessera.core.masking import blank, bounded_exp, row_count
from tessera.core.trace import TraceKind, eligibility_sum
from tessera.pieces.registry import piece

Clip = Annotated[float, Field(ge=0)] | None
ClipForm = Literal["ppo", "printed_algorithm"]
SoftClamp = Literal["sigmoid", "tanh"]
WeightForm = Literal["matrix", "row_sum"]
Decay = Annotated[float, Field(ge=0, le=1)]
LARGEST_TRACE_EXPONENT = 20.0


class SurrogateTerms(NamedTuple):
    """`objective_BT` float [B,T]; bool [B,T]: `clipped_low_BT`, `clipped_high_BT`, where a clip removed the gradient,
    and `bounded_BT`, where the exponent of a ratio was cut off.
    """

    objective_BT: Tensor
    clipped_low_BT: Tensor
    clipped_high_BT: Tensor
    bounded_BT: Tensor


@piece("surrogate", "clipped_ratio")
def clipped_ratio(scored: Scored, *, clip_low: Clip = 0.2, clip_high: Clip = 0.2) -> SurrogateTerms:
    """min(rho wA, clip(rho, 1 - clip_low, 1 + clip_high) wA), rho = exp(logp - old) (PPO; arXiv:2504.20834, Eq. 3).

    A ratio beyond e^60 counts as e^60, so that float32 stays finite.
    """
    return _clipped(_ratio(scored), _credit(scored), clip_low, clip_high)


@piece("surrogate", "weighted_ratio")
def weighted_ratio(scored: Scored, *, clip_low: Clip = 0.2, clip_high: Clip = 0.2) -> SurrogateTerms:
    """min(w rho A, clip(w rho, 1 - clip_low, 1 + clip_high) A): the weight inside the clip (arXiv:2511.00066, Eq. 10).

    A token with w > 1 + clip_high and A > 0 has no gradient, already at rho = 1.
    """
    return _clipped(scored.weight_BT * _ratio(scored), scored.advantage_BT, clip_low, clip_high)


@piece("surrogate", "trace_ratio", "whole_rows")
def trace_ratio(
    scored: Scored,
    *,
    lambda_: Decay = 0.99,
    gamma: Decay = 1.0,
    trace: TraceKind = "recent",
    trace_floor: Decay = 0.0,
    clip_form: ClipForm = "ppo",
    clip_low: Clip = 0.2,
    clip_high: Clip = 0.2,
) -> SurrogateTerms:
    """The clipped ratio with rho_t = exp(Σ_{j≤t} tr(t,j) (logp_j - old_j)) (GRPO-λ, arXiv:2510.00194, Algorithm 1).

    `clip_form: printed_algorithm` is min(rho, clip(rho)) wA. The exponent is held within ±20.
    """
    difference_BT = scored.logp_BT - scored.old_BT
    exponent_BT = eligibility_sum(difference_BT, scored.selected_BT, gamma * lambda_, trace, trace_floor)
    ratio_BT = exponent_BT.clamp(-LARGEST_TRACE_EXPONENT, LARGEST_TRACE_EXPONENT).exp()
    terms = _clipped(ratio_BT, _credit(scored), clip_low, clip_high, clip_form)
    return terms._replace(bounded_BT=exponent_BT.abs() > LARGEST_TRACE_EXPONENT)


@piece("surrogate", "trace_weight", "whole_rows")
def trace_weight(
    scored: Scored,
    *,
    lambda_: Decay = 0.99,
    gamma: Decay = 1.0,
    trace: TraceKind = "recent",
    trace_floor: Decay = 0.0,
    soft_clamp: SoftClamp = "sigmoid",
    weight_form: WeightForm = "matrix",
    clip_form: ClipForm = "ppo",
    clip_low: Clip = 0.2,
    clip_high: Clip = 0.2,
) -> SurrogateTerms:
    """e_t times the clipped ratio's objective, e_t = Σ_{j≤t} tr(t,j) f(logp_j) (GRPO-λ eps-weight, Alg. 2).

    f(x) = 1 + σ(x - 1) or 1 + tanh(x - 1); with `weight_form: row_sum` f = 1 (arXiv:2510.00194, sec. 3.2). Gradient
    flows through both factors.
    """
    f_BT = torch.ones_like(scored.logp_BT)
    if weight_form == "matrix":
        f_BT = 1 + (torch.sigmoid if soft_clamp == "sigmoid" else torch.tanh)(scored.logp_BT - 1)
    eligibility_BT = eligibility_sum(f_BT, scored.selected_BT, gamma * lambda_, trace, trace_floor)
    terms = _clipped(_ratio(scored), _credit(scored), clip_low, clip_high, clip_form)
    return terms._replace(objective_BT=eligibility_BT * terms.objective_BT)


@piece("surrogate", "sequence_ratio", "whole_rows")
def sequence_ratio(scored: Scored, *, clip_low: Clip = 3e-4, clip_high: Clip = 4e-4) -> SurrogateTerms:
    """The clipped ratio with one rho a completion, exp of the mean of logp - old (GSPO, arXiv:2507.18071, Eq. 5, 7)."""
    keep_BT = scored.selected_BT
    difference_BT = blank(scored.logp_BT - scored.old_BT, keep_BT)
    mean_B = difference_BT.sum(dim=1) / row_count(keep_BT).clamp(min=1)
    ratio_BT = bounded_exp(mean_B)[:, None].expand(keep_BT.shape)
    return _clipped(ratio_BT, _credit(scored), clip_low, clip_high)


@piece("surrogate", "clipped_importance")
def clipped_importance(scored: Scored, *, clip_low: Clip = 0.2, clip_high: Clip = 0.2) -> SurrogateTerms:
    """sg[clip(rho, 1 - clip_low, 1 + clip_high)] wA logp: every token keeps its gradient (arXiv:2506.13585, Eq. 4).

    Where the clip bounds the ratio is reported as clipped, though the gradient stays.
    """
    ratio_BT = _ratio(scored).detach()
    bound_BT = ratio_BT.clamp(*_bounds(clip_low, clip_high))
    never_BT = torch.zeros_like(bound_BT, dtype=torch.bool)
    objective_BT = bound_BT * _credit(scored) * scored.logp_BT
    return SurrogateTerms(objective_BT, ratio_BT < bound_BT, ratio_BT > bound_BT, never_BT)


@piece("surrogate", "detached_ratio", "on_policy")
def detached_ratio(scored: Scored) -> SurrogateTerms:
    """exp(logp - sg[logp]) wA: value wA, gradient wA grad logp; one update a rollout (arXiv:2504.20834, Eq. 5)."""
    ratio_BT = torch.exp(scored.logp_BT - scored.logp_BT.detach())
    return _unclipped(ratio_BT * _credit(scored))


@piece("surrogate", "probability", "on_policy")
def probability(scored: Scored) -> SurrogateTerms:
    """pi(v|p) wA: the probability itself, neither its log nor a ratio (arXiv:2504.20834, Eq. 10)."""
    return _unclipped(torch.exp(scored.logp_BT) * _credit(scored))


def _ratio(scored: Scored) -> Tensor:
    return bounded_exp(scored.logp_BT - scored.old_BT)


def _credit(scored: Scored) -> Tensor:
    return scored.weight_BT * scored.advantage_BT


def _bounds(clip_low: float | None, clip_high: float | None) -> tuple[float, float]:
    return 0.0 if clip_low is None else 1 - clip_low, torch.inf if clip_high is None else 1 + clip_high


def _clipped(
    ratio_BT: Tensor,
    credit_BT: Tensor,
    clip_low: float | None,
    clip_high: float | None,
    form: ClipForm = "ppo",
) -> SurrogateTerms:
    """min(ratio credit, clip(ratio) credit), or min(ratio, clip(ratio)) credit, and where the clip binds."""
    bound_BT = ratio_BT.clamp(*_bounds(clip_low, clip_high))
    never_BT = torch.zeros_like(ratio_BT, dtype=torch.bool)
    if form == "printed_algorithm":
        objective_BT = torch.minimum(ratio_BT, bound_BT) * credit_BT
        return SurrogateTerms(objective_BT, never_BT, bound_BT < ratio_BT, never_BT)
    plain_BT, bound_BT = ratio_BT * credit_BT, bound_BT * credit_BT
    binds_BT = bound_BT < plain_BT
    low_BT, high_BT = binds_BT & (credit_BT < 0), binds_BT & (credit_BT > 0)
    return SurrogateTerms(torch.minimum(plain_BT, bound_BT), low_BT, high_BT, never_BT)


def _unclipped(objective_BT: Tensor) -> SurrogateTerms:
    never_BT = torch.zeros_like(objective_BT, dtype=torch.bool)
    return SurrogateTerms(objective_BT, never_BT, never_BT, never_BT)
