"""Surrogates: the differentiable stand-in for the advantage. Only here are there a ratio and a clip.

Every function takes a Scored and returns SurrogateTerms: the objective to maximise, float [B,T], and where a clip
bound it.
"""

from __future__ import annotations

from typing import Annotated, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from tessera.core.batch import Scored
from tessera.core.masking import bounded_exp
from tessera.pieces.registry import piece

Clip = Annotated[float, Field(ge=0)] | None


class SurrogateTerms(NamedTuple):
    """`objective_BT` float [B,T]; `clipped_low_BT`, `clipped_high_BT` bool [B,T], where a clip removed the gradient."""

    objective_BT: Tensor
    clipped_low_BT: Tensor
    clipped_high_BT: Tensor


@piece("surrogate", "clipped_ratio")
def clipped_ratio(scored: Scored, *, clip_low: Clip = 0.2, clip_high: Clip = 0.2) -> SurrogateTerms:
    """min(rho wA, clip(rho, 1 - clip_low, 1 + clip_high) wA), rho = exp(logp - old) (PPO; arXiv:2504.20834, Eq. 3).

    A bound of None is no bound on that side. A ratio beyond e^60 counts as e^60, so that float32 stays finite.
    """
    ratio_BT = bounded_exp(scored.logp_BT - scored.old_BT)
    credit_BT = scored.weight_BT * scored.advantage_BT
    low = 0.0 if clip_low is None else 1 - clip_low
    high = torch.inf if clip_high is None else 1 + clip_high
    plain_BT, bound_BT = ratio_BT * credit_BT, ratio_BT.clamp(low, high) * credit_BT
    binds_BT = bound_BT < plain_BT
    return SurrogateTerms(torch.minimum(plain_BT, bound_BT), binds_BT & (credit_BT < 0), binds_BT & (credit_BT > 0))


@piece("surrogate", "detached_ratio")
def detached_ratio(scored: Scored) -> SurrogateTerms:
    """exp(logp - sg[logp]) wA: value wA, gradient wA grad logp; one update a rollout (arXiv:2504.20834, Eq. 5)."""
    ratio_BT = torch.exp(scored.logp_BT - scored.logp_BT.detach())
    return _unclipped(ratio_BT * scored.weight_BT * scored.advantage_BT)


@piece("surrogate", "probability")
def probability(scored: Scored) -> SurrogateTerms:
    """pi(v|p) wA: the probability itself, neither its log nor a ratio (arXiv:2504.20834, Eq. 10)."""
    return _unclipped(torch.exp(scored.logp_BT) * scored.weight_BT * scored.advantage_BT)


def _unclipped(objective_BT: Tensor) -> SurrogateTerms:
    never_BT = torch.zeros_like(objective_BT, dtype=torch.bool)
    return SurrogateTerms(objective_BT, never_BT, never_BT)
