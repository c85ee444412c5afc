"""A weight of your own, used from a recipe: tessera train examples/compose_your_own.yaml

It takes the arguments of its kind of piece; its keyword-only parameters are what the recipe may set.
"""

from typing import Annotated

import torch
from pydantic import Field

from tessera.core.batch import Scored


def fading(scored: Scored, *, half_life: Annotated[int, Field(gt=0)] = 50) -> torch.Tensor:
    """A token counts half as much every `half_life` tokens: early choices set the course of a completion."""
    position_BT = scored.selected_BT.long().cumsum(dim=1) - 1
    return 0.5 ** (position_BT.to(scored.logp_BT) / half_life)
