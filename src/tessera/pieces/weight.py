"""Weights: how much each selected token counts. A weight scales the numerator of the loss, never its denominator.

Every function takes a Scored (log-probs detached, its own `weight_BT` all ones) and returns float [B,T].
"""

from __future__ import annotations

import torch
from torch import Tensor

from tessera.core.batch import Scored
from tessera.pieces.registry import piece


@piece("weight", "uniform")
def uniform(scored: Scored) -> Tensor:
    """Every selected token counts once."""
    return torch.ones_like(scored.logp_BT)
