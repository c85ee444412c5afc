"""Tensors in parts, of which each process keeps one: from whole ones, and whole again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def in_parts(tensor: Tensor) -> bool:
    """Whether each process keeps a share of `tensor` alone."""
    return hasattr(tensor, "device_mesh")


def local(tensor: Tensor) -> Tensor:
    """This process's share, or the tensor where it is whole."""
    own: Any = tensor
    share: Tensor = own.to_local() if in_parts(tensor) else tensor
    return share


def placed(tensor: Tensor, like: Tensor) -> Tensor:
    """A whole tensor in parts as those of `like`; as it is, where `like` is whole. Nothing is sent."""
    from torch.distributed.tensor import distribute_tensor

    there: Any = like
    if not in_parts(like) or in_parts(tensor):
        return tensor
    return distribute_tensor(tensor.to(there.device), there.device_mesh, there.placements, src_data_rank=None)


def gathered(state: Any, keep: bool = True) -> Any:
    """Nested data with every tensor in parts replaced by the whole one, on the CPU, or by nothing without `keep`.

    All processes call it. A tensor that stands at two places is one in the answer.
    """
    with torch.no_grad():
        return _gathered(state, keep, {})


def agreed(own: str, tensors: Sequence[Tensor]) -> str:
    """`own`, and where `tensors` are in parts those of all processes, by rank."""
    if not any(map(in_parts, tensors)):
        return own
    told: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(told, own)
    return " ".join(told)


def _gathered(state: Any, keep: bool, done: dict[int, Tensor]) -> Any:
    if isinstance(state, Mapping):
        return {key: _gathered(value, keep, done) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return type(state)(_gathered(value, keep, done) for value in state)
    if not isinstance(state, Tensor) or not in_parts(state):
        return state
    if id(state) not in done:
        own: Any = state
        whole: Tensor = own.full_tensor()
        done[id(state)] = whole.cpu() if keep else torch.empty(0)
    return done[id(state)]
