"""Sampling for models whose layers are not known (see tessera.policy.trunk): transformers' own cache, padded rows.

Equal prompts are computed once, finished rows leave the batch now and then, and no slot is filled again.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tessera.core.seeding import generator
from tessera.core.types import Completion, FinishReason
from tessera.policy.head import logits
from tessera.policy.load import Policy
from tessera.policy.prefix import Prefix, causal_lm, extend, prefill
from tessera.rollout.draw import draw, marked
from tessera.rollout.engine import Request, Sampling
from tessera.rollout.stops import Stops

KEEP_FINISHED = 0.25  # compact the batch when more than this share of its rows is done


class Padded:
    """Answers `requests`, all of them at once."""

    def __init__(self, policy: Policy, requests: Sequence[Request], sampling: Sampling) -> None:
        self.causal = causal_lm(policy.model)
        self.device = policy.device
        self.sampling = sampling
        self.requests = requests
        self.stops = Stops(policy, sampling.stop)
        self.ids: list[list[int]] = [[] for _ in requests]
        self.logps: list[list[float]] = [[] for _ in requests]
        self.reasons: list[FinishReason | None] = [None] * len(requests)
        self.uniform_BT = self._uniforms()

    def run(self) -> list[Completion]:
        """Sample every row to its end, or to the limit of tokens."""
        rows = list(range(len(self.requests)))  # still in the batch, finished or not
        prefix = self._prefill()
        while True:
            token_B = self._draw(prefix, rows)
            alive = [k for k, row in enumerate(rows) if self.reasons[row] is None]
            if not alive:
                return [self._completion(i) for i in range(len(self.requests))]
            if len(alive) < len(rows) * (1 - KEEP_FINISHED):
                index = torch.tensor(alive, device=self.device)
                prefix.select(index)
                rows, token_B = [rows[k] for k in alive], token_B[index]
            extend(self.causal, prefix, token_B[:, None])

    def _draw(self, prefix: Prefix, rows: list[int]) -> Tensor:
        t = max(len(self.ids[row]) for row in rows)
        uniform_B = None if self.uniform_BT is None else self.uniform_BT[rows, t]
        drawn = draw(*marked(prefix.hidden_BH, logits(self.causal, prefix.hidden_BH)), uniform_B, self.sampling)
        for row, token, logp in zip(rows, drawn.token_B.tolist(), drawn.logp_B.tolist(), strict=True):
            if self.reasons[row] is None:
                self.ids[row].append(token)
                self.logps[row].append(logp)
                self.reasons[row] = self.stops.reason(self.ids[row], self.logps[row], self._limit(row))
        return drawn.token_B

    def _limit(self, row: int) -> int:
        return self.requests[row].max_new_tokens or self.sampling.max_new_tokens

    def _completion(self, row: int) -> Completion:
        reason = self.reasons[row]
        assert reason is not None
        n = len(self.ids[row]) - (reason == "error")  # a draw from values that are not finite does not count
        return Completion(tuple(self.ids[row][:n]), tuple(self.logps[row][:n]), reason)

    def _prefill(self) -> Prefix:
        prompts = list(dict.fromkeys(request.prompt_ids for request in self.requests))
        where = {prompt: i for i, prompt in enumerate(prompts)}
        prefix = prefill(self.causal, prompts)
        prefix.select(torch.tensor([where[r.prompt_ids] for r in self.requests], device=self.device))
        return prefix

    def _uniforms(self) -> Tensor | None:
        if self.sampling.temperature == 0:
            return None
        length = self.sampling.max_new_tokens
        draws = [torch.rand(length, generator=generator(r.seed, "row"), dtype=torch.float64) for r in self.requests]
        return torch.stack(draws)
