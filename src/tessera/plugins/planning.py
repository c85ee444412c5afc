"""PLAN for the rows of another trainer, some of which may have no reward."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from tessera.algorithms.base import Algorithm
from tessera.core.batch import Plan, Scored, TokenBatch
from tessera.core.masking import blank, group_size, held


def plan_rows(algorithm: Algorithm, batch: TokenBatch, generator: Generator) -> Plan:
    """The plan of all rows [B,T]. Rows whose reward is NaN take no part, nor do groups that are then too small."""
    least = 2 if "group" in algorithm.needs else 1
    rewarded_B = ~batch.rewards_B.isnan()
    members = group_size(batch.group_B[rewarded_B], batch.n_groups)
    keep_B = rewarded_B & (members[batch.group_B] >= least)
    shape, none_BT = batch.mask_BT.shape, torch.zeros_like(batch.mask_BT)
    nothing_BT = torch.zeros(shape, dtype=torch.float64)
    if not bool(keep_B.any()):
        return Plan(nothing_BT, none_BT, nothing_BT, none_BT, nothing_BT)
    plan = algorithm.plan(_only(batch, keep_B), generator)
    placed = (nothing_BT, none_BT, nothing_BT, none_BT, nothing_BT)
    parts = (plan.advantage_BT, plan.selected_BT, plan.share_BT, plan.active_BT, plan.draw_BT)
    return Plan(*(_place(part, into, keep_B) for part, into in zip(parts, placed, strict=True)))


def scored_rows(plan: Plan, logp_BT: Tensor, old_BT: Tensor, ref_BT: Tensor, group_B: Tensor) -> Scored:
    """Planned rows with the log-probs of policy, sampling policy and reference, as LEARN sees them, not yet weighed."""
    keep_BT = plan.selected_BT
    logp_BT = blank(logp_BT.to(torch.promote_types(logp_BT.dtype, torch.float32)), keep_BT)
    fixed_BT = logp_BT.detach()
    return Scored(
        logp_BT=logp_BT,
        old_BT=blank(old_BT.detach().to(fixed_BT), keep_BT),
        ref_BT=blank(ref_BT.detach().to(fixed_BT), keep_BT),
        advantage_BT=held(plan.advantage_BT.double(), fixed_BT),
        selected_BT=keep_BT,
        weight_BT=torch.ones_like(fixed_BT),
        draw_BT=plan.draw_BT.to(fixed_BT),
        group_B=group_B,
        n_groups=int(group_B.max()) + 1,
    )


def _only(batch: TokenBatch, keep_B: Tensor) -> TokenBatch:
    """Some rows of a batch, their groups numbered anew."""
    names, group_B = batch.group_B[keep_B].unique(return_inverse=True)
    optional = (batch.truncated_B, batch.entropy_BT, batch.eos_logp_BT)
    return TokenBatch(
        batch.tokens_BT[keep_B],
        batch.lengths_B[keep_B],
        batch.mask_BT[keep_B],
        batch.rewards_B[keep_B],
        group_B,
        len(names),
        *(None if x is None else x[keep_B] for x in optional),
    )


def _place(part: Tensor, into: Tensor, keep_B: Tensor) -> Tensor:
    whole = into.clone()
    whole[keep_B] = part
    return whole
