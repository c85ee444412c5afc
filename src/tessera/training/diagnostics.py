"""What the papers look at beside the loss: gradients by probability, extreme covariances, likely and unlikely tokens.

Taken every `diagnostics_every` steps, over every selected token of the step, before its first update.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from tessera.algorithms.base import Algorithm
from tessera.core.batch import Scored
from tessera.core.covariance import covariance

PERCENT = (0.01, 1.0, 20.0, 40.0, 100.0)  # the rows of Table 1 of arXiv:2605.11538
LISTED = 100  # tokens of highest and lowest mean probability: arXiv:2511.00066, sec. 3.3


def diagnose(
    algorithm: Algorithm, scored: Scored, entropy_BT: Tensor, tokens_BT: Tensor, text: Callable[[int], str]
) -> dict[str, Any]:
    """The row of diagnostics.jsonl; docs/metrics.md explains its keys. `text` decodes a token id."""
    keep_BT = scored.selected_BT
    if not keep_BT.any():
        return {"tokens": 0}
    probability_N = scored.logp_BT[keep_BT].exp()
    covariance_BT, _, _ = covariance(scored, "step")
    return {
        "tokens": len(probability_N),
        "entropy": float(entropy_BT[keep_BT].mean()),
        "by_probability": _deciles(probability_N, scored.weight_BT[keep_BT], _pull(algorithm, scored)[keep_BT]),
        "covariance": _covariance(covariance_BT[keep_BT]),
        "likely_tokens": _by_token(probability_N, tokens_BT[keep_BT], text, likeliest=True),
        "unlikely_tokens": _by_token(probability_N, tokens_BT[keep_BT], text, likeliest=False),
    }


def _pull(algorithm: Algorithm, scored: Scored) -> Tensor:
    """(1 - π) |∂ loss / ∂ logp| of each token [B,T]: w (1 - π) |γ| of arXiv:2511.00066, Theorem 3.2."""
    with torch.enable_grad():
        logp_BT = scored.logp_BT.detach().requires_grad_()
        loss = algorithm.token_loss(replace(scored, logp_BT=logp_BT)).loss_BT.sum()
        (slope_BT,) = torch.autograd.grad(loss, logp_BT)
    return slope_BT.abs() * (1 - logp_BT.detach().exp())


def _deciles(probability_N: Tensor, weight_N: Tensor, pull_N: Tensor) -> list[dict[str, float]]:
    """Ten parts of equally many tokens, from the least likely: highest probability, mean weight, mean pull."""
    order = probability_N.argsort()
    return [
        {
            "tokens": len(part),
            "up_to": float(probability_N[part].max()),
            "weight": float(weight_N[part].mean()),
            "pull": float(pull_N[part].mean()),
        }
        for part in order.tensor_split(10)
        if len(part)
    ]


def _covariance(c_N: Tensor) -> dict[str, Any]:
    """Covariances that a percentage of the tokens of each sign exceed, and the share of the sum that they hold."""
    size_N = c_N.abs().sort(descending=True).values
    share_N = size_N.cumsum(0) / size_N.sum().clamp(min=torch.finfo(c_N.dtype).tiny)
    return {
        "percent": list(PERCENT),
        "positive": _largest(c_N[c_N > 0].sort(descending=True).values),
        "negative": _largest(c_N[c_N < 0].sort().values),
        "share": _largest(share_N),
    }


def _largest(sorted_N: Tensor) -> list[float]:
    """The value at each percentage of a sorted vector; none of an empty one."""
    if not len(sorted_N):
        return []
    at = [max(0, -(-len(sorted_N) * percent // 100) - 1) for percent in PERCENT]
    return [float(sorted_N[int(i)]) for i in at]


def _by_token(
    probability_N: Tensor, token_N: Tensor, text: Callable[[int], str], likeliest: bool
) -> list[dict[str, Any]]:
    """The tokens of highest, or lowest, mean probability in the step."""
    ids, inverse, count = token_N.unique(return_inverse=True, return_counts=True)
    mean = torch.zeros(len(ids), dtype=probability_N.dtype).index_add(0, inverse, probability_N) / count
    order = mean.argsort(descending=likeliest, stable=True)[:LISTED].tolist()
    return [
        {"id": int(ids[i]), "text": text(int(ids[i])), "probability": float(mean[i]), "count": int(count[i])}
        for i in order
    ]
