"""Sampling and grading shared by the processes of a run."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace

from tessera.core.types import Rollout
from tessera.policy.sharded import whole
from tessera.rollout.collect import Collector, Start
from tessera.rollout.engine import Sampling
from tessera.training.interrupt import Interrupt


@dataclass
class SharedCollector(Collector):
    """Each process samples and grades its share of the rows, in order, and every one is given all of them.

    Where the engine is the model and its weights are in parts, they are whole while it samples.

    A row's random stream belongs to its place, so who samples it changes nothing. What an engine keeps of the frozen
    layers stays with the process that sampled.
    """

    interrupt: Interrupt = field(default_factory=Interrupt)

    def _rollouts(self, starts: Sequence[Start], seeds: Sequence[int], sampling: Sampling) -> list[Rollout]:
        began, busy = time.perf_counter(), sum(self._seconds.values())
        ranks, own = self.interrupt.ranks, list[Rollout]()
        share = ranks.mine(len(starts))

        def work() -> list[Rollout]:
            if share:
                mine = [starts[i] for i in share], [seeds[i] for i in share]
                own.extend(super(SharedCollector, self)._rollouts(*mine, sampling))
            return [replace(rollout, trunk=None, rank=ranks.rank) for rollout in own]

        with nullcontext() if self.engine.apart else whole(self.policy.model):
            parts = self.interrupt.share(work)
        parts[ranks.rank] = [replace(rollout, rank=ranks.rank) for rollout in own]
        waited = time.perf_counter() - began - (sum(self._seconds.values()) - busy)
        self._seconds["rollout"] += waited
        return [rollout for part in parts for rollout in part]
