"""Tessera: token-level credit assignment for RL on language models, on small memory and compute.

The names below are loaded when first used; importing the package loads nothing heavy.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tessera.algorithms import score_group
    from tessera.api import train
    from tessera.tasks import grade

__version__ = "0.1.0"
__all__ = ["__version__", "grade", "score_group", "train"]

_LAZY = {"grade": "tessera.tasks", "score_group": "tessera.algorithms", "train": "tessera.api"}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'tessera' has no attribute {name!r}")
