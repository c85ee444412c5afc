"""The covariance of a token's log-prob and its advantage, token by token."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from tessera.core.batch import Scored
from tessera.core.masking import blank, group_mean, of_rows

Scope = Literal["group", "step"]


def covariance(scored: Scored, scope: Scope) -> tuple[Tensor, Tensor, int]:
    """c = (logp - mean logp)(A - mean A) at the selected tokens [B,T], 0 elsewhere; means over the tokens of each
    group, or of the step. Also the rows' group [B] under `scope`, and how many there are."""
    keep_BT = scored.selected_BT
    of_B, n = (scored.group_B, scored.n_groups) if scope == "group" else (torch.zeros_like(scored.group_B), 1)
    logp_BT, advantage_BT = scored.logp_BT.detach(), scored.advantage_BT
    logp_BT = logp_BT - of_rows(group_mean(logp_BT, keep_BT, of_B, n), of_B)
    advantage_BT = advantage_BT - of_rows(group_mean(advantage_BT, keep_BT, of_B, n), of_B)
    return blank(logp_BT * advantage_BT, keep_BT), of_B, n
