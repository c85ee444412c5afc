"""Eligibility sums over a row's tokens in time linear in its length.

Paper: GRPO-λ (arXiv:2510.00194), Eq. 17-18, Algorithms 1-2. There the trace is a [T,T] matrix a sequence; here `recent`
is a linear recurrence, and `both` a prefix sum and a recurrence cut at half the way.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from tessera.core.masking import policy_position

TraceKind = Literal["recent", "both"]
BLOCK = 64  # positions summed at a time


def eligibility_sum(x_BT: Tensor, keep_BT: Tensor, decay: float, kind: TraceKind, floor: float = 0.0) -> Tensor:
    """out[t] = Σ_{j≤t} tr(t,j) x[j] over the True positions of each row, counted without the others; 0 elsewhere.

    With a = `decay` in [0, 1] and 0⁰ = 1: tr(t,j) is a^(t-j) (`recent`) or max(a^(t-j), a^j) (`both`), off the
    diagonal at least `floor`; tr(t,t) = 1. x float [B,T] and its gradient; keep bool [B,T].
    """
    width = x_BT.shape[1]
    place_BT = torch.where(keep_BT, policy_position(keep_BT), width)  # the rest goes to a column of its own
    packed_BT = x_BT.new_zeros(len(x_BT), width + 1).scatter(1, place_BT, x_BT)[:, :width]
    out_BT = torch.nn.functional.pad(_packed_sum(packed_BT, decay, kind, floor), (0, 1))
    return out_BT.gather(1, place_BT)


def _packed_sum(x_BT: Tensor, decay: float, kind: TraceKind, floor: float) -> Tensor:
    """The same for rows without gaps. Three spans: j < m by a^j, then a sum at the floor, then the last by a^(t-j)."""
    t_T = torch.arange(x_BT.shape[1], device=x_BT.device)
    power_T = decay ** t_T.to(x_BT.dtype)
    near = int((power_T >= floor).sum()) - 1  # the largest lag whose power is not below the floor
    m_T = (t_T + 1) // 2 if kind == "both" else torch.zeros_like(t_T)
    start_T = torch.maximum(m_T, t_T - near)
    late_BT = decayed_sum(x_BT, decay)
    out_BT = late_BT - decay ** (t_T - start_T + 1).to(x_BT.dtype) * _before(late_BT, start_T)
    if floor > 0:
        all_BT = x_BT.cumsum(dim=1)
        out_BT = out_BT + floor * (_before(all_BT, start_T) - _before(all_BT, m_T))
    if kind == "both":
        out_BT = out_BT + _before((power_T.clamp(min=floor) * x_BT).cumsum(dim=1), m_T)
    return out_BT


def decayed_sum(x_BT: Tensor, decay: float) -> Tensor:
    """out[t] = Σ_{j≤t} decay^(t-j) x[j], [B,T]. Sums within blocks by doubling, and carries between them by this again.

    Elementwise, so that padding on the right changes no bit.
    """
    B, T = x_BT.shape
    if T == 0:
        return x_BT
    size = min(T, BLOCK)
    n = -(-T // size)
    inside = torch.nn.functional.pad(x_BT, (0, n * size - T)).reshape(B, n, size)
    reach = 1
    while reach < size:
        inside = inside + decay**reach * torch.nn.functional.pad(inside[:, :, :-reach], (reach, 0))
        reach *= 2
    if n > 1:
        carried = decayed_sum(inside[:, :, -1], decay**size)
        before = torch.nn.functional.pad(carried, (1, 0))[:, :n]
        lag = torch.arange(1, size + 1, device=x_BT.device)
        inside = inside + before[:, :, None] * decay ** lag.to(x_BT.dtype)
    return inside.reshape(B, n * size)[:, :T]


def _before(sum_BT: Tensor, start_T: Tensor) -> Tensor:
    """`sum_BT` one position before `start_T`, [B,T]; 0 before the first."""
    return torch.nn.functional.pad(sum_BT, (1, 0))[:, start_T]
