"""Selections: which tokens take part. A selection leaves the mask and the denominator; the rest is never computed.

Every function takes (batch, advantage_BT, generator) and returns bool [B,T], a subset of `batch.mask_BT`.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Generator, Tensor

from tessera.core.batch import TokenBatch
from tessera.core.errors import UserError
from tessera.core.masking import policy_position, uniform
from tessera.pieces.registry import piece

SAME_ENTROPY = 1e-5  # nats

Probability = Annotated[float, Field(ge=0, le=1)]


@piece("selection", "all", gives=("whole_rows",))
def every_token(batch: TokenBatch, advantage_BT: Tensor, generator: Generator) -> Tensor:
    """Every token the policy wrote."""
    return batch.mask_BT


@piece("selection", "stochastic_prefix")
def stochastic_prefix(
    batch: TokenBatch,
    advantage_BT: Tensor,
    generator: Generator,
    *,
    cutoff: Annotated[int, Field(ge=0)] = 50,
    max_selected: Annotated[int, Field(ge=0)] = 100,
    probability: Probability = 0.15,
) -> Tensor:
    """S-GRPO's rule (arXiv:2504.20834, Eq. 6), scanning a completion's policy tokens t = 0, 1, ... in order:

    t < cutoff always; t >= cutoff with `probability` while fewer than `max_selected` are in; otherwise never. The
    cutoff wins over `max_selected`. One draw is taken for each policy token, row by row, so padding changes nothing.
    """
    position_BT = policy_position(batch.mask_BT)
    late_BT = batch.mask_BT & (position_BT >= cutoff)
    drawn_BT = late_BT & (uniform(batch.mask_BT, generator) < probability)
    early_B1 = (batch.mask_BT & ~late_BT).sum(dim=1, keepdim=True)
    room_BT = early_B1 + drawn_BT.long().cumsum(dim=1) <= max_selected
    return (batch.mask_BT & ~late_BT) | (drawn_BT & room_BT)


@piece("selection", "unique_pairs", "by_prefix")
def unique_pairs(
    batch: TokenBatch,
    advantage_BT: Tensor,
    generator: Generator,
    *,
    pairs: Literal["informative", "all"] = "informative",
) -> Tensor:
    """T-SPMO's U: each (prefix, token) pair of a group once, however many completions share it (2504.20834, Eq. 10).

    The first completion that wrote the pair stands for it. `informative` keeps pairs whose advantage is not 0.
    """
    first_BT = torch.zeros_like(batch.mask_BT)
    mask = batch.mask_BT.tolist()
    for rows, trie in batch.tries:
        seen: set[int] = set()
        for row, path in zip(rows, trie.paths, strict=True):
            for t, node in enumerate(path):
                if mask[row][t] and node not in seen:
                    seen.add(node)
                    first_BT[row, t] = True
    return first_BT & (advantage_BT != 0) if pairs == "informative" else first_BT


@piece("selection", "complete", "truncated", gives=("whole_rows",))
def complete(batch: TokenBatch, advantage_BT: Tensor, generator: Generator) -> Tensor:
    """Every token of the completions that ended by themselves; none of those cut at the length limit.

    A completion that was cut still counts in its group's statistics and as a completion in `sequence_mean`
    (DAPO's overlong filtering, arXiv:2503.14476, sec. 3.4).
    """
    return batch.mask_BT & ~_known(batch.truncated_B, "complete", "truncated")[:, None]


@piece("selection", "high_entropy", "entropy")
def high_entropy(
    batch: TokenBatch,
    advantage_BT: Tensor,
    generator: Generator,
    *,
    fraction: Annotated[float, Field(gt=0, le=1)] = 0.2,
    scope: Literal["step", "group"] = "step",
) -> Tensor:
    """The `fraction` of tokens, rounded up, at which the policy's entropy is highest (arXiv:2506.01939, Eq. 5-6).

    Counted over the whole optimiser step or over each group. Tokens that tie with the last one, to 1e-5 nats, are in as
    well: completions that share a prefix share its entropies, but for rounding.
    """
    entropy_BT = _known(batch.entropy_BT, "high_entropy", "entropy")
    chosen_BT = torch.zeros_like(batch.mask_BT)
    whole = torch.zeros_like(batch.group_B)
    of_B, n = (whole, 1) if scope == "step" else (batch.group_B, batch.n_groups)
    for g in range(n):
        among_BT = batch.mask_BT & (of_B == g)[:, None]
        values = entropy_BT[among_BT]
        if len(values):
            least = values.sort(descending=True).values[_count(fraction, len(values)) - 1]
            chosen_BT |= among_BT & (entropy_BT >= least - SAME_ENTROPY)
    return chosen_BT


@piece("selection", "random_fraction")
def random_fraction(
    batch: TokenBatch, advantage_BT: Tensor, generator: Generator, *, fraction: Probability = 0.2
) -> Tensor:
    """Each policy token with probability `fraction`, independently: the control for every other selection."""
    return batch.mask_BT & (uniform(batch.mask_BT, generator) < fraction)


def _known(x: Tensor | None, selection: str, name: str) -> Tensor:
    if x is None:
        raise UserError(f"selection {selection} needs {name}, which was not given")
    return x


def _count(fraction: float, total: int) -> int:
    """`fraction` of `total`, rounded up; a product that only rounding put above a whole number is that number."""
    return max(1, math.ceil(fraction * total - 1e-9 * total))
