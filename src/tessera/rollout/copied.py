"""The in-process engine over a copy of the policy in lower precision: faster to sample from, while float32 learns.

The copy holds the frozen weights rounded, and an adapter of its own in float32, which a sync copies. The adapter is
never added into rounded weights: most of an update would be lost in them.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from tessera.core.errors import UserError
from tessera.policy.adapters import adapter_state, set_adapter_state
from tessera.policy.load import Policy, supported_dtype
from tessera.policy.quantized import is_quantized
from tessera.rollout.engine import Feed, Sampling
from tessera.rollout.hf import HFEngine


class CopyEngine(HFEngine):
    """Samples from a copy of `policy` whose frozen weights are in `dtype`, with at most `max_rows` rows at a time.

    UserError where the weights are in `dtype` already, or in few bits.
    """

    def __init__(self, policy: Policy, dtype: torch.dtype, max_rows: int = 128) -> None:
        super().__init__(rounded(policy, supported_dtype(dtype, policy.device)), max_rows)
        self.trainer = policy

    def sync(self) -> None:
        """Copy the trainer's adapter."""
        set_adapter_state(self.policy.model, adapter_state(self.trainer.model))

    def serve(self, feed: Feed, sampling: Sampling) -> None:
        """See Engine. The frozen layers' output is not the trainer's, and is not kept for it."""
        super().serve(feed, sampling.model_copy(update={"keep_trunk": False}))


def rounded(policy: Policy, dtype: torch.dtype) -> Policy:
    """A copy of `policy` with its frozen weights in `dtype`; buffers and what learns are copied as they are."""
    model = policy.model
    if policy.dtype is dtype:
        raise UserError(f"the model is in {dtype} already: leave out engine.dtype, or set model.dtype float32")
    if is_quantized(model):
        raise UserError(f"the weights of {policy.name} are quantised, and engine.dtype rounds whole ones: leave it out")
    frozen = [p for p in model.parameters() if not p.requires_grad]
    instead: dict[int, Any] = {id(p): nn.Parameter(p.detach().to(dtype), requires_grad=False) for p in frozen}
    return replace(policy, model=deepcopy(model, instead), dtype=dtype)
