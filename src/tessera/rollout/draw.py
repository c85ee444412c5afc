"""Drawing a token from logits, each row with its own uniform number, and the log-prob of what was drawn."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from tessera.rollout.engine import Sampling

SPAN = 256  # tokens summed together before the sums are summed


class Drawn(NamedTuple):
    """The token drawn for each row [B] long, and its log-prob [B] in the distribution it was drawn from."""

    token_B: Tensor
    logp_B: Tensor


def marked(hidden_BH: Tensor, logits_BV: Tensor) -> tuple[Tensor, Tensor]:
    """Logits that can be drawn from, and which rows were finite [B] bool: a row that was not gets logits of 0."""
    finite_B = hidden_BH.isfinite().all(dim=-1) & logits_BV.isfinite().all(dim=-1)
    if not bool(finite_B.all()):
        logits_BV = logits_BV.masked_fill(~finite_B[:, None], 0.0)
    return logits_BV, finite_B


def draw(logits_BV: Tensor, finite_B: Tensor, uniform_B: Tensor | None, sampling: Sampling) -> Drawn:
    """One token a row; `uniform_B` in [0, 1), float64, is not needed at temperature 0. `logits_BV` may be overwritten.

    The log-prob of a row that is not `finite_B` is NaN.

    At temperature 0 the likeliest token, and its log-prob in the distribution of temperature 1. Otherwise from
    softmax(logits / temperature), cut by top_k, top_p and min_p in this order and normalised again.
    """
    if sampling.temperature == 0 or uniform_B is None:
        top_B, token_B = logits_BV.max(dim=-1)
        return _noted(token_B, top_B - logits_BV.logsumexp(dim=-1), finite_B)
    scaled_BV = logits_BV.div_(sampling.temperature)
    if sampling.truncates:
        scaled_BV = truncated(scaled_BV, sampling)
    top_B1 = scaled_BV.amax(dim=-1, keepdim=True)
    mass_BV = (scaled_BV - top_B1).exp_()
    token_B, total_B = invert(mass_BV, uniform_B)
    logit_B = scaled_BV.gather(1, token_B[:, None])[:, 0]
    return _noted(token_B, logit_B - top_B1[:, 0] - total_B.log().to(logit_B.dtype), finite_B)


def _noted(token_B: Tensor, logp_B: Tensor, finite_B: Tensor) -> Drawn:
    return Drawn(token_B, torch.where(finite_B, logp_B, torch.nan))


def invert(mass_BV: Tensor, uniform_B: Tensor) -> tuple[Tensor, Tensor]:
    """A token of each row by its uniform number: the first whose cumulative mass exceeds that share of the total.

    [B,V] not negative, [B] -> [B] long, and the totals [B]. A token without mass is never drawn. Sums are taken in
    float64, where the device has it: first of spans of tokens, then inside the span that holds the token.
    """
    wide = torch.float32 if mass_BV.device.type == "mps" else torch.float64
    rows, size = mass_BV.shape
    spans = -(-size // SPAN)
    mass_BSL = torch.nn.functional.pad(mass_BV, (0, spans * SPAN - size)).view(rows, spans, SPAN)
    up_to_BS = mass_BSL.sum(dim=-1, dtype=wide).cumsum(dim=-1)
    total_B = up_to_BS[:, -1]
    target_B1 = _below(uniform_B.to(wide).to(mass_BV.device) * total_B, total_B)[:, None]
    span_B1 = torch.searchsorted(up_to_BS, target_B1, right=True)
    before_B1 = torch.where(span_B1 > 0, up_to_BS.gather(1, (span_B1 - 1).clamp(min=0)), 0.0)
    inside_BL = mass_BSL[torch.arange(rows, device=mass_BV.device), span_B1[:, 0]].to(wide).cumsum(dim=-1)
    rest_B1 = _below((target_B1 - before_B1)[:, 0], inside_BL[:, -1])[:, None]
    token_B = span_B1[:, 0] * SPAN + torch.searchsorted(inside_BL, rest_B1, right=True)[:, 0]
    return token_B, total_B


def _below(value_B: Tensor, bound_B: Tensor) -> Tensor:
    """`value_B`, kept below the bound that rounding may have taken it to: some mass always lies beyond it."""
    return torch.minimum(value_B, torch.nextafter(bound_B, torch.full_like(bound_B, -torch.inf)))


def truncated(logits_BV: Tensor, sampling: Sampling) -> Tensor:
    """`logits_BV` with -inf for what top_k, top_p or min_p leave out; the likeliest token always stays.

    top_k keeps the k likeliest (ties with the last of them too); top_p the fewest of the likeliest whose mass is at
    least p; min_p those at least p times as likely as the likeliest.
    """
    if sampling.top_k is not None and sampling.top_k < logits_BV.shape[1]:
        least_B1 = logits_BV.topk(sampling.top_k, dim=-1).values[:, -1:]
        logits_BV = logits_BV.masked_fill(logits_BV < least_B1, -torch.inf)
    if sampling.top_p is not None and sampling.top_p < 1:
        sorted_BV, order_BV = logits_BV.sort(dim=-1, descending=True)
        mass_BV = sorted_BV.softmax(dim=-1)
        out_BV = mass_BV.cumsum(dim=-1) - mass_BV >= sampling.top_p
        logits_BV = logits_BV.masked_fill(torch.zeros_like(out_BV).scatter(1, order_BV, out_BV), -torch.inf)
    if sampling.min_p is not None:
        least_B1 = logits_BV.amax(dim=-1, keepdim=True) + torch.tensor(sampling.min_p).log().to(logits_BV)
        logits_BV = logits_BV.masked_fill(logits_BV < least_B1, -torch.inf)
    return logits_BV
