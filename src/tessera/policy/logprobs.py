"""SCORE: log-probabilities at the planned positions, and only there.

A row ends at its last planned position, a prefix is computed once for all rows that share it (`forest`), the frozen
layers once for all calls (`trunk`), and the vocabulary head runs on the planned positions alone, in chunks, with the
log-sum-exp in float32 or wider. No [rows, length, vocabulary] tensor exists.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.graph import save_on_cpu
from torch.utils.checkpoint import checkpoint

from tessera.core.batch import pad_rows
from tessera.core.errors import UserError
from tessera.policy.forest import Forest, Row, plant
from tessera.policy.prefix import causal_lm, extend, prefill
from tessera.policy.trunk import packs, states

HEAD_CHUNK = 512  # positions a head call: 512 x 49152 float32 logits are 96 MiB


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


def check_saving(model: Any, *, recompute: bool, offload: bool) -> None:
    """Raise UserError where `score` could not do what these two ask for."""
    causal = causal_lm(model)
    if recompute and not packs(causal):
        raise UserError(f"gradient_checkpointing does not work for models of type {causal.config.model_type} yet")
    device = causal.get_input_embeddings().weight.device.type
    if offload and device != "cuda":
        raise UserError(f"offload_activations needs a CUDA device, and the policy is on {device}")


def score(
    model: Any,
    rows: Sequence[Row] | Forest,
    *,
    temperature: float = 1.0,
    eos_ids: Sequence[int] = (),
    recompute: bool = False,
    offload: bool = False,
) -> Scores:
    """Log-probs of the distribution softmax(logits / temperature) at every planned position of `rows`.

    Every row plans at least one position. Rows planted before (`plant`) keep the output of the frozen layers for the
    next call. `eos_ids` are the tokens whose probabilities make up `eos_logp_N`. Carries gradient when the caller's
    context does: `recompute` is gradient checkpointing, layer by layer, and `offload` keeps what backward needs in
    the host's memory; `check_saving` says where they are possible.
    """
    with save_on_cpu(pin_memory=True) if offload else nullcontext():
        return _score(causal_lm(model), rows, temperature, tuple(eos_ids), recompute)


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


def _score(
    causal: Any, rows: Sequence[Row] | Forest, temperature: float, eos_ids: tuple[int, ...], recompute: bool
) -> Scores:
    forest = rows if isinstance(rows, Forest) else plant(rows, causal.get_input_embeddings().weight.device)
    if packs(causal):
        hidden_KH, state_N = states(causal, forest, recompute=recompute), forest.state_N
    else:
        hidden_KH = _row_by_row(causal, forest.rows)
        state_N = torch.arange(len(hidden_KH), device=hidden_KH.device)
    # A prefix that several rows share is projected once, and a token that several predict there is one token.
    state_U, use_N = state_N.unique(return_inverse=True)
    pair_D, pair_N = torch.stack([use_N, forest.label_N]).unique(dim=1, return_inverse=True)
    per_state = torch.bincount(pair_D[0], minlength=len(state_U))
    several = len(state_U) > HEAD_CHUNK and torch.is_grad_enabled()
    chunks, pairs = [], pair_D.split([int(n.sum()) for n in per_state.split(HEAD_CHUNK)], dim=1)
    for number, (h, pair) in enumerate(zip(hidden_KH[state_U].split(HEAD_CHUNK), pairs, strict=True)):
        # With several chunks each is computed again in backward, so that one chunk's logits exist at a time.
        args = (causal, h, pair[0] - number * HEAD_CHUNK, pair[1], temperature, eos_ids)
        chunks.append(checkpoint(_head, *args, use_reentrant=False) if several else _head(*args))
    return Scores(*(torch.cat(parts)[pair_N] for parts in zip(*chunks, strict=True)))


def _row_by_row(causal: Any, rows: Sequence[Row]) -> Tensor:
    """Hidden states that predict the planned tokens [N,H], where a forest cannot be packed: prompts are shared."""
    prompts = list(dict.fromkeys(row.prompt_ids for row in rows))
    where = {prompt: i for i, prompt in enumerate(prompts)}
    prefix = prefill(causal, prompts)
    device = prefix.hidden_BH.device
    prefix.select(torch.tensor([where[row.prompt_ids] for row in rows], device=device))
    hidden_BTH = prefix.hidden_BH[:, None]
    fed_BT = pad_rows([row.ids[: row.positions[-1]] for row in rows]).to(device)
    if fed_BT.shape[1]:
        hidden_BTH = torch.cat([hidden_BTH, extend(causal, prefix, fed_BT)], dim=1)
    row_N = torch.tensor([i for i, row in enumerate(rows) for _ in row.positions], device=device)
    position_N = torch.tensor([t for row in rows for t in row.positions], device=device)
    return hidden_BTH[row_N, position_N]


def _head(
    causal: Any, hidden_UH: Tensor, state_D: Tensor, label_D: Tensor, temperature: float, eos_ids: tuple[int, ...]
) -> tuple[Tensor, ...]:
    """The fields of Scores for pairs of a state and a token."""
    logits_UV = logits(causal, hidden_UH) / temperature
    norm_U = logits_UV.logsumexp(dim=-1)
    logit_D = logits_UV[state_D, label_D]
    with torch.no_grad():
        entropy_U = norm_U - (torch.softmax(logits_UV, dim=-1) * logits_UV).sum(dim=-1)
        likeliest_D = logit_D >= logits_UV.amax(dim=-1)[state_D]
        eos_logp_U = logits_UV[:, list(eos_ids)].logsumexp(dim=-1) - norm_U
    return logit_D - norm_U[state_D], entropy_U[state_D], likeliest_D, eos_logp_U[state_D]
