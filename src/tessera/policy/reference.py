"""The reference policy: which one it is, and how to score under it without a second model in memory."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor

ReferenceKind = Literal["start_of_stage", "initial"]


class Reference:
    """A frozen copy of the adapter (`start_of_stage`), or the model with its adapter switched off (`initial`).

    Only the trainable parameters are copied. `state` is None for `initial`.
    """

    def __init__(self, model: Any, kind: ReferenceKind = "start_of_stage") -> None:
        self.model = model
        self.kind = kind
        self.state: dict[str, Tensor] | None = None
        if kind == "start_of_stage":
            self.refresh()

    def refresh(self) -> None:
        """Take the policy as it is now for the reference."""
        self.state = {name: p.detach().clone() for name, p in _trainable(self.model)}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take a saved state (of a checkpoint) for the reference."""
        self.state = {name: state[name].to(p.device, p.dtype) for name, p in _trainable(self.model)}

    def fingerprint(self) -> str:
        """A hash that names the reference in the run's records."""
        digest = hashlib.sha256(self.kind.encode())
        for name, tensor in sorted((self.state or {}).items()):
            digest.update(name.encode())
            digest.update(tensor.cpu().contiguous().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()[:16]

    @contextmanager
    def active(self) -> Iterator[None]:
        """Within the context the model is the reference, without dropout, and no gradient is recorded."""
        with torch.no_grad(), evaluating(self.model):
            if self.state is None:
                with self.model.disable_adapter():
                    yield
                return
            policy = {name: p.data for name, p in _trainable(self.model)}
            self._load(self.state)
            try:
                yield
            finally:
                self._load(policy)

    def _load(self, state: Mapping[str, Tensor]) -> None:
        for name, p in _trainable(self.model):
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
