"""The in-process engine: samples with the trainer's own transformers model, so weights are never out of step.

Equal prompts are computed once. Finished rows leave the batch. Each row draws from its own seeded stream, one uniform
number a token, by inversion of the distribution's cumulative sum.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from typing import NamedTuple

import torch
from torch import Tensor

from tessera.core.errors import RunStopped
from tessera.core.seeding import generator
from tessera.core.types import Completion
from tessera.policy.forest import Kept
from tessera.policy.head import logits
from tessera.policy.load import Policy
from tessera.policy.prefix import Prefix, causal_lm, extend, prefill
from tessera.policy.trunk import tapped
from tessera.rollout.engine import Request, Sampling

KEEP_FINISHED = 0.25  # compact the batch when more than this share of its rows is done


class Drawn(NamedTuple):
    """The token drawn for each row [B] long, and its log-prob [B]."""

    token_B: Tensor
    logp_B: Tensor


class HFEngine:
    """Samples from `policy` with at most `max_rows` rows at a time."""

    def __init__(self, policy: Policy, max_rows: int = 128) -> None:
        self.policy = policy
        self.max_rows = max_rows

    def sync(self) -> None:
        """Nothing to do: the engine holds the trainer's model itself."""

    def fingerprint(self) -> str:
        """See Engine."""
        return self.policy.fingerprint()

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Completion]:
        """See Engine. Rows are batched by prompt length; the model is in eval mode while it samples."""
        order = sorted(range(len(requests)), key=lambda i: (len(requests[i].prompt_ids), requests[i].prompt_ids))
        done: dict[int, Completion] = {}
        training = self.policy.model.training
        self.policy.model.eval()
        try:
            with torch.inference_mode():
                for start in range(0, len(order), self.max_rows):
                    rows = order[start : start + self.max_rows]
                    found = _Batch(self.policy, [requests[i] for i in rows], sampling).run()
                    done.update(zip(rows, found, strict=True))
        finally:
            self.policy.model.train(training)
        return [done[i] for i in range(len(requests))]


class _Batch:
    """Rows being sampled together. `rows` holds the index of each row still in the batch, finished or not."""

    def __init__(self, policy: Policy, requests: Sequence[Request], sampling: Sampling) -> None:
        self.causal = causal_lm(policy.model)
        self.device = policy.device
        self.sampling = sampling
        self.requests = requests
        self.eos = torch.tensor(sorted(policy.eos_ids), device=self.device)
        self.uniform_BT = self._uniforms()
        self.kept = _Kept(requests)

    def run(self) -> list[Completion]:
        """Sample every row to its end-of-sequence token or the limit."""
        with tapped(self.causal, self.kept.catch) if self.sampling.keep_trunk else nullcontext():
            return self._run()

    def _run(self) -> list[Completion]:
        n = len(self.requests)
        ids: list[list[int]] = [[] for _ in range(n)]
        logps: list[list[float]] = [[] for _ in range(n)]
        stopped = [False] * n
        for rows, drawn in self._steps(stopped):
            ends = torch.isin(drawn.token_B, self.eos).tolist()
            for row, token, logp, end in zip(rows, drawn.token_B.tolist(), drawn.logp_B.tolist(), ends, strict=True):
                if not stopped[row]:
                    ids[row].append(token)
                    logps[row].append(logp)
                    stopped[row] = end
        trunks = self.kept.of_rows([len(i) for i in ids])
        return [
            Completion(tuple(i), tuple(p), "stop" if stop else "length", trunk)
            for i, p, stop, trunk in zip(ids, logps, stopped, trunks, strict=True)
        ]

    def _steps(self, stopped: list[bool]) -> Iterator[tuple[list[int], Drawn]]:
        """Yield the rows in the batch and what was drawn for them, a token a time; the caller keeps `stopped`."""
        rows = list(range(len(self.requests)))
        prefix = self._prefill()
        for t in range(self.sampling.max_new_tokens):
            drawn = self._draw(prefix, rows, t)
            yield rows, drawn
            alive = [k for k, row in enumerate(rows) if not stopped[row]]
            if not alive or t + 1 == self.sampling.max_new_tokens:
                return
            token_B = drawn.token_B
            if len(alive) < len(rows) * (1 - KEEP_FINISHED):
                index = torch.tensor(alive, device=self.device)
                prefix.select(index)
                rows, token_B = [rows[k] for k in alive], token_B[index]
                self.kept.narrow(rows)
            extend(self.causal, prefix, token_B[:, None])

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

    def _draw(self, prefix: Prefix, rows: list[int], t: int) -> Drawn:
        if not bool(prefix.hidden_BH.isfinite().all()):
            raise RunStopped(
                "the model computes values that are not finite while sampling: try model.dtype float32 or bfloat16, "
                "and check the weights"
            )
        logits_BV = logits(self.causal, prefix.hidden_BH)
        if self.uniform_BT is None:
            logp_BV = torch.log_softmax(logits_BV, dim=-1)
            token_B = logits_BV.argmax(dim=-1)
        else:
            logp_BV = torch.log_softmax(logits_BV / self.sampling.temperature, dim=-1)
            token_B = invert(logp_BV, self.uniform_BT[rows, t])
        return Drawn(token_B, logp_BV.gather(1, token_B[:, None])[:, 0])


class _Kept:
    """What entered the lowest trained layer while rows were sampled: once a prompt, then once a token of each row."""

    def __init__(self, requests: Sequence[Request]) -> None:
        self.requests = requests
        self.prompts: dict[tuple[int, ...], Tensor] = {}
        self.spans: list[tuple[list[int], list[Tensor]]] = [(list(range(len(requests))), [])]

    def catch(self, hidden_BTH: Tensor) -> None:
        """The first time hidden states of the prompts, padded on the left, and then of a token of each row."""
        if self.prompts:
            self.spans[-1][1].append(hidden_BTH[:, 0])
            return
        distinct = dict.fromkeys(request.prompt_ids for request in self.requests)
        for prompt, hidden_TH in zip(distinct, hidden_BTH, strict=True):
            self.prompts[prompt] = hidden_TH[-len(prompt) :].clone()

    def narrow(self, rows: list[int]) -> None:
        """From now on only `rows` are in the batch."""
        self.spans.append((rows, []))

    def of_rows(self, lengths: Sequence[int]) -> list[Kept | None]:
        """By row, what was kept; a row's last token was not fed, or not for its sake."""
        if not self.prompts:
            return [None] * len(lengths)
        parts: list[list[Tensor]] = [[prompt[:0]] for prompt in (self.prompts[r.prompt_ids] for r in self.requests)]
        for rows, tokens in self.spans:
            if tokens:
                for row, hidden_TH in zip(rows, torch.stack(tokens, dim=1), strict=True):
                    parts[row].append(hidden_TH)
        whole = [torch.cat(part)[: length - 1] for part, length in zip(parts, lengths, strict=True)]
        return [Kept(self.prompts[r.prompt_ids], rest.clone()) for r, rest in zip(self.requests, whole, strict=True)]


def invert(logp_BV: Tensor, uniform_B: Tensor) -> Tensor:
    """Draw a token from each row's distribution with its own uniform number in [0, 1): [B,V], [B] -> [B] long.

    The token is the first whose cumulative probability exceeds the number, so a token of probability 0 is never
    drawn. Sums are taken in float64, where the device has it. The numbers may lie on the CPU.
    """
    wide = torch.float32 if logp_BV.device.type == "mps" else torch.float64
    uniform_B1 = uniform_B[:, None].to(wide).to(logp_BV.device)
    cumulative_BV = logp_BV.to(wide).exp().cumsum(dim=-1)
    # Scaled by the row's own total, which rounding leaves near 1, and kept below it: there is always such a token.
    total_B1 = cumulative_BV[:, -1:]
    below_B1 = torch.nextafter(total_B1, torch.full_like(total_B1, -math.inf))
    target_B1 = torch.minimum(uniform_B1 * total_B1, below_B1)
    return torch.searchsorted(cumulative_BV, target_B1, right=True)[:, 0]
