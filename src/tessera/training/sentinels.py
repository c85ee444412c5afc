"""Cheap watchers, always on. Each stops the run or warns, and names the cause.

stops   no trainable parameter moved in the first update that carried credit
stops   the engine samples from other weights than the trainer's
stops   the processes of the run hold other adapters than each other
stops   sampler's and trainer's log-probs of the same tokens lie apart, right after a sync (not watched where the two
        differ on purpose: LoRA dropout, another score_temperature)
stops   too many rewards failed in a step
stops   a loss or gradient is not finite (in tessera.training.optimizer, before any parameter moves)
warns   no group has had any spread of rewards for some steps
warns   too many completions are cut at the token limit
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
from torch import Tensor

from tessera.core.errors import RunStopped
from tessera.core.types import Group
from tessera.training.settings import SentinelSettings

log = logging.getLogger("tessera")


class Sentinels:
    """The watchers of one stage, with what they remember between steps."""

    def __init__(self, limits: SentinelSettings) -> None:
        self.limits = limits
        self.moved = False
        self.flat_steps = 0
        self.truncation_said = False
        self.empty_said = False

    def weights_moved(self, before: str, after: str) -> None:
        """After an update that carried credit: the fingerprints of the adapter before and after must differ."""
        if before == after and not self.moved:
            raise RunStopped(
                "no trainable parameter moved in the first update that carried credit: the adapter is not in the "
                "forward pass or not in the optimiser, the learning rate is 0 at this step, or gradients vanish"
            )
        self.moved = True

    def engine_current(self, engine: str, trainer: str) -> None:
        """After a sync: the engine must hold the trainer's adapter."""
        if engine != trainer:
            raise RunStopped(
                f"the rollout engine samples from other weights (fingerprint {engine}) than the trainer's ({trainer}): "
                "the sync did not reach it"
            )

    def ranks_agree(self, fingerprints: Sequence[str]) -> None:
        """Before rollouts: every process must hold the first one's adapter."""
        other = next((rank for rank, own in enumerate(fingerprints) if own != fingerprints[0]), None)
        if other is not None:
            raise RunStopped(
                f"process {other} holds another adapter (fingerprint {fingerprints[other]}) than process 0 "
                f"({fingerprints[0]}): their machines or libraries compute differently; go on with equal ones"
            )

    def mismatch(self, difference: Sequence[Tensor], *, unknown: bool = False) -> None:
        """Of the first update after a sync: sampler minus trainer log-probs of the scored tokens.

        With `unknown` a sampler may know some log-probs not; without, the first such stops the run.
        """
        seen = [part[part.isfinite()] if unknown else part for part in difference]
        if not sum(map(len, seen)):
            return
        gap = float(torch.cat(seen).abs().mean())
        # Negated, so that a gap that is not a number stops the run too.
        if not gap <= self.limits.mismatch:
            raise RunStopped(
                f"sampler and trainer disagree by {gap:.3g} in the mean log-prob of a token (limit "
                f"{self.limits.mismatch}): another temperature, precision, prompt or set of weights on one side"
            )

    def rewards(self, groups: Sequence[Group]) -> None:
        """Failed rewards stop the run past their share; truncation warns."""
        rollouts = [r for group in groups for r in group.rollouts]
        failed = [r for r in rollouts if r.reward is None]
        if len(failed) > self.limits.reward_failures * len(rollouts):
            raise RunStopped(
                f"the reward failed on {len(failed)} of {len(rollouts)} completions of a step (limit "
                f"{self.limits.reward_failures:.0%}); the first: {failed[0].error}"
            )
        cut = sum(r.finish_reason == "length" for r in rollouts) / len(rollouts)
        if cut > self.limits.truncation_rate and not self.truncation_said:
            self.truncation_said = True
            log.warning("%.0f %% of completions are cut at the token limit: raise max_new_tokens", 100 * cut)

    def tools(self, groups: Sequence[Group]) -> None:
        """Warn when tools find nothing in most of their calls, or fail: training goes on without them."""
        calls = [call for group in groups for r in group.rollouts for turn in r.turns for call in turn.calls]
        useless = [call for call in calls if call.empty or call.failure is not None]
        if len(useless) > self.limits.useless_calls * len(calls) and not self.empty_said:
            self.empty_said = True
            empty = sum(call.empty for call in useless)
            log.warning(
                "%d of %d calls of tools gave nothing: %d were empty, %d failed (the first: %s)",
                *(len(useless), len(calls), empty, len(useless) - empty),
                next((f"{call.tool}, {call.failure}" for call in useless if call.failure), "none"),
            )

    def spread(self, groups: Sequence[Group]) -> None:
        """Once a step, of its own groups: warn when none has had any spread of rewards for some steps."""
        flat = all(len(set(group.rewards)) < 2 for group in groups)
        self.flat_steps = self.flat_steps + 1 if flat else 0
        if self.flat_steps == self.limits.no_spread_steps:
            log.warning(
                "no group had different rewards for %d steps, so nothing is learnt: the task is too hard or too easy "
                "for this model, or the temperature or group size too low",
                self.flat_steps,
            )
