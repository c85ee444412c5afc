"""T-SPMO, token-specific prefix matching optimisation: credit where completions of one prompt part ways.

Paper: Token-Efficient RL for LLM Reasoning (arXiv:2504.20834v2), sec. 3.3, Eq. 7-10.

    A(v|p) = mean R of completions through p·v - mean R of completions through p
    L      = -1/|U| Σ_{(p,v)∈U} π(v|p) A(v|p) + λ Σ_{W∈LoRA} ‖W‖²

U = `pairs`, λ = `l2`. Replay (C_success, C_failure) belongs to the training stage, not to the objective.

Differs from the paper: U holds the pairs with A ≠ 0 (`informative`), the only reading under which its Table 3 (21
tokens an example with 50 completions) is possible; `all` divides by every unique pair, as Eq. 10 reads. A step without
any such pair makes no update: the penalty alone would, and AdamW takes it at full step size. For the same reason λ
pulls an adapter that carries an earlier stage back to the base model: set it to 0 after a warm-up.
"""

from __future__ import annotations

from typing import Literal

from tessera.algorithms.base import Algorithm
from tessera.algorithms.registry import Config, register
from tessera.pieces import make
from tessera.pieces.regulariser import Strength


class TSPMOConfig(Config):
    """The keys of `algorithm: {name: t_spmo, ...}`."""

    pairs: Literal["informative", "all"] = "informative"
    l2: Strength = 0.01


@register("t_spmo", TSPMOConfig)
def t_spmo(config: TSPMOConfig) -> Algorithm:
    """Compose T-SPMO."""
    return Algorithm(
        name="t_spmo",
        advantage=make("advantage", "prefix_value"),
        selection=make("selection", "unique_pairs", pairs=config.pairs),
        weight=make("weight", "uniform"),
        surrogate=make("surrogate", "probability"),
        regulariser=make("regulariser", "l2", strength=config.l2) if config.l2 else make("regulariser", "none"),
        aggregation=make("aggregation", "token_mean"),
    )
