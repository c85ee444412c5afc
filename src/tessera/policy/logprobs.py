"""SCORE: log-probabilities at the planned positions, and only there.

A row ends at its last planned position, a prefix is computed once for all rows that share it (`forest`), the frozen
layers once for all calls (`trunk`), and the vocabulary head runs on the planned positions alone (`head`). No
[rows, length, vocabulary] tensor exists.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import save_on_cpu, saved_tensors_hooks

from tessera.core.batch import pad_rows
from tessera.core.errors import UserError
from tessera.policy.forest import Forest, Row, plant
from tessera.policy.head import Ask, Scores, project
from tessera.policy.parts import local
from tessera.policy.prefix import causal_lm, extend, prefill
from tessera.policy.sharded import in_one_pass
from tessera.policy.trunk import packs, states


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
    causal = causal_lm(model)
    with _in_host(causal) if offload else nullcontext():
        return in_one_pass(causal, lambda: _score(causal, rows, temperature, tuple(eos_ids), recompute))


def _in_host(causal: Any) -> saved_tensors_hooks:
    """Within the context what backward needs is kept in the host's memory, but for the weights, which stay."""
    weights = {local(p).untyped_storage().data_ptr() for p in causal.parameters()}
    host = save_on_cpu(pin_memory=True)

    def pack(tensor: Tensor) -> Any:
        return tensor if tensor.untyped_storage().data_ptr() in weights else host.pack_hook(tensor)

    def unpack(packed: Any) -> Tensor:
        return packed if isinstance(packed, Tensor) else host.unpack_hook(packed)

    return saved_tensors_hooks(pack, unpack)


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
    state_D, label_D = pair_D.contiguous()
    scores = project(causal, hidden_KH[state_U], Ask(state_D, label_D, temperature, eos_ids))
    return Scores(*(field_D[pair_N] for field_D in scores))


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
