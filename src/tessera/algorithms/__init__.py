"""Each paper's method as a composition of six pieces; importing this package registers all of them."""

from tessera.algorithms import (
    bnpo,
    cispo,
    clip_cov,
    cw_grpo,
    dapo,
    dr_grpo,
    grpo,
    grpo_lambda,
    gspo,
    rloo,
    s_grpo,
    t_spmo,
    tr_grpo,
)
from tessera.algorithms.base import Algorithm, TokenLoss
from tessera.algorithms.registry import build, registered
from tessera.algorithms.score import score_group

__all__ = [
    "Algorithm",
    "TokenLoss",
    "bnpo",
    "build",
    "cispo",
    "clip_cov",
    "cw_grpo",
    "dapo",
    "dr_grpo",
    "grpo",
    "grpo_lambda",
    "gspo",
    "registered",
    "rloo",
    "s_grpo",
    "score_group",
    "t_spmo",
    "tr_grpo",
]
