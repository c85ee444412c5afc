"""Regularisers: what holds the policy back.

Over tokens: takes a Scored and returns the penalty, float [B,T], averaged like the objective. Over parameters
(`parameters` in its needs): takes the adapter's matrices and returns a 0-d tensor, added once an optimiser step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from tessera.core.batch import Scored
from tessera.core.masking import LARGEST_EXPONENT
from tessera.pieces.registry import piece

Strength = Annotated[float, Field(ge=0)]


@piece("regulariser", "none")
def none(scored: Scored) -> Tensor:
    """No penalty."""
    return torch.zeros_like(scored.logp_BT)


@piece("regulariser", "kl", "ref_logp")
def kl(scored: Scored, *, beta: Strength = 0.01, estimator: Literal["k1", "k2", "k3"] = "k3") -> Tensor:
    """beta times an estimate of KL(pi || ref) at each token (arXiv:2504.20834, Eq. 4 is k3).

    With d = ref - logp: k1 = -d, k2 = d^2 / 2, k3 = exp(d) - d - 1 (Schulman, Approximating KL Divergence, 2020).
    """
    return beta * kl_estimate(scored.ref_BT - scored.logp_BT, estimator)


def kl_estimate(difference_BT: Tensor, estimator: Literal["k1", "k2", "k3"] = "k3") -> Tensor:
    """The estimator itself, from d = ref - logp [B,T]; k3 through expm1, exact near 0, with d held at most 60."""
    if estimator == "k1":
        return -difference_BT
    if estimator == "k2":
        return difference_BT.square() / 2
    difference_BT = difference_BT.clamp(max=LARGEST_EXPONENT)
    return torch.expm1(difference_BT) - difference_BT


@piece("regulariser", "l2", "parameters")
def l2(matrices: Sequence[Tensor], *, strength: Strength = 0.01) -> Tensor:
    """strength * sum over the adapter's matrices A and B of ||W||^2 (arXiv:2504.20834, Eq. 10)."""
    return strength * torch.stack([matrix.square().sum() for matrix in matrices]).sum()
