"""Argument checks. Each raises UserError with one line that names the argument, what was expected, and what came."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tessera.core.errors import UserError


def check_tensors(**given: Any) -> None:
    """Require a tensor, or None, under every name."""
    for name, x in given.items():
        if x is not None and not isinstance(x, Tensor):
            raise UserError(f"{name} must be a torch tensor, got {type(x).__name__}")


def check_shape(name: str, x: Tensor, shape: Sequence[int], axes: str) -> None:
    """Require `x.shape == shape`; `axes` is how the docstring writes it, say `[G,T]`."""
    if tuple(x.shape) != tuple(shape):
        raise UserError(f"{name} must have shape {axes} = {tuple(shape)}, got {tuple(x.shape)}")


def check_finite(name: str, x: Tensor, where: Tensor | None = None) -> None:
    """Require finite values (only where `where` is True, the tokens that the policy wrote, when given)."""
    bad = ~torch.isfinite(x) if where is None else ~torch.isfinite(x) & where
    if bool(bad.any()):
        at = tuple(bad.nonzero()[0].tolist())
        scope = "" if where is None else " where the policy wrote the token"
        raise UserError(f"{name} must be finite{scope}, got {x[at].item()} at {at}")


def check_groups(sizes: Sequence[int], statistic: str) -> None:
    """Require at least two completions in every group that a group statistic is taken over."""
    for size in sizes:
        if size < 2:
            raise UserError(f"{statistic} compares the completions of a group: it needs group size >= 2, got {size}")
