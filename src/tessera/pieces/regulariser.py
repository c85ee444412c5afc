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


@piece("regulariser", "weighted_kl", "ref_logp", "positive_weight")
def weighted_kl(scored: Scored, *, beta: Strength = 0.001) -> Tensor:
    """beta (w r - log(w r) - 1), r = exp(ref - logp) (TR-GRPO as printed, arXiv:2511.00066, Eq. 11).

    Where w is not 1 it does not vanish at the reference: it pulls towards log π = log π_ref + log w.
    """
    return beta * kl_estimate(scored.ref_BT - scored.logp_BT + scored.weight_BT.log())


@piece("regulariser", "scaled_kl", "ref_logp")
def scaled_kl(scored: Scored, *, beta: Strength = 0.001) -> Tensor:
    """beta w (r - log r - 1), r = exp(ref - logp): the penalty that TR-GRPO's gradient (Eq. 13) is the gradient of."""
    return beta * scored.weight_BT * kl_estimate(scored.ref_BT - scored.logp_BT)


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
