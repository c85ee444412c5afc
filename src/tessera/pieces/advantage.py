"""Advantages: how much better than its group did a completion, or a token, do?

Every function takes a TokenBatch and returns float64 [B,T], 0 where the policy did not write the token.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from tessera.core.batch import TokenBatch
from tessera.core.masking import blank, group_extreme, group_size, group_sum
from tessera.pieces.registry import piece

Std = Literal["sample", "population"]
Scale = Literal["group", "step", "none"]


@piece("advantage", "group_normalized", "group")
def group_normalized(batch: TokenBatch, *, scale: Scale = "group", std: Std = "sample", eps: float = 1e-4) -> Tensor:
    """A_i = (R_i - mean R) / (std R + eps), the same for every token of completion i (arXiv:2504.20834, Eq. 2).

    `scale` names the std: of the group, of all rewards of the step, or `none` (only centred). `std` divides by n - 1
    (`sample`) or n (`population`). A group whose rewards are all equal has advantage exactly 0: decided by comparing
    the rewards, since rounding can leave a std that is not 0.
    """
    centred_B, spread_B = _centred(batch)
    if scale == "group":
        centred_B = centred_B / (_std(centred_B, batch.group_B, batch.n_groups, std)[batch.group_B] + eps)
    elif scale == "step":
        one_group_B = torch.zeros_like(batch.group_B)
        deviation_B = batch.rewards_B - batch.rewards_B.mean()
        centred_B = centred_B / (_std(deviation_B, one_group_B, 1, std) + eps)
    return _to_tokens(blank(centred_B, spread_B), batch)


@piece("advantage", "prefix_value", "group")
def prefix_value(batch: TokenBatch) -> Tensor:
    """A(v|p) = mean R of completions through p.v - mean R of completions through p (arXiv:2504.20834, Eq. 7-9).

    The trie is rooted at the group's prompt. Differences of means are exact, so 0 means equal.
    """
    advantage_BT = torch.zeros(batch.mask_BT.shape, dtype=torch.float64)
    for rows, trie in batch.tries:
        for row, path in zip(rows, trie.paths, strict=True):
            values = [trie.advantage(node) for node in path]
            advantage_BT[row, : len(values)] = torch.tensor(values, dtype=torch.float64)
    return blank(advantage_BT, batch.mask_BT)


def _centred(batch: TokenBatch) -> tuple[Tensor, Tensor]:
    """Rewards minus their group's mean [B], and whether the group's rewards differ at all [B]."""
    rewards_B, group_B, n = batch.rewards_B, batch.group_B, batch.n_groups
    mean = group_sum(rewards_B / group_size(group_B, n)[group_B], group_B, n)
    spread = group_extreme(rewards_B, group_B, n, "amax") > group_extreme(rewards_B, group_B, n, "amin")
    return rewards_B - mean[group_B], spread[group_B]


def _std(deviation_B: Tensor, group_B: Tensor, n_groups: int, std: Std) -> Tensor:
    """[n_groups] standard deviation from deviations, never 0; scaled by the largest one, lest squares underflow."""
    tiny = torch.finfo(torch.float64).tiny
    largest = group_extreme(deviation_B.abs(), group_B, n_groups, "amax").clamp(min=tiny)
    squares = group_sum((deviation_B / largest[group_B]).square(), group_B, n_groups)
    degrees = group_size(group_B, n_groups) - (1 if std == "sample" else 0)
    return (largest * (squares / degrees).sqrt()).clamp(min=tiny)


def _to_tokens(x_B: Tensor, batch: TokenBatch) -> Tensor:
    return blank(x_B[:, None].expand(batch.mask_BT.shape), batch.mask_BT)
