"""SCORE: log-probabilities at the planned positions, and only there.

A row ends at its last planned position, its prompt is computed once for all rows that share it, and the vocabulary
head runs on the planned positions alone, in chunks, with the log-sum-exp in float32 or wider. No
[rows, length, vocabulary] tensor exists.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from tessera.core.batch import pad_rows
from tessera.policy.prefix import causal_lm, extend, prefill

HEAD_CHUNK = 512  # positions a head call: 512 x 49152 float32 logits are 96 MiB


class Row(NamedTuple):
    """A completion to score: its prompt, its tokens, and the planned positions among them (0-based, increasing)."""

    prompt_ids: tuple[int, ...]
    ids: tuple[int, ...]
    positions: tuple[int, ...]


class Scores(NamedTuple):
    """Of the planned tokens, row by row: `logp_N` [N], log-probs; `entropy_N` [N], the distribution's entropy in nats,
    without gradient; `likeliest_N` bool [N], whether no token was likelier; `eos_logp_N` [N], the log-prob of ending
    there, summed over the ids that end a text, without gradient (-inf: no such ids were given). Floats are at least
    float32.
    """

    logp_N: Tensor
    entropy_N: Tensor
    likeliest_N: Tensor
    eos_logp_N: Tensor


def score(model: Any, rows: Sequence[Row], *, temperature: float = 1.0, eos_ids: Sequence[int] = ()) -> Scores:
    """Log-probs of the distribution softmax(logits / temperature) at every planned position of `rows`.

    Every row plans at least one position. `eos_ids` are the tokens whose probabilities make up `eos_logp_N`. Carries
    gradient when the caller's context does.
    """
    causal = causal_lm(model)
    hidden_NH, label_N = _planned_hidden(causal, rows)
    chunks = []
    several = len(label_N) > HEAD_CHUNK and torch.is_grad_enabled()
    for h, y in zip(hidden_NH.split(HEAD_CHUNK), label_N.split(HEAD_CHUNK), strict=True):
        # With several chunks each is computed again in backward, so that one chunk's logits exist at a time.
        args = (causal, h, y, temperature, tuple(eos_ids))
        chunks.append(checkpoint(_head, *args, use_reentrant=False) if several else _head(*args))
    return Scores(*(torch.cat(parts) for parts in zip(*chunks, strict=True)))


def logits(causal: Any, hidden: Tensor) -> Tensor:
    """Next-token logits [...,V] of final hidden states [...,H], with the family's scaling or soft cap.

    float32, or float64 for a float64 model.
    """
    out: Tensor = causal.get_output_embeddings()(hidden)
    out = out.to(torch.promote_types(out.dtype, torch.float32))
    config = causal.config.get_text_config()
    if getattr(config, "logits_scaling", None):
        out = out / config.logits_scaling
    if getattr(config, "logit_scale", None):
        out = out * config.logit_scale
    cap = getattr(config, "final_logit_softcapping", None)
    return cap * torch.tanh(out / cap) if cap else out


def _planned_hidden(causal: Any, rows: Sequence[Row]) -> tuple[Tensor, Tensor]:
    """Hidden states that predict the planned tokens [N,H], and those tokens [N]."""
    prompts = list(dict.fromkeys(row.prompt_ids for row in rows))
    where = {prompt: i for i, prompt in enumerate(prompts)}
    prefix = prefill(causal, prompts)
    device = prefix.hidden_BH.device
    prefix.select(torch.tensor([where[row.prompt_ids] for row in rows], device=device))
    hidden_BTH = prefix.hidden_BH[:, None]
    # Position t is predicted by the state after t tokens, so the last planned token itself is never fed.
    fed_BT = pad_rows([row.ids[: row.positions[-1]] for row in rows]).to(device)
    if fed_BT.shape[1]:
        hidden_BTH = torch.cat([hidden_BTH, extend(causal, prefix, fed_BT)], dim=1)
    row_N = torch.tensor([i for i, row in enumerate(rows) for _ in row.positions], device=device)
    position_N = torch.tensor([t for row in rows for t in row.positions], device=device)
    label_N = torch.tensor([row.ids[t] for row in rows for t in row.positions], device=device)
    return hidden_BTH[row_N, position_N], label_N


def _head(
    causal: Any, hidden_NH: Tensor, label_N: Tensor, temperature: float, eos_ids: tuple[int, ...]
) -> tuple[Tensor, ...]:
    logits_NV = logits(causal, hidden_NH) / temperature
    norm_N = logits_NV.logsumexp(dim=-1)
    logit_N = logits_NV.gather(1, label_N[:, None])[:, 0]
    with torch.no_grad():
        entropy_N = norm_N - (torch.softmax(logits_NV, dim=-1) * logits_NV).sum(dim=-1)
        likeliest_N = logit_N >= logits_NV.amax(dim=-1)
        eos_logp_N = logits_NV[:, list(eos_ids)].logsumexp(dim=-1) - norm_N
    return logit_N - norm_N, entropy_N, likeliest_N, eos_logp_N
