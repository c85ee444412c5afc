"""One update: plan -> score -> learn. Knows pieces by what they need, and no method by its name."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Generator, Tensor

from tessera.algorithms.base import Algorithm
from tessera.core.batch import Plan, Scored, make_batch
from tessera.core.errors import RunStopped
from tessera.core.types import Group, Rollout
from tessera.policy.adapters import adapter_matrices
from tessera.policy.logprobs import Row, Scores, score
from tessera.policy.reference import Reference
from tessera.training.batching import micro_batches
from tessera.training.optimizer import Optimizer


@dataclass
class TokenStats:
    """What was seen at the scored positions of an update: one vector a micro-batch, in each list."""

    kl: list[Tensor] = field(default_factory=list)
    entropy: list[Tensor] = field(default_factory=list)
    advantage: list[Tensor] = field(default_factory=list)
    weight: list[Tensor] = field(default_factory=list)
    mismatch: list[Tensor] = field(default_factory=list)
    clipped_low: int = 0
    clipped_high: int = 0


@dataclass
class Update:
    """The outcome of one update. `grad_norm` is None when nothing carried credit and nothing was updated."""

    loss: float = 0.0
    grad_norm: float | None = None
    contributing: int = 0
    scored: int = 0
    seconds: dict[str, float] = field(default_factory=lambda: {"scoring": 0.0, "backward": 0.0})
    tokens: TokenStats = field(default_factory=TokenStats)

    @property
    def carried_credit(self) -> bool:
        """Whether a scored token had an advantage. A penalty alone can leave the gradient at exactly 0."""
        return any(bool(advantage.any()) for advantage in self.tokens.advantage)


@dataclass(frozen=True)
class _Planned:
    """The rollouts that are scored, their rows for the model, and their part of the plan [B,T]."""

    rollouts: list[Rollout]
    rows: list[Row]
    plan: Plan
    group_B: Tensor
    n_groups: int


class Learner:
    """Turns groups into updates of `model`, the policy."""

    def __init__(
        self,
        model: Any,
        algorithm: Algorithm,
        optimizer: Optimizer,
        reference: Reference | None,
        *,
        temperature: float,
        budget: int,
    ) -> None:
        self.model = model
        self.algorithm = algorithm
        self.optimizer = optimizer
        self.reference = reference
        self.temperature = temperature
        self.budget = budget

    def update(self, groups: Sequence[Group], generator: Generator) -> Update:
        """PLAN, SCORE the planned positions, LEARN. Rollouts without a reward take no part."""
        done = Update()
        kept = [[r for r in group.rollouts if r.reward is not None] for group in groups]
        needed = 2 if "group" in self.algorithm.needs else 1
        planned = self._plan([rollouts for rollouts in kept if len(rollouts) >= needed], generator)
        done.contributing = sum(len(row.positions) for row in planned.rows)
        if not planned.rows:
            return done
        for part in micro_batches(planned.rows, self.budget):
            self._micro_batch(planned, part, done)
        done.loss += self._parameter_loss(done)
        done.grad_norm = self.optimizer.update(done.loss)
        return done

    def _plan(self, groups: Sequence[list[Rollout]], generator: Generator) -> _Planned:
        rollouts = [r for group in groups for r in group]
        of_group = [g for g, group in enumerate(groups) for _ in group]
        batch = make_batch(
            [r.ids for r in rollouts], [r.sampled for r in rollouts], [float(r.reward or 0) for r in rollouts], of_group
        )
        plan = self.algorithm.plan(batch, generator)
        active = plan.active_BT.tolist()
        rows = [
            Row(r.prompt_ids, r.ids, tuple(t for t, on in enumerate(line) if on))
            for r, line in zip(rollouts, active, strict=True)
        ]
        keep = [i for i, row in enumerate(rows) if row.positions]
        return _Planned(
            [rollouts[i] for i in keep], [rows[i] for i in keep], plan.rows(keep), batch.group_B[keep], batch.n_groups
        )

    def _micro_batch(self, planned: _Planned, part: list[int], done: Update) -> None:
        rows = [planned.rows[i] for i in part]
        began = time.perf_counter()
        reference = self._reference_scores(rows)
        scores = score(self.model, rows, temperature=self.temperature)
        if not scores.logp_N.requires_grad:
            raise RunStopped("no log-prob depends on a trainable parameter: the adapter is switched off or frozen")
        scored = self.algorithm.weigh(self._scored(planned, part, scores, reference))
        terms = self.algorithm.token_loss(scored)
        share_BT = planned.plan.rows(part).share_BT[:, : terms.loss_BT.shape[1]].to(terms.loss_BT)
        loss = (share_BT * terms.loss_BT).sum()
        middle = time.perf_counter()
        loss.backward()
        done.loss += float(loss.detach())
        done.scored += len(scores.logp_N)
        done.seconds["scoring"] += middle - began
        done.seconds["backward"] += time.perf_counter() - middle
        _gather(done.tokens, scored, scores, [planned.rollouts[i] for i in part], rows)
        if reference is not None:
            done.tokens.kl.append(_kl(scored))
        done.tokens.clipped_low += int(terms.clipped_low_BT.sum())
        done.tokens.clipped_high += int(terms.clipped_high_BT.sum())

    def _reference_scores(self, rows: list[Row]) -> Tensor | None:
        if self.reference is None:
            return None
        with self.reference.active():
            return score(self.model, rows, temperature=self.temperature).logp_N

    def _scored(self, planned: _Planned, part: list[int], scores: Scores, reference: Tensor | None) -> Scored:
        width = max(planned.rows[i].positions[-1] for i in part) + 1
        device = scores.logp_N.device
        plan = planned.plan.rows(part).to(device)
        active_BT = plan.active_BT[:, :width]

        def spread(values_N: Tensor) -> Tensor:
            zeros_BT = torch.zeros(active_BT.shape, dtype=values_N.dtype, device=device)
            return zeros_BT.masked_scatter(active_BT, values_N)

        logp_BT = spread(scores.logp_N)
        fixed_BT = logp_BT.detach()  # one update a rollout: the sampling policy is the policy
        return Scored(
            logp_BT=logp_BT,
            old_BT=fixed_BT,
            ref_BT=fixed_BT if reference is None else spread(reference),
            advantage_BT=plan.advantage_BT[:, :width].to(logp_BT.dtype),
            selected_BT=active_BT,
            weight_BT=torch.ones_like(fixed_BT),
            group_B=planned.group_B[part].to(device),
            n_groups=planned.n_groups,
        )

    def _parameter_loss(self, done: Update) -> float:
        began = time.perf_counter()
        loss = self.algorithm.parameter_loss([m for m in adapter_matrices(self.model) if m.requires_grad])
        if loss is None:
            return 0.0
        loss.backward()
        done.seconds["backward"] += time.perf_counter() - began
        return float(loss.detach())


def _kl(scored: Scored) -> Tensor:
    """k3 of the policy from the reference at the scored positions."""
    difference = (scored.ref_BT - scored.old_BT)[scored.selected_BT].cpu()
    return torch.expm1(difference) - difference


def _gather(stats: TokenStats, scored: Scored, scores: Scores, rollouts: list[Rollout], rows: list[Row]) -> None:
    keep = scored.selected_BT
    stats.entropy.append(scores.entropy_N.cpu())
    stats.advantage.append(scored.advantage_BT[keep].cpu())
    stats.weight.append(scored.weight_BT[keep].cpu())
    sampler = [r.logprobs[t] for r, row in zip(rollouts, rows, strict=True) for t in row.positions]
    stats.mismatch.append(torch.tensor(sampler, dtype=torch.float32) - scores.logp_N.detach().cpu())
