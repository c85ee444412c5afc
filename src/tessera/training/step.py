"""One update: plan -> score -> learn. Knows pieces by what they need, and no method by its name."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from functools import reduce
from operator import add
from typing import Any

import torch
from torch import Generator, Tensor

from tessera.algorithms.base import Algorithm, TokenLoss
from tessera.core.batch import Plan, Scored, make_batch
from tessera.core.errors import RunStopped
from tessera.core.importance import Importance
from tessera.core.masking import held
from tessera.core.types import Group
from tessera.policy.adapters import adapter_matrices
from tessera.policy.head import Scores
from tessera.policy.logprobs import check_saving, score
from tessera.policy.reference import Reference, evaluating
from tessera.policy.sharded import is_sharded
from tessera.training.interrupt import Interrupt
from tessera.training.optimizer import Optimizer
from tessera.training.planned import MicroBatch, Planned, Seen, spread
from tessera.training.settings import ComputeSettings


@dataclass
class TokenStats:
    """What was seen at the scored positions of an update: one vector a micro-batch, in each list."""

    kl: list[Tensor] = field(default_factory=list)
    entropy: list[Tensor] = field(default_factory=list)
    advantage: list[Tensor] = field(default_factory=list)
    weight: list[Tensor] = field(default_factory=list)
    mismatch: list[Tensor] = field(default_factory=list)
    importance: list[Importance] = field(default_factory=list)
    clipped_low: int = 0
    clipped_high: int = 0
    bounded: int = 0


@dataclass
class Update:
    """The outcome of one update. `grad_norm` is None when nothing carried credit and nothing was updated."""

    loss: float = 0.0
    grad_norm: float | None = None
    contributing: int = 0
    scored: int = 0
    fed: int = 0
    padding: int = 0
    seconds: dict[str, float] = field(default_factory=lambda: {"scoring": 0.0, "backward": 0.0})
    tokens: TokenStats = field(default_factory=TokenStats)

    @property
    def carried_credit(self) -> bool:
        """Whether a scored token had an advantage. A penalty alone can leave the gradient at exactly 0."""
        return any(bool(advantage.any()) for advantage in self.tokens.advantage)


def joined(parts: Sequence[Update]) -> Update:
    """The whole update from what each process did of it, before the step: sums, and the seconds of the slowest."""
    sums = {f.name: _sum(parts, f.name) for f in fields(Update) if f.name not in {"grad_norm", "seconds", "tokens"}}
    stats = [part.tokens for part in parts]
    tokens = TokenStats(**{f.name: _sum(stats, f.name) for f in fields(TokenStats)})
    seconds = {name: max(part.seconds[name] for part in parts) for name in parts[0].seconds}
    return Update(**sums, seconds=seconds, tokens=tokens)


def _sum(parts: Sequence[Any], name: str) -> Any:
    """Of numbers, or of lists, which are put one after the other."""
    return reduce(add, (getattr(part, name) for part in parts))


class Learner:
    """Turns groups into updates of `model`, the policy. `eos_ids` are the tokens that end a text.

    A request to `interrupt` is obeyed between micro-batches, before anything has moved. Its processes plan the same and
    score their own rows.
    """

    def __init__(
        self,
        model: Any,
        algorithm: Algorithm,
        optimizer: Optimizer,
        reference: Reference | None,
        *,
        temperature: float,
        compute: ComputeSettings | None = None,
        eos_ids: Sequence[int] = (),
        interrupt: Interrupt | None = None,
    ) -> None:
        self.model = model
        self.interrupt = interrupt or Interrupt()
        self.algorithm = algorithm
        self.optimizer = optimizer
        self.reference = reference
        self.temperature = temperature
        self.compute = compute or ComputeSettings()
        check_saving(model, recompute=self.compute.gradient_checkpointing, offload=self.compute.offload_activations)
        self.eos_ids = tuple(eos_ids)
        self.abreast = is_sharded(model)  # processes pass through layers together

    def plan(self, groups: Sequence[Group], generator: Generator) -> Planned:
        """PLAN for the rollouts that have a reward, those of groups too small for a group statistic left out."""
        kept = [[r for r in group.rollouts if r.reward is not None] for group in groups]
        needed = 2 if "group" in self.algorithm.needs else 1
        kept = [rollouts for rollouts in kept if len(rollouts) >= needed]
        rollouts = [r for group in kept for r in group]
        of_group = [g for g, group in enumerate(kept) for _ in group]
        rewards = [float(r.reward or 0) for r in rollouts]
        batch = make_batch([r.ids for r in rollouts], [r.sampled for r in rollouts], rewards, of_group)
        batch = replace(
            batch, truncated_B=torch.tensor([r.finish_reason == "length" for r in rollouts], dtype=torch.bool)
        )
        # Every token, until there is a plan.
        planned = Planned(rollouts, batch, Plan(*[batch.mask_BT] * 5), rank=self.interrupt.ranks.rank)
        if not self.algorithm.needs.isdisjoint({"entropy", "eos_logp"}):
            _, entropy_BT, eos_logp_BT = self._everywhere(planned, batch.mask_BT)
            planned.batch = replace(batch, entropy_BT=entropy_BT, eos_logp_BT=eos_logp_BT)
            planned.scored = planned.count(batch.mask_BT)
        planned.plan = self.algorithm.plan(planned.batch, generator)
        return planned

    def update(self, planned: Planned) -> Update:
        """SCORE the planned positions, LEARN, step. What an engine kept of the rollouts is used up by the first call.

        A further call with the same plan is an inner update: its ratios are to the policy of the first call, and its
        tokens are counted as contributing no second time.
        """
        done = Update(scored=planned.scored)
        planned.scored = 0
        if not planned.plan.active_BT.any():
            return self._joined(done)
        done.contributing = 0 if planned.old else planned.count(planned.plan.active_BT)
        weight_BT = self._whole_step_weights(planned, done)
        micro_batches = self._micro_batches(planned, planned.plan.active_BT)
        planned.release()
        for micro in self.interrupt.between(micro_batches, self.abreast):
            self._micro_batch(planned, micro, weight_BT, done)
        if self.interrupt.ranks.first:  # a penalty on the parameters counts once
            done.loss += self._parameter_loss(done)
        done = self._joined(done)
        done.grad_norm = self.optimizer.update(done.loss)
        return done

    def whole_step(self, planned: Planned) -> tuple[Scored, Tensor]:
        """Every selected token as LEARN would see it, weighed, and its entropy [B,T]; no gradient, on the CPU."""
        where_BT = planned.plan.selected_BT
        logp_BT, entropy_BT, _ = self._everywhere(planned, where_BT)
        ref_BT = logp_BT
        if self.reference is not None:
            with self.reference.active():
                ref_BT, _, _ = self._everywhere(planned, where_BT)
        old_BT = logp_BT.clone()
        for part in self.interrupt.ranks.gather(planned.old):
            for i, old in part.items():
                old_BT[i, planned.plan.active_BT[i]] = old
        every = list(range(len(planned.rollouts)))
        scored = self.algorithm.weigh(_tokens(planned, every, where_BT, (logp_BT, old_BT, ref_BT)))
        return scored, entropy_BT

    def _joined(self, done: Update) -> Update:
        parts = self.interrupt.ranks.gather(done)
        return done if len(parts) == 1 else joined(parts)

    def _micro_batches(self, planned: Planned, where_BT: Tensor) -> list[MicroBatch]:
        abreast = self.interrupt.ranks if self.abreast else None
        return planned.micro_batches(where_BT, self.model, self.compute.tokens_per_microbatch, abreast)

    def _everywhere(self, planned: Planned, where_BT: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Log-prob, entropy and log-prob of ending at the positions `where_BT`, without gradient; 0 elsewhere."""
        found = [torch.zeros(where_BT.shape, dtype=torch.float64) for _ in range(3)]
        with torch.no_grad(), evaluating(self.model):
            for part, forest, _ in self.interrupt.between(self._micro_batches(planned, where_BT), self.abreast):
                s = score(self.model, forest, temperature=self.temperature, eos_ids=self.eos_ids)
                if not part:
                    continue
                for field_BT, values_N in zip(found, (s.logp_N, s.entropy_N, s.eos_logp_N), strict=True):
                    field_BT[part] = spread(values_N.double().cpu(), where_BT[part])
        self.interrupt.ranks.sum(found)  # each position is one process's, and 0 in the others
        return found[0], found[1], found[2]

    def _whole_step_weights(self, planned: Planned, done: Update) -> Tensor | None:
        """Weights [B,T] that compare the tokens of the whole step, taken before the first backward."""
        if "statistics" not in self.algorithm.weight.needs:
            return None
        began = time.perf_counter()
        where_BT = planned.plan.selected_BT
        logp_BT, _, _ = self._everywhere(planned, where_BT)
        every = list(range(len(planned.rollouts)))
        weight_BT = self.algorithm.weigh(_tokens(planned, every, where_BT, (logp_BT,) * 3)).weight_BT
        done.scored += planned.count(where_BT)
        done.seconds["scoring"] += time.perf_counter() - began
        return weight_BT

    def _micro_batch(self, planned: Planned, micro: MicroBatch, weight_BT: Tensor | None, done: Update) -> None:
        part = micro.part
        began = time.perf_counter()
        reference = self._reference_scores(micro)
        scores = score(
            self.model,
            micro.forest,
            temperature=self.temperature,
            recompute=self.compute.gradient_checkpointing,
            offload=self.compute.offload_activations,
        )
        if not scores.logp_N.requires_grad:
            raise RunStopped("no log-prob depends on a trainable parameter: the adapter is switched off or frozen")
        if not part:
            (0 * scores.logp_N.sum()).backward()
            return
        first = part[0] not in planned.old
        if first:  # the policy of the first update is the one that sampled
            counts = [len(row.positions) for row in micro.forest.rows]
            planned.old.update(zip(part, scores.logp_N.detach().cpu().split(counts), strict=True))
        scored = self._scored(planned, part, scores, reference)
        if weight_BT is None:
            scored = self.algorithm.weigh(scored)
        else:
            scored = replace(scored, weight_BT=weight_BT[part][:, : scored.logp_BT.shape[1]].to(scored.logp_BT))
        if planned.seen is not None:
            scores.logp_N.retain_grad()
        terms = self.algorithm.token_loss(scored)
        share_BT = planned.plan.rows(part).share_BT[:, : terms.loss_BT.shape[1]].to(terms.loss_BT)
        loss = (share_BT * terms.loss_BT).sum()
        middle = time.perf_counter()
        loss.backward()
        done.loss += float(loss.detach())
        done.scored += len(scores.logp_N)
        done.fed += len(micro.forest)
        done.padding += micro.padding
        done.seconds["scoring"] += middle - began
        done.seconds["backward"] += time.perf_counter() - middle
        _gather(done.tokens, scored, scores, terms)
        if planned.seen is not None:
            planned.seen |= _seen(planned, micro, scores, scored, reference)
        if first:
            _gather_sampler(done.tokens, scored, terms)
        if reference is not None:
            done.tokens.kl.append(_kl(scored))

    def _reference_scores(self, micro: MicroBatch) -> Tensor | None:
        if self.reference is None:
            return None
        with self.reference.active():
            return score(self.model, micro.forest, temperature=self.temperature).logp_N

    def _scored(self, planned: Planned, part: list[int], scores: Scores, reference: Tensor | None) -> Scored:
        """The rows of a micro-batch, as wide as their last active position."""
        where_BT = planned.plan.active_BT[part]
        width = int(where_BT.any(dim=0).nonzero().max()) + 1
        where_BT = where_BT[:, :width].to(scores.logp_N.device)
        logp_BT = spread(scores.logp_N, where_BT)
        old_BT = spread(torch.cat([planned.old[i] for i in part]).to(logp_BT), where_BT)
        ref_BT = logp_BT.detach() if reference is None else spread(reference, where_BT)
        return _tokens(planned, part, where_BT, (logp_BT, old_BT, ref_BT))

    def _parameter_loss(self, done: Update) -> float:
        began = time.perf_counter()
        loss = self.algorithm.parameter_loss([m for m in adapter_matrices(self.model) if m.requires_grad])
        if loss is None:
            return 0.0
        loss.backward()
        done.seconds["backward"] += time.perf_counter() - began
        return float(loss.detach())


def _tokens(planned: Planned, part: list[int], where_BT: Tensor, logps: tuple[Tensor, Tensor, Tensor]) -> Scored:
    """Some rows of a plan with log-probs of policy, sampling policy and reference, as wide and where these are."""
    logp_BT, old_BT, ref_BT = logps
    plan, width = planned.plan.rows(part), where_BT.shape[1]
    return Scored(
        logp_BT=logp_BT,
        old_BT=old_BT,
        ref_BT=ref_BT,
        advantage_BT=held(plan.advantage_BT[:, :width], logp_BT),
        selected_BT=where_BT,
        weight_BT=torch.ones_like(ref_BT),
        draw_BT=plan.draw_BT[:, :width].to(logp_BT),
        group_B=planned.batch.group_B[part].to(logp_BT.device),
        n_groups=planned.batch.n_groups,
        sampler_BT=planned.sampler_BT[part][:, :width].to(logp_BT),
    )


def _kl(scored: Scored) -> Tensor:
    """k3 of the policy from the reference at the scored positions."""
    difference = (scored.ref_BT - scored.logp_BT.detach())[scored.selected_BT].cpu()
    return torch.expm1(difference) - difference


def _gather_sampler(stats: TokenStats, scored: Scored, terms: TokenLoss) -> None:
    """Sampler's minus trainer's log-probs of the scored tokens, and what a correction made of them."""
    keep = scored.selected_BT
    assert scored.sampler_BT is not None
    stats.mismatch.append((scored.sampler_BT - scored.old_BT)[keep].cpu())
    if terms.importance is not None:
        stats.importance.append(Importance(*(x[keep].cpu() for x in terms.importance)))


def _seen(
    planned: Planned, micro: MicroBatch, scores: Scores, scored: Scored, reference: Tensor | None
) -> dict[int, Seen]:
    """By rollout, what the update saw of it."""
    counts = [len(row.positions) for row in micro.forest.rows]
    assert scores.logp_N.grad is not None  # retained before the loss was taken
    weight_N = scored.weight_BT[scored.selected_BT]
    found = [scores.logp_N, scores.entropy_N, weight_N, -scores.logp_N.grad]
    if reference is not None:
        found.append(reference)
    new, entropy, weight, push, *ref = (values_N.detach().float().cpu().split(counts) for values_N in found)
    return {
        i: Seen(new[k], planned.old[i], ref[0][k] if ref else None, entropy[k], weight[k], push[k])
        for k, i in enumerate(micro.part)
    }


def _gather(stats: TokenStats, scored: Scored, scores: Scores, terms: TokenLoss) -> None:
    keep = scored.selected_BT
    stats.entropy.append(scores.entropy_N.cpu())
    stats.advantage.append(scored.advantage_BT[keep].cpu())
    stats.weight.append(scored.weight_BT[keep].cpu())
    stats.clipped_low += int(terms.clipped_low_BT.sum())
    stats.clipped_high += int(terms.clipped_high_BT.sum())
    stats.bounded += int(terms.bounded_BT.sum())
