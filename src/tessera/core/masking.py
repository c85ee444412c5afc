"""Masked and grouped reductions. Masked positions are replaced before any arithmetic, so NaN there changes nothing."""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor

LARGEST_EXPONENT = 60.0


def blank(x: Tensor, keep: Tensor, fill: float = 0.0) -> Tensor:
    """`x` where `keep` is True, `fill` elsewhere; no gradient and no NaN passes through the rest. Shapes equal."""
    return torch.where(keep, x, torch.full_like(x, fill))


def bounded_exp(x: Tensor) -> Tensor:
    """exp(x) with x held at most 60, no gradient beyond: float32 stays finite, since 0 * inf would be NaN."""
    return torch.exp(x.clamp(max=LARGEST_EXPONENT))


def held(advantage: Tensor, like: Tensor) -> Tensor:
    """`advantage` as `like` has it in type and device, held so small that times the largest ratio it is finite."""
    largest = torch.finfo(like.dtype).max / math.exp(LARGEST_EXPONENT) / 100
    return advantage.clamp(-largest, largest).to(like)


def row_count(mask_BT: Tensor) -> Tensor:
    """[B,T] bool -> [B] number of True positions in each row, as long."""
    return mask_BT.sum(dim=1)


def group_sum(x_B: Tensor, group_B: Tensor, n_groups: int) -> Tensor:
    """[B] -> [n_groups], the sum over the rows of each group."""
    return torch.zeros(n_groups, dtype=x_B.dtype, device=x_B.device).index_add(0, group_B, x_B)


def group_mean(x_BT: Tensor, keep_BT: Tensor, group_B: Tensor, n_groups: int) -> Tensor:
    """[n_groups] mean of `x` over the True positions of each group's rows; 0 where there is none."""
    count = group_sum(row_count(keep_BT), group_B, n_groups).clamp(min=1)
    return group_sum(blank(x_BT, keep_BT).sum(dim=1), group_B, n_groups) / count


def of_rows(x: Tensor, group_B: Tensor) -> Tensor:
    """[n_groups] -> [B,1], the value of each row's group."""
    return x[group_B][:, None]


def group_size(group_B: Tensor, n_groups: int) -> Tensor:
    """[n_groups] number of rows in each group, as long."""
    return torch.bincount(group_B, minlength=n_groups)


def group_extreme(x_B: Tensor, group_B: Tensor, n_groups: int, which: str) -> Tensor:
    """[B] -> [n_groups], the `"amin"` or `"amax"` over each group (no group is empty)."""
    start = torch.zeros(n_groups, dtype=x_B.dtype, device=x_B.device)
    return start.scatter_reduce(0, group_B, x_B, reduce=which, include_self=False)


def uniform(mask_BT: Tensor, generator: Generator) -> Tensor:
    """[B,T] float64 uniform draws at the True positions, taken row by row, so that padding moves none; 1 elsewhere."""
    drawn_BT = torch.ones(mask_BT.shape, dtype=torch.float64)
    drawn_BT[mask_BT] = torch.rand(int(mask_BT.sum()), generator=generator, dtype=torch.float64)
    return drawn_BT


def policy_position(mask_BT: Tensor) -> Tensor:
    """[B,T] bool -> [B,T] long: the index t of each policy token among the policy's own tokens (others: undefined)."""
    return mask_BT.long().cumsum(dim=1) - 1
