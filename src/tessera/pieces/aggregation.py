"""Aggregations: the only place that divides.

Every function takes (batch, selected_BT) and returns `share_BT`, float64 [B,T]: what each selected token's loss is
multiplied with in the loss of the whole optimiser step. The shares depend on the plan alone, so the loss and its
gradient are the same for any cut into micro-batches and any order of rows.
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from tessera.core.batch import TokenBatch
from tessera.core.masking import group_size, group_sum, row_count
from tessera.pieces.registry import piece


@piece("aggregation", "sequence_mean")
def sequence_mean(batch: TokenBatch, selected_BT: Tensor) -> Tensor:
    """Mean over groups of the mean over completions of the mean over selected tokens (arXiv:2504.20834, Eq. 3, 5).

    A completion with nothing selected contributes 0 and still counts as a completion.
    """
    return _share(batch, selected_BT, _rows_of_group(batch) * row_count(selected_BT) * batch.n_groups)


@piece("aggregation", "token_mean")
def token_mean(batch: TokenBatch, selected_BT: Tensor) -> Tensor:
    """Mean over groups of the mean over the group's selected tokens (GRPO as TR-GRPO writes it)."""
    tokens = group_sum(row_count(selected_BT), batch.group_B, batch.n_groups)
    return _share(batch, selected_BT, tokens[batch.group_B] * batch.n_groups)


@piece("aggregation", "batch_token_mean")
def batch_token_mean(batch: TokenBatch, selected_BT: Tensor) -> Tensor:
    """Mean over all selected tokens of the optimiser step (DAPO, arXiv:2503.14476, Eq. 8)."""
    return _share(batch, selected_BT, row_count(selected_BT).sum().expand(batch.group_B.shape))


@piece("aggregation", "fixed_length")
def fixed_length(batch: TokenBatch, selected_BT: Tensor, *, max_tokens: Annotated[int, Field(gt=0)]) -> Tensor:
    """Mean over groups of the sum over tokens divided by G * max_tokens (Dr. GRPO, arXiv:2503.20783)."""
    return _share(batch, selected_BT, _rows_of_group(batch) * max_tokens * batch.n_groups)


def _rows_of_group(batch: TokenBatch) -> Tensor:
    return group_size(batch.group_B, batch.n_groups)[batch.group_B]


def _share(batch: TokenBatch, selected_BT: Tensor, denominator_B: Tensor) -> Tensor:
    """1 / denominator of the row where selected, 0 elsewhere; a denominator of 0 has nothing selected."""
    share_B = 1.0 / denominator_B.clamp(min=1).to(torch.float64)
    return share_B[:, None] * selected_BT
