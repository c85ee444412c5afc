"""Each paper's method as a composition of six pieces; importing this package registers all of them."""

from tessera.algorithms import grpo, s_grpo, t_spmo
from tessera.algorithms.base import Algorithm, TokenLoss
from tessera.algorithms.registry import build, registered
from tessera.algorithms.score import score_group

__all__ = ["Algorithm", "TokenLoss", "build", "grpo", "registered", "s_grpo", "score_group", "t_spmo"]
