"""Sampling with slots that are never idle: a finished row leaves at once, and the next request takes its slot.

A prompt is computed once for all rows that share it. Each row draws from its own seeded stream, one uniform number a
token, so what else is in the batch changes nothing but the last bits of the arithmetic.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from tessera.core.seeding import generator
from tessera.core.types import Completion, FinishReason
from tessera.policy.adapters import frozen_layers
from tessera.policy.forest import Kept
from tessera.policy.head import logits
from tessera.policy.load import Policy
from tessera.policy.prefix import backbone, causal_lm
from tessera.policy.slots import Read, Slots, read
from tessera.rollout.draw import draw, marked
from tessera.rollout.engine import Feed, Request, Sampling
from tessera.rollout.stops import Stops

READ_TOKENS = 4096  # of prompts computed together


@dataclass
class Live:
    """A row that is being sampled: the request it answers, what was drawn, and what was kept on the way."""

    request: Request
    uniform_T: Tensor | None
    prompt: Read
    ids: list[int] = field(default_factory=list)
    logps: list[float] = field(default_factory=list)


class Refill:
    """Answers what `feed` asks for with at most `max_rows` rows at a time."""

    def __init__(self, policy: Policy, feed: Feed, sampling: Sampling, max_rows: int) -> None:
        self.policy, self.feed, self.sampling = policy, feed, sampling
        self.causal = causal_lm(policy.model)
        self.stops = Stops(policy, sampling.stop)
        self.size = min(max_rows, feed.size)
        self.slots = Slots(self.causal, self.size, feed.length)
        self.live: list[Live] = []
        self.prompts: dict[tuple[int, ...], Read] = {}
        useful = 0 < frozen_layers(self.causal) < len(backbone(self.causal).layers)
        self.below_RTH = self._room() if sampling.keep_trunk and useful else None

    def run(self) -> None:
        """Sample every request to its end, or to the limit of tokens."""
        hidden_BH = self._admit()
        while self.live:
            token_B = self._draw(hidden_BH)
            going = self._finish()
            parts = [self._grow(token_B[going])] if going else []
            hidden_BH = torch.cat([*parts, self._admit()])

    def _room(self) -> Tensor:
        weight = self.causal.get_input_embeddings().weight
        return torch.empty(
            self.size, self.sampling.max_new_tokens, weight.shape[1], dtype=weight.dtype, device=weight.device
        )

    def _admit(self) -> Tensor:
        """Begin rows in the free slots; the final hidden states of their prompts [N,H]."""
        free = self.size - len(self.live)
        fresh = self.feed.take(free, wait=not self.live) if free else []
        self._read([request.prompt_ids for request in fresh])
        hidden = []
        for request in fresh:
            prompt = self.prompts[request.prompt_ids]
            self.slots.put(prompt)
            self.live.append(Live(request, self._uniforms(request), prompt))
            hidden.append(prompt.hidden_H)
        if fresh:  # equal prompts come side by side: the next may be the last one's
            self.prompts = {fresh[-1].prompt_ids: self.prompts[fresh[-1].prompt_ids]}
        weight = self.causal.get_input_embeddings().weight
        return torch.stack(hidden) if hidden else weight.new_empty(0, weight.shape[1])

    def _read(self, prompts: Sequence[tuple[int, ...]]) -> None:
        """Compute the prompts that are not known yet, some thousand tokens at a time."""
        part: list[tuple[int, ...]] = []
        for prompt in dict.fromkeys(prompts):
            if prompt in self.prompts:
                continue
            if part and sum(map(len, part)) + len(prompt) > READ_TOKENS:
                self.prompts.update(zip(part, read(self.causal, part), strict=True))
                part = []
            part.append(prompt)
        if part:
            self.prompts.update(zip(part, read(self.causal, part), strict=True))

    def _uniforms(self, request: Request) -> Tensor | None:
        if self.sampling.temperature == 0:
            return None
        source = generator(request.seed, "row")
        return torch.rand(self.sampling.max_new_tokens, generator=source, dtype=torch.float64)

    def _draw(self, hidden_BH: Tensor) -> Tensor:
        """A token for every row, noted there; where a row's values are not finite it gets none that counts."""
        numbers = [row.uniform_T[len(row.ids)] for row in self.live if row.uniform_T is not None]
        uniform_B = torch.stack(numbers) if numbers else None
        drawn = draw(*marked(hidden_BH, logits(self.causal, hidden_BH)), uniform_B, self.sampling)
        for row, token, logp in zip(self.live, drawn.token_B.tolist(), drawn.logp_B.tolist(), strict=True):
            row.ids.append(token)
            row.logps.append(logp)
        return drawn.token_B

    def _finish(self) -> list[int]:
        """End rows that are done, and close the gaps; which places of the batch the rows that go on were drawn in."""
        going = list(range(len(self.live)))
        for slot in reversed(range(len(self.live))):
            row = self.live[slot]
            limit = row.request.max_new_tokens or self.sampling.max_new_tokens
            reason = self.stops.reason(row.ids, row.logps, limit)
            if reason is None:
                continue
            self.feed.put(row.request, self._completion(slot, reason))
            if reason == "error":
                self.slots.clear(slot)
            self.slots.drop(slot)
            last, place = self.live.pop(), going.pop()
            if slot < len(self.live):
                self.live[slot], going[slot] = last, place
                if self.below_RTH is not None:
                    kept = len(last.ids) - 1
                    self.below_RTH[slot, :kept] = self.below_RTH[len(self.live), :kept]
        return going

    def _grow(self, token_B: Tensor) -> Tensor:
        below_BH, hidden_BH = self.slots.grow(token_B)
        if self.below_RTH is not None:
            fed = torch.tensor([len(row.ids) - 1 for row in self.live], device=token_B.device)
            self.below_RTH[torch.arange(len(self.live), device=token_B.device), fed] = below_BH
        return hidden_BH

    def _completion(self, slot: int, reason: FinishReason) -> Completion:
        row = self.live[slot]
        trunk: Any = None
        if self.below_RTH is not None:
            trunk = Kept(row.prompt.below_PH, self.below_RTH[slot, : len(row.ids) - 1].clone())
        if reason == "error":  # the last draw was from values that are not finite
            row.ids.pop()
            row.logps.pop()
        return Completion(tuple(row.ids), tuple(row.logps), reason, trunk)
