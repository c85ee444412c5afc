"""Products with frozen weights on a CPU, by oneDNN.

For float32 torch asks the BLAS it was built with; oneDNN, which torch brings as well, is about twice as fast on some
processors and as fast on others (docs/performance.md). Weights stay as they are: nothing is packed or copied.
"""

from __future__ import annotations

from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear as torch_linear

_SERVED = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def adopt(model: nn.Module) -> None:
    """Have every linear map of `model` computed by `linear`; what learns goes torch's way, as it did."""
    for module in model.modules():
        if type(module) is nn.Linear:
            module.forward = MethodType(_forward, module)  # type: ignore[method-assign]


def release(model: nn.Module) -> None:
    """Undo `adopt`."""
    for module in model.modules():
        if type(module) is nn.Linear:
            module.__dict__.pop("forward", None)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x Wᵀ + b of `x` [...,I], `weight` [O,I] and `bias` [O]; with gradient for x where weight and bias have none."""
    if not _serves(x, weight, bias):
        return torch_linear(x, weight, bias)
    if x.requires_grad and torch.is_grad_enabled():
        out: Tensor = _Linear.apply(x, weight, bias)  # type: ignore[no-untyped-call]
        return out
    return _onednn(x, weight, bias)


def _serves(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    learns = weight.requires_grad or (bias is not None and bias.requires_grad)
    same = x.dtype == weight.dtype == torch.float32 and x.device.type == weight.device.type == "cpu"
    plain = not torch.is_autocast_enabled("cpu")
    return _SERVED and same and plain and not learns and x.numel() > 0


def _forward(self: nn.Linear, x: Tensor) -> Tensor:
    return linear(x, self.weight, self.bias)


def _onednn(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    out: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return out


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.weight = weight  # frozen, so nothing is saved for backward
        return _onednn(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        return _onednn(grad.contiguous(), ctx.weight.t(), None), None, None
