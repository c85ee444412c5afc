"""Corrections for a sampler that is not the trainer: another program, another precision, weights of a step ago.

Every function takes the importance ratio π_trainer / π_sampler of each token, float [B,T], and returns the factor of
the token's objective, [B,T]. Not one of the six pieces: a method is the same with and without, and any can have one.
The factor stands outside every clip and leaves the penalty alone; shares of the loss are those of the plan.
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from tessera.pieces.registry import CORRECTION, piece

Bound = Annotated[float, Field(gt=0)]


@piece(CORRECTION, "truncated")
def truncated(ratio_BT: Tensor, *, cap: Bound = 2.0) -> Tensor:
    """min(ratio, cap): truncated importance sampling of each token (TIS; Ionides, JCGS 17, 2008)."""
    return ratio_BT.clamp(max=cap)


@piece(CORRECTION, "masked")
def masked(
    ratio_BT: Tensor, *, low: Annotated[float, Field(ge=0, le=1)] = 0.5, high: Annotated[float, Field(ge=1)] = 2.0
) -> Tensor:
    """The ratio where low ≤ ratio ≤ high, and 0 elsewhere: what the two disagree on too much teaches nothing."""
    return torch.where((ratio_BT >= low) & (ratio_BT <= high), ratio_BT, torch.zeros_like(ratio_BT))
