"""How much likelier the trainer finds a token than the sampler that drew it, and what a correction made of that."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from tessera.core.masking import bounded_exp


class Importance(NamedTuple):
    """`ratio_BT`: π_trainer / π_sampler of each token, both at the time of sampling; `factor_BT`: what its objective
    is multiplied by. Float, of one shape, without gradient."""

    ratio_BT: Tensor
    factor_BT: Tensor


def importance_ratio(old_BT: Tensor, sampler_BT: Tensor) -> Tensor:
    """exp(old - sampler) [B,T], at most e^60; exactly 1 where the sampler's log-prob is not a finite number."""
    difference_BT = old_BT - sampler_BT
    return bounded_exp(torch.where(sampler_BT.isfinite(), difference_BT, torch.zeros_like(difference_BT)))


def summary(parts: Sequence[Importance]) -> dict[str, float]:
    """What is logged of the tokens in `parts` (docs/metrics.md); nothing where there are none."""
    if not parts:
        return {}
    ratio_N = torch.cat([part.ratio_BT.flatten() for part in parts]).double()
    factor_N = torch.cat([part.factor_BT.flatten() for part in parts]).double()
    if not len(factor_N):
        return {}
    squares = float(factor_N.square().sum())
    return {
        "importance/mean": float(ratio_N.mean()),
        "importance/max": float(ratio_N.max()),
        "importance/ess": float(factor_N.sum()) ** 2 / (len(factor_N) * squares) if squares else 0.0,
        "importance/truncated": float(((factor_N != ratio_N) & (factor_N != 0)).double().mean()),
        "importance/kept": float((factor_N != 0).double().mean()),
    }
