"""The reference policy: which one it is, and how to score under it without a second model in memory."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from tessera.policy.adapters import adapter_state, check_same_update, load_adapter_state, set_adapter_state
from tessera.policy.parts import gathered, in_parts, placed

KINDS = ("start_of_stage", "initial")
SAMPLED = 64  # numbers of each frozen tensor that a fingerprint looks at


class Reference:
    """A frozen copy of the adapter (`start_of_stage`), the model with its adapter switched off (`initial`), or the
    adapter saved in the folder that `kind` names.

    Only the trainable parameters are copied. `state` is None for `initial`.
    """

    def __init__(self, model: Any, kind: str = "start_of_stage") -> None:
        self.model = model
        self.kind = kind
        self.state: dict[str, Tensor] | None = None
        if kind not in KINDS:
            self._read(kind)
        elif kind == "start_of_stage":
            self.refresh()

    def refresh(self) -> None:
        """Take the policy as it is now for the reference."""
        self.state = {name: p.detach().clone() for name, p in _trainable(self.model)}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take a saved state (of a checkpoint) for the reference."""
        self.state = {name: placed(state[name].to(p.device, p.dtype), like=p) for name, p in _trainable(self.model)}

    def fingerprint(self) -> str:
        """A hash that names the reference in the run's records: of the copied weights, or of a sample of the frozen
        model's. All processes call it where weights are in parts."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self._weights()):
            digest.update(name.encode())
            digest.update(gathered(tensor.detach()).cpu().contiguous().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()[:16]

    @contextmanager
    def active(self) -> Iterator[None]:
        """Within the context the model is the reference, without dropout, and no gradient is recorded."""
        with torch.no_grad(), evaluating(self.model):
            if self.state is None:
                with self.model.disable_adapter():
                    yield
                return
            with self._instead(self.state):
                yield

    def _read(self, folder: str) -> None:
        """Take the adapter of `folder`; the policy keeps its own."""
        check_same_update(self.model, folder)
        own = adapter_state(self.model)
        load_adapter_state(self.model, folder)
        self.refresh()
        set_adapter_state(self.model, own)

    def _weights(self) -> Iterator[tuple[str, Tensor]]:
        if self.state is not None:
            yield from self.state.items()
            return
        for name, p in self.model.named_parameters():
            if not p.requires_grad:
                numbers = gathered(p.detach()).flatten()
                yield name, numbers[:: max(1, len(numbers) // SAMPLED)]

    @contextmanager
    def _instead(self, state: Mapping[str, Tensor]) -> Iterator[None]:
        """Within the context the policy's own numbers are those of `state`."""
        own = {name: p.data.clone() if in_parts(p) else p.data for name, p in _trainable(self.model)}
        self._load(state)
        try:
            yield
        finally:
            self._load(own)

    def _load(self, state: Mapping[str, Tensor]) -> None:
        for name, p in _trainable(self.model):
            if in_parts(p):
                p.copy_(state[name])  # the tensor is a view of what is sent
            else:
                p.data = state[name]


@contextmanager
def evaluating(model: torch.nn.Module) -> Iterator[None]:
    """Within the context no module of the model is in training mode: no dropout."""
    live = [module for module in model.modules() if module.training]
    for module in live:
        module.training = False
    try:
        yield
    finally:
        for module in live:
            module.training = True


def _trainable(model: Any) -> list[tuple[str, torch.nn.Parameter]]:
    return [(name, p) for name, p in model.named_parameters() if p.requires_grad]
