"""Rollouts with their plan, and their micro-batches, which outlive an update: what frozen layers gave is kept there."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tessera.core.batch import Plan, TokenBatch
from tessera.core.types import Rollout
from tessera.policy.forest import Forest, Row, plant
from tessera.policy.prefix import causal_lm
from tessera.policy.trunk import packs
from tessera.training.batching import SPARE, micro_batches, padding
from tessera.training.ranks import Ranks


class MicroBatch(NamedTuple):
    """Some rollouts of a step, by index, the forest of their planned rows, and the slots that are padding."""

    part: list[int]
    forest: Forest
    padding: int


class Seen(NamedTuple):
    """What an update saw at the active positions of a row, [N] each: log-probs of the policy, of the policy that
    sampled and of the reference, entropy, weight, and `push`, minus the derivative of the step's loss by the log-prob:
    above 0 the update makes the token likelier. Nothing of a row without such a position, no `ref` without a reference.
    """

    new: Tensor | None = None
    old: Tensor | None = None
    ref: Tensor | None = None
    entropy: Tensor | None = None
    weight: Tensor | None = None
    push: Tensor | None = None


@dataclass
class Planned:
    """Rollouts with their plan [B,T], and `old`: log-probs at each row's active positions in the first update. Where
    `seen` is not None, an update leaves there what it saw of each row.

    All processes hold all rollouts and the whole plan; the one of `rank` scores those that it sampled.
    """

    rollouts: list[Rollout]
    batch: TokenBatch
    plan: Plan
    old: dict[int, Tensor] = field(default_factory=dict)
    scored: int = 0  # positions scored to make the plan
    seen: dict[int, Seen] | None = None
    rank: int = 0
    _cuts: list[tuple[Tensor, list[MicroBatch]]] = field(default_factory=list)

    @cached_property
    def sampler_BT(self) -> Tensor:
        """The sampler's log-probs [B,T] float64; NaN where it gave none."""
        told_BT = torch.full(self.batch.mask_BT.shape, torch.nan, dtype=torch.float64)
        for i, rollout in enumerate(self.rollouts):
            known = [torch.nan if logp is None else logp for logp in rollout.logprobs]
            told_BT[i, : len(known)] = torch.tensor(known, dtype=torch.float64)
        return told_BT

    def rows(self, where_BT: Tensor) -> dict[int, Row]:
        """By index, this process's rows with a position in `where_BT`, to be scored there."""
        positions = (tuple(t for t, on in enumerate(line) if on) for line in where_BT.tolist())
        both = enumerate(zip(self.rollouts, positions, strict=True))
        return {i: Row(r.prompt_ids, r.ids, at) for i, (r, at) in both if at and r.rank == self.rank}

    def count(self, where_BT: Tensor) -> int:
        """How many positions of `where_BT` are in this process's rows."""
        return int(where_BT[[r.rank == self.rank for r in self.rollouts]].sum())

    def release(self) -> None:
        """Let go of what was kept from sampling: the micro-batches made so far have taken what they need."""
        for rollout in self.rollouts:
            if rollout.trunk is not None:
                rollout.trunk.release()

    def micro_batches(
        self, where_BT: Tensor, model: Any, budget: int, abreast: Ranks | None = None
    ) -> list[MicroBatch]:
        """The rows with a position in `where_BT`, in micro-batches of `budget` tokens; cut once for each `where_BT`.

        With `abreast` these processes have equally many that run the same layers: some may have none of their rows.
        """
        for known_BT, cut in self._cuts:
            if torch.equal(known_BT, where_BT):
                return cut
        rows = self.rows(where_BT)
        index, causal = list(rows), causal_lm(model)
        packed, device = packs(causal), causal.get_input_embeddings().weight.device
        cut = []
        for part in micro_batches(list(rows.values()), budget, packed=packed):
            members = [index[k] for k in part]
            forest = plant([rows[i] for i in members], device)
            forest.take([self.rollouts[i].trunk for i in members])
            cut.append(MicroBatch(members, forest, 0 if packed else padding(forest.rows)))
        if abreast is not None:
            cut = _even(cut, causal, abreast)
        self._cuts.append((where_BT, cut))
        return cut


def _even(cut: list[MicroBatch], causal: Any, ranks: Ranks) -> list[MicroBatch]:
    """As many as the process with most has; the frozen layers run again for all, or for none."""
    told = ranks.gather((len(cut), all(micro.forest.below_KH is not None for micro in cut)))
    cut = cut + [MicroBatch([], _spare(causal), 0) for _ in range(max(count for count, _ in told) - len(cut))]
    if not all(kept for _, kept in told):
        for micro in cut:
            micro.forest.below_KH = None
    return cut


def _spare(causal: Any) -> Forest:
    weight, hidden = causal.get_input_embeddings().weight, causal.config.get_text_config().hidden_size
    forest = plant([SPARE], weight.device)
    forest.below_KH = torch.zeros(1, hidden, dtype=weight.dtype, device=weight.device)
    return forest


def spread(values_N: Tensor, where_BT: Tensor) -> Tensor:
    """[N] at the True positions of [B,T], row by row; 0 elsewhere."""
    zeros_BT = torch.zeros(where_BT.shape, dtype=values_N.dtype, device=values_N.device)
    return zeros_BT.masked_scatter(where_BT, values_N)
