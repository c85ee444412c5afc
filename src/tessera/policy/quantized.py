"""Frozen weights in 8 or 4 bits, by bitsandbytes: what is loaded, what it takes, and what may not be done to it.

The maps of the decoder layers are quantised as they are read; embeddings, norms and head stay in the model's dtype. The
adapter is float32 on top and is never merged into quantised weights: they would be rounded to 8 or 4 bits once more.
"""

from __future__ import annotations

import logging
from importlib.util import find_spec
from types import MethodType
from typing import Any, Literal

import torch
from torch import nn

from tessera.core.errors import UserError

Bits = Literal["8bit", "4bit"]
BLOCK = 64  # weights of 4 bits that share a scale
_OUTER_BLOCK = 256  # scales that share a scale of their own


def loading(bits: Bits, dtype: torch.dtype) -> Any:
    """The `quantization_config` with which transformers loads a model in `bits`; products are computed in `dtype`.

    Raises UserError where bitsandbytes is missing.
    """
    if find_spec("bitsandbytes") is None:
        raise UserError(f"model.quantize {bits} needs bitsandbytes: pip install 'tessera-rl[quantized]'")
    from transformers import BitsAndBytesConfig

    # It says on some CPUs that a kernel for repacked weights is not there, which `even` would not use.
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    if bits == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )


def even(model: nn.Module) -> None:
    """Have a row's products depend on that row and the weights alone, and sampling and learning compute them alike.

    bitsandbytes also rounds the inputs of 8-bit products to 8 bits, by what else is in the batch; and on some CPUs it
    repacks a 4-bit weight at the first product without gradient, into another layout and precision. Here the weights
    alone are rounded.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False  # type: ignore[assignment]
        elif type(module).__name__ == "Linear8bitLt" and isinstance(module, nn.Linear):
            module.forward = MethodType(_forward, module)  # type: ignore[method-assign]


def is_quantized(model: Any) -> bool:
    """Whether weights of `model` (or of the base of a PeftModel) are kept in fewer bits, by whichever method."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    return bool(getattr(base, "is_quantized", False))


def no_merging(name: str) -> UserError:
    """Why the adapter of a quantised base is not merged into it, and what to do instead."""
    return UserError(
        f"the weights of {name} are quantised, and an adapter that is merged into them would be rounded to their few "
        "bits: keep the adapter beside them (tessera export without --merged), or merge into the unquantised model, "
        "for which it was not trained (model.quantize=null)"
    )


def state_bytes(weight: Any) -> int:
    """What a quantised weight has beside its integers: its scales."""
    state = getattr(weight, "quant_state", None)
    if state is None:
        return 0 if getattr(weight, "SCB", None) is None else int(weight.SCB.nbytes)
    outer = state.state2
    return int(state.absmax.nbytes) + (0 if outer is None else int(outer.absmax.nbytes))


def packed_bytes(weight: torch.Tensor, bits: Bits) -> int:
    """What `weight` [O,I] will take in `bits`, scales included."""
    if bits == "8bit":
        return weight.numel() + 4 * weight.shape[0]
    blocks = -(-weight.numel() // BLOCK)
    return -(-weight.numel() // 2) + blocks + 4 * -(-blocks // _OUTER_BLOCK)


def _forward(self: Any, x: torch.Tensor) -> torch.Tensor:
    out: torch.Tensor = _Linear8bit.apply(x, self.weight)  # type: ignore[no-untyped-call]
    return out if self.bias is None else out + self.bias


class _Linear8bit(torch.autograd.Function):
    """x Wᵀ for a frozen weight that is made of its 8 bits once for the product, and once more for its gradient."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: Any) -> torch.Tensor:
        ctx.weight = weight
        return nn.functional.linear(x, _of_8bit(weight, x.dtype))

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:  # type: ignore[override]
        return grad @ _of_8bit(ctx.weight, grad.dtype), None


def _of_8bit(weight: Any, dtype: torch.dtype) -> torch.Tensor:
    out: torch.Tensor = (weight.data * (weight.SCB / 127)[:, None]).to(dtype)
    return out
