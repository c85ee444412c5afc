"""Advantages: how much better than its group did a completion, or a token, do?

Every function takes a TokenBatch and returns float64 [B,T], 0 where the policy did not write the token.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from tessera.core.batch import TokenBatch
from tessera.core.errors import UserError
from tessera.core.masking import blank, group_extreme, group_size, group_sum
from tessera.pieces.registry import piece

Std = Literal["sample", "population"]
Scale = Literal["group", "step", "none"]
Eps = Annotated[float, Field(ge=0)]


@piece("advantage", "group_normalized", "group")
def group_normalized(batch: TokenBatch, *, scale: Scale = "group", std: Std = "sample", eps: Eps = 1e-4) -> Tensor:
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


@piece("advantage", "leave_one_out", "group")
def leave_one_out(batch: TokenBatch) -> Tensor:
    """A_i = R_i - mean of the other rewards of its group (RLOO, arXiv:2402.14740, Eq. 9), for every token alike."""
    centred_B, spread_B = _centred(batch)
    size_B = group_size(batch.group_B, batch.n_groups)[batch.group_B].double()
    return _to_tokens(blank(centred_B * (size_B / (size_B - 1)), spread_B), batch)


Floor = Annotated[float, Field(le=0)] | None


@piece("advantage", "floored", "group")
def floored(batch: TokenBatch, *, floor: Floor = -0.1, std: Std = "sample", eps: Eps = 1e-4) -> Tensor:
    """max(A, floor) of the group-normalised advantage (GRPO-λ, arXiv:2510.00194, Algorithms 1-2); None: no floor."""
    advantage_BT = group_normalized(batch, std=std, eps=eps)
    return advantage_BT if floor is None else blank(advantage_BT.clamp(min=floor), batch.mask_BT)


@piece("advantage", "value_bounded", "group", "eos_logp")
def value_bounded(batch: TokenBatch, *, floor: Floor = -0.1, std: Std = "sample", eps: Eps = 1e-4) -> Tensor:
    """max(A + ΔV(s_t), floor), ΔV(s_t) = 1 - Π_{k<t} (1 - π(EOS | s_k)) (GRPO-λ, arXiv:2510.00194, Lemma 1)."""
    if batch.eos_logp_BT is None:
        raise UserError("advantage value_bounded needs eos_logp, log π(EOS | s) at every position, and none was given")
    stays_BT = blank(1 - batch.eos_logp_BT.double().exp().clamp(max=1), batch.mask_BT, fill=1.0)
    survives_BT = torch.nn.functional.pad(stays_BT.cumprod(dim=1), (1, 0), value=1.0)[:, :-1]
    advantage_BT = group_normalized(batch, std=std, eps=eps) + 1 - survives_BT
    return blank(advantage_BT if floor is None else advantage_BT.clamp(min=floor), batch.mask_BT)


@piece("advantage", "prefix_value", "group", gives=("by_prefix",))
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
