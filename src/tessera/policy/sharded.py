"""Weights in parts: each process keeps its share of every layer, and a layer is whole only while it computes.

It is torch's FSDP2 (`fully_shard`). Adapters stay whole everywhere: they are small, and their gradients are summed as
without it. Whatever passes through the model is done by all processes at once, layer for layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import MethodType
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import nn

from tessera.core.errors import UserError
from tessera.policy.adapters import decoder_layers
from tessera.policy.prefix import causal_lm
from tessera.policy.trunk import packs

T = TypeVar("T")


def shard(model: nn.Module, device: torch.device) -> None:
    """Split the weights of `model`, on the CPU or on `device`, over all processes, in place; what is kept goes to
    `device`. UserError for models that could not pass through their layers in step."""
    if is_sharded(model):  # for an earlier run of the same program
        return
    _check_torch()
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method

    causal = causal_lm(model)
    if not packs(causal):
        raise UserError(f"model.shard does not work for models of type {causal.config.model_type} yet: leave it out")
    adapter = {p for p in model.parameters() if p.requires_grad} if causal is not model else set()
    for p in adapter:
        p.data = p.data.to(device)
    sum_in = torch.promote_types(causal.dtype, torch.float32)
    how: Any = {
        "mesh": init_device_mesh(device.type, (dist.get_world_size(),)),
        "ignored_params": adapter,
        "reshard_after_forward": True,
        "mp_policy": MixedPrecisionPolicy(reduce_dtype=sum_in, cast_forward_inputs=False),
    }
    parts: list[Any] = [*decoder_layers(model)[1], causal]
    for part in parts:
        unit = fully_shard(part, **how)
        unit.set_gradient_divide_factor(1.0)  # gradients are shares of one loss
        unit.set_force_sum_reduction_for_comms(True)  # the only way that gloo knows
    causal.in_one_pass = MethodType(_call, causal)
    register_fsdp_forward_method(causal, "in_one_pass")
    causal.in_one_pass(lambda: None)  # makes it the root of its layers, whatever is called first
    for part in parts:  # allocates what holds a whole one, which later may be asked for in inference mode
        part.unshard()
        part.reshard()


def is_sharded(model: nn.Module) -> bool:
    """Whether the weights of `model` are in parts."""
    return hasattr(causal_lm(model), "in_one_pass")


def in_one_pass(causal: Any, work: Callable[[], T]) -> T:
    """What `work` returns, which calls layers of `causal` and its head. All processes call it when they are sharded."""
    result: T = causal.in_one_pass(work) if is_sharded(causal) else work()
    return result


@contextmanager
def whole(model: nn.Module) -> Iterator[None]:
    """Within the context every process has all weights, and may pass through them on its own, without gradient.

    All processes enter and leave it.
    """
    from torch.distributed.fsdp import FSDPModule

    if not is_sharded(model):
        yield
        return
    parts = [module for module in model.modules() if isinstance(module, FSDPModule)]
    for part in parts:
        part.set_reshard_after_forward(False, recurse=False)
        part.unshard()
    try:
        yield
    finally:
        for part in parts:
            part.set_reshard_after_forward(True, recurse=False)
        causal_lm(model).reset_iter_state()  # forgets which layers were passed, which differs, and parts them again


def _check_torch() -> None:
    """UserError for a torch whose FSDP2 lacks what is called here; it came in later than the rest that is used."""
    from torch.distributed import fsdp

    needed = ("set_gradient_divide_factor", "set_force_sum_reduction_for_comms", "reset_iter_state")
    if not all(hasattr(getattr(fsdp, "FSDPModule", None), name) for name in needed):
        raise UserError(f"model.shard needs a newer torch than {torch.__version__}, such as 2.13: leave it out")


def _call(causal: Any, work: Callable[[], T]) -> T:
    return work()
