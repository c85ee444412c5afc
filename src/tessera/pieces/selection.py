"""Selections: which tokens take part. A selection leaves the mask and the denominator; the rest is never computed.

Every function takes (batch, advantage_BT, generator) and returns bool [B,T], a subset of `batch.mask_BT`.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Generator, Tensor

from tessera.core.batch import TokenBatch
from tessera.core.masking import policy_position
from tessera.pieces.registry import piece

Probability = Annotated[float, Field(ge=0, le=1)]


@piece("selection", "all")
def every_token(batch: TokenBatch, advantage_BT: Tensor, generator: Generator) -> Tensor:
    """Every token the policy wrote."""
    return batch.mask_BT


@piece("selection", "stochastic_prefix")
def stochastic_prefix(
    batch: TokenBatch,
    advantage_BT: Tensor,
    generator: Generator,
    *,
    cutoff: Annotated[int, Field(ge=0)] = 50,
    max_selected: Annotated[int, Field(ge=0)] = 100,
    probability: Probability = 0.15,
) -> Tensor:
    """S-GRPO's rule (arXiv:2504.20834, Eq. 6), scanning a completion's policy tokens t = 0, 1, ... in order:

    t < cutoff always; t >= cutoff with `probability` while fewer than `max_selected` are in; otherwise never. The
    cutoff wins over `max_selected`. One draw is taken for each policy token, row by row, so padding changes nothing.
    """
    position_BT = policy_position(batch.mask_BT)
    late_BT = batch.mask_BT & (position_BT >= cutoff)
    drawn_BT = late_BT & (_uniform(batch.mask_BT, generator) < probability)
    early_B1 = (batch.mask_BT & ~late_BT).sum(dim=1, keepdim=True)
    room_BT = early_B1 + drawn_BT.long().cumsum(dim=1) <= max_selected
    return (batch.mask_BT & ~late_BT) | (drawn_BT & room_BT)


@piece("selection", "unique_pairs")
def unique_pairs(
    batch: TokenBatch,
    advantage_BT: Tensor,
    generator: Generator,
    *,
    pairs: Literal["informative", "all"] = "informative",
) -> Tensor:
    """T-SPMO's U: each (prefix, token) pair of a group once, however many completions share it (2504.20834, Eq. 10).

    The first completion that wrote the pair stands for it. `informative` keeps pairs whose advantage is not 0.
    """
    first_BT = torch.zeros_like(batch.mask_BT)
    mask = batch.mask_BT.tolist()
    for rows, trie in batch.tries:
        seen: set[int] = set()
        for row, path in zip(rows, trie.paths, strict=True):
            for t, node in enumerate(path):
                if mask[row][t] and node not in seen:
                    seen.add(node)
                    first_BT[row, t] = True
    return first_BT & (advantage_BT != 0) if pairs == "informative" else first_BT


def _uniform(mask_BT: Tensor, generator: Generator) -> Tensor:
    """[B,T] uniform draws at the True positions, taken row by row; 1 elsewhere."""
    drawn_BT = torch.ones(mask_BT.shape, dtype=torch.float64)
    drawn_BT[mask_BT] = torch.rand(int(mask_BT.sum()), generator=generator, dtype=torch.float64)
    return drawn_BT
