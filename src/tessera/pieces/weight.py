"""Weights: how much each selected token counts. A weight scales the numerator of the loss, never its denominator.

Every function takes a Scored (log-probs detached, its own `weight_BT` all ones) and returns float [B,T]. One that
needs `statistics` sees the log-probs of every selected token of the optimiser step at once.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from tessera.core.batch import Scored
from tessera.core.covariance import Scope, covariance
from tessera.core.masking import blank, group_extreme, group_mean, of_rows
from tessera.pieces.registry import piece

Shape = Literal["shaped", "equal", "random", "reverse"]
SMALLEST_SPREAD = 1e-6  # of the largest covariance: below it, all are taken for equal


@piece("weight", "uniform", gives=("positive_weight",))
def uniform(scored: Scored) -> Tensor:
    """Every selected token counts once."""
    return torch.ones_like(scored.logp_BT)


@piece("weight", "token_regulated", gives=("positive_weight",))
def token_regulated(
    scored: Scored,
    *,
    alpha: Annotated[float, Field(gt=0)] = 2.0,
    mu: Annotated[float, Field(lt=0.5)] = 0.25,
    lower: Annotated[float, Field(ge=0)] = 1.0,
    upper: Annotated[float, Field(gt=0)] = 1.4,
    tau: Annotated[float, Field(gt=0)] = 9.0,
    scale: Literal["multiply", "divide"] = "multiply",
    variant: Shape = "shaped",
) -> Tensor:
    """w = clip(α (σ(s(π)) - μ), L, U): likely tokens count more (TR-GRPO, arXiv:2511.00066, Eq. 12).

    s(π) = τπ (`multiply`) or π/τ (`divide`). Ablations of its Table 4: `equal` is 1, `random` uniform in [0.5, 1.5],
    `reverse` 2 - w.
    """
    if variant == "equal":
        return torch.ones_like(scored.logp_BT)
    if variant == "random":
        return 0.5 + scored.draw_BT
    probability_BT = scored.logp_BT.exp()
    scaled_BT = probability_BT * tau if scale == "multiply" else probability_BT / tau
    weight_BT = (alpha * (torch.sigmoid(scaled_BT) - mu)).clamp(lower, upper)
    return weight_BT if variant == "shaped" else 2 - weight_BT


@piece("weight", "covariance_kernel", "group", "statistics")
def covariance_kernel(scored: Scored, *, scope: Scope = "group") -> Tensor:
    """w = N softmax(-c² / 2s²) over the N tokens of a group, or of the step (CW-GRPO, arXiv:2605.11538, sec. 2.3).

    c is the token's centred log-prob times its centred advantage, s the population std of c. Tokens whose c all agree,
    to 1e-6 of the largest, count once each.
    """
    covariance_BT, of_B, n = covariance(scored, scope)
    keep_BT = scored.selected_BT
    c_BT = covariance_BT / of_rows(
        _largest(covariance_BT.abs(), of_B, n).clamp(min=torch.finfo(covariance_BT.dtype).tiny), of_B
    )
    deviation_BT = c_BT - of_rows(group_mean(c_BT, keep_BT, of_B, n), of_B)
    std = group_mean(deviation_BT.square(), keep_BT, of_B, n).sqrt()
    exponent_BT = -c_BT.square() / (2 * of_rows(std.clamp(min=SMALLEST_SPREAD), of_B).square())
    exponent_BT = blank(exponent_BT, keep_BT, fill=-torch.inf)
    kernel_BT = torch.exp(exponent_BT - of_rows(_largest(exponent_BT, of_B, n).clamp(min=-1e30), of_B))
    mean = group_mean(kernel_BT, keep_BT, of_B, n)
    equal = (std <= SMALLEST_SPREAD) | (mean == 0)
    weight_BT = kernel_BT / of_rows(torch.where(equal, 1.0, mean), of_B)
    return torch.where(of_rows(equal, of_B), 1.0, weight_BT)


@piece("weight", "covariance_clip", "group", "statistics")
def covariance_clip(
    scored: Scored,
    *,
    cov_low: float = 1.0,
    cov_high: float = 5.0,
    ratio: Annotated[float, Field(ge=0, le=1)] = 2e-4,
) -> Tensor:
    """0 for floor(ratio N) tokens, drawn uniformly among those with cov_low ≤ c ≤ cov_high; 1 for the others.

    c as in `covariance_kernel` and N, the number of selected tokens, are of the whole step (Clip-Cov,
    arXiv:2505.22617, Eq. 11-12).
    """
    c_BT, _, _ = covariance(scored, "step")
    within_BT = scored.selected_BT & (c_BT >= cov_low) & (c_BT <= cov_high)
    order_BT = torch.where(within_BT, scored.draw_BT, 2.0)  # a draw is below 1
    rank_BT = order_BT.flatten().argsort(stable=True).argsort().reshape(order_BT.shape)
    dropped = torch.floor(ratio * scored.selected_BT.sum().double())
    return torch.where(within_BT & (rank_BT < dropped), 0.0, torch.ones_like(c_BT))


def _largest(x_BT: Tensor, of_B: Tensor, n: int) -> Tensor:
    """[n] the largest of each group; of a group without rows 0."""
    row_B = torch.nn.functional.pad(x_BT, (0, 1), value=-torch.inf).amax(dim=1)
    return group_extreme(row_B, of_B, n, "amax")
