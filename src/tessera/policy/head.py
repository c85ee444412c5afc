"""The vocabulary head: log-probs of given tokens, in chunks, with nothing as wide as the vocabulary kept for backward.

For a frozen head the gradient of a log-prob is known as soon as the probabilities are:

    d log p(y) / d h = (W_y - Σ_v p_v W_v) · scale / temperature

so the forward pass computes the mean row Σ_v p_v W_v [H] beside the log-probs, and backward multiplies no matrix.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tessera.policy.products import linear

CHUNK_BYTES = 2**24  # of float32 logits: 85 nodes of a vocabulary of 49152; half of it takes a third longer
CHUNK_BYTES_CUDA = 2**28


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


class Ask(NamedTuple):
    """What is asked of the nodes' distributions softmax(logits / temperature).

    D pairs of a node `state_D` (increasing) and a token `label_D`; `eos_ids` are the tokens that end a text.
    """

    state_D: Tensor
    label_D: Tensor
    temperature: float
    eos_ids: tuple[int, ...]

    def part(self, start: int, stop: int) -> Ask:
        """The pairs of the nodes [start, stop), those counted from 0."""
        bounds = torch.tensor([start, stop], device=self.state_D.device)
        first, last = torch.searchsorted(self.state_D, bounds).tolist()
        return self._replace(state_D=self.state_D[first:last] - start, label_D=self.label_D[first:last])


def project(causal: Any, hidden_UH: Tensor, ask: Ask) -> Scores:
    """The answers for D pairs, from the final hidden states [U,H] of the nodes."""
    head = causal.get_output_embeddings()
    if type(head) is nn.Linear and not any(p.requires_grad for p in head.parameters()):
        return Scores(*_Frozen.apply(hidden_UH, causal, ask))  # type: ignore[no-untyped-call]
    found = []
    size = chunk(causal)
    for start in range(0, len(hidden_UH), size):
        args = (causal, hidden_UH[start : start + size], ask.part(start, start + size))
        # Each chunk is computed again in backward, so that one chunk's logits exist at a time.
        found.append(checkpoint(_of_chunk, *args, use_reentrant=False) if torch.is_grad_enabled() else _of_chunk(*args))
    return Scores(*(torch.cat(parts) for parts in zip(*found, strict=True)))


def chunk(causal: Any) -> int:
    """Nodes a call of the head."""
    weight = causal.get_output_embeddings().weight
    budget = CHUNK_BYTES_CUDA if weight.device.type == "cuda" else CHUNK_BYTES
    return max(1, budget // (4 * int(weight.shape[0])))


def logits(causal: Any, hidden: Tensor) -> Tensor:
    """Next-token logits [...,V] of final hidden states [...,H], with the family's scaling or soft cap.

    float32, or float64 for a float64 model.
    """
    out: Tensor = causal.get_output_embeddings()(hidden)
    out = out.to(torch.promote_types(out.dtype, torch.float32))
    scale, cap = _scaling(causal)
    if scale != 1:
        out = out * scale
    return cap * torch.tanh(out / cap) if cap else out


def _scaling(causal: Any) -> tuple[float, float | None]:
    config = causal.config.get_text_config()
    scale = (getattr(config, "logit_scale", None) or 1.0) / (getattr(config, "logits_scaling", None) or 1.0)
    return scale, getattr(config, "final_logit_softcapping", None)


def _of_chunk(causal: Any, hidden_UH: Tensor, ask: Ask) -> tuple[Tensor, ...]:
    logits_UV = logits(causal, hidden_UH) / ask.temperature
    norm_U = logits_UV.logsumexp(dim=-1)
    logit_D = logits_UV[ask.state_D, ask.label_D]
    with torch.no_grad():
        entropy_U = norm_U - (torch.softmax(logits_UV, dim=-1) * logits_UV).sum(dim=-1)
        likeliest_D = logit_D >= logits_UV.amax(dim=-1)[ask.state_D]
        eos_logp_U = logits_UV[:, list(ask.eos_ids)].logsumexp(dim=-1) - norm_U
    return logit_D - norm_U[ask.state_D], entropy_U[ask.state_D], likeliest_D, eos_logp_U[ask.state_D]


class _Frozen(torch.autograd.Function):
    """`_of_chunk` over all nodes for a head that does not learn."""

    @staticmethod
    def forward(ctx: Any, hidden_UH: Tensor, causal: Any, ask: Ask) -> tuple[Tensor, ...]:
        size, learns = chunk(causal), ctx.needs_input_grad[0]
        parts = [
            _with_mean(causal, hidden_UH[start : start + size], ask.part(start, start + size), learns)
            for start in range(0, len(hidden_UH), size)
        ]
        logp_D, entropy_D, likeliest_D, eos_logp_D, slope_D, mean_UH = map(torch.cat, zip(*parts, strict=True))
        ctx.mark_non_differentiable(entropy_D, likeliest_D, eos_logp_D)
        ctx.ask, ctx.weight = ask, causal.get_output_embeddings().weight
        ctx.factor = _scaling(causal)[0] / ask.temperature
        ctx.save_for_backward(mean_UH, slope_D)
        return logp_D, entropy_D, likeliest_D, eos_logp_D

    @staticmethod
    def backward(ctx: Any, grad_D: Tensor, *_: Any) -> tuple[Tensor, None, None]:  # type: ignore[override]
        mean_UH, slope_D = ctx.saved_tensors
        state_D, label_D = ctx.ask.state_D, ctx.ask.label_D
        grad_D = grad_D * ctx.factor
        own_UH = torch.zeros_like(mean_UH)
        own_UH.index_add_(0, state_D, (grad_D * slope_D)[:, None] * ctx.weight[label_D].to(grad_D.dtype))
        total_U = grad_D.new_zeros(len(mean_UH)).index_add_(0, state_D, grad_D)
        return (own_UH - total_U[:, None] * mean_UH).to(ctx.weight.dtype), None, None


def _with_mean(causal: Any, hidden_UH: Tensor, ask: Ask, learns: bool) -> tuple[Tensor, ...]:
    """The answers for a chunk; and for backward what a cap leaves of each pair's slope [D], and the mean rows [U,H]."""
    cap, weight, state_D = _scaling(causal)[1], causal.get_output_embeddings().weight, ask.state_D
    logits_UV = logits(causal, hidden_UH)
    slope_UV = 1 - (logits_UV / cap).square() if cap and learns else None
    logits_UV = logits_UV.div_(ask.temperature)
    top_U = logits_UV.amax(dim=-1)
    mass_UV = (logits_UV - top_U[:, None]).exp_()
    total_U = mass_UV.sum(dim=-1)
    norm_U = top_U + total_U.log()
    logit_D = logits_UV[state_D, ask.label_D]
    entropy_U = norm_U - torch.einsum("uv,uv->u", mass_UV, logits_UV) / total_U
    eos_logp_U = logits_UV[:, list(ask.eos_ids)].logsumexp(dim=-1) - norm_U
    slope_D, mean_UH = torch.ones_like(logit_D), hidden_UH.new_empty(0, hidden_UH.shape[-1])
    if learns:
        if slope_UV is not None:
            slope_D = slope_UV[state_D, ask.label_D]
            mass_UV.mul_(slope_UV)
        mean_UH = linear(mass_UV.to(weight.dtype), weight.t()).to(norm_U.dtype) / total_U[:, None]
    logp_D = logit_D - norm_U[state_D]
    return logp_D, entropy_U[state_D], logit_D >= top_U[state_D], eos_logp_U[state_D], slope_D, mean_UH
