"""The tensors between plan, score and learn.

Axis legend, used by every name in the library:

    B   rows (completions) of the tensor at hand: a group, a micro-batch, or a whole optimiser step
    T   positions in a completion, 0-based from the first token after the prompt
    N   planned positions, flattened over rows
    P   distinct prompts, or the tokens of one
    K   nodes of a forest: distinct prefixes of the rows of a forward pass
    U   nodes that predict a planned token, each once;  D   distinct pairs of such a node and a token
    H, V   hidden size, vocabulary

A name without an axis suffix is a scalar or a collection. Nothing here knows a model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property

import torch
from torch import Tensor

from tessera.core.trie import Trie, build_trie

LARGEST_REWARD = 1e38


@dataclass(frozen=True)
class TokenBatch:
    """What PLAN sees: the completions of one or more groups with their rewards.

    `tokens_BT` [B,T] long; `lengths_B` [B] long, tokens in each row; `mask_BT` [B,T] bool, True where the policy wrote
    the token (False: padding, tool output); `rewards_B` [B] float; `group_B` [B] long, the group of each row, in
    `0..n_groups-1`. A reward beyond ±1e38 counts as ±1e38, so that no difference of rewards overflows in float32.

    Present where a piece needs it: `truncated_B` [B] bool, cut at the length limit; `entropy_BT` [B,T] float, entropy
    of the policy that sampled, in nats; `eos_logp_BT` [B,T] float, log π(EOS | s_t) of the same policy.
    """

    tokens_BT: Tensor
    lengths_B: Tensor
    mask_BT: Tensor
    rewards_B: Tensor
    group_B: Tensor
    n_groups: int
    truncated_B: Tensor | None = None
    entropy_BT: Tensor | None = None
    eos_logp_BT: Tensor | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "rewards_B", self.rewards_B.clamp(-LARGEST_REWARD, LARGEST_REWARD))

    @cached_property
    def tries(self) -> tuple[tuple[list[int], Trie], ...]:
        """For each group, the indices of its rows and the trie of their tokens."""
        groups = self.group_B.tolist()
        tokens, lengths, rewards = self.tokens_BT.tolist(), self.lengths_B.tolist(), self.rewards_B.tolist()
        found = []
        for g in range(self.n_groups):
            rows = [i for i, group in enumerate(groups) if group == g]
            found.append((rows, build_trie([tokens[i][: lengths[i]] for i in rows], [rewards[i] for i in rows])))
        return tuple(found)


@dataclass(frozen=True)
class Plan:
    """Which tokens get how much credit, decided before any forward pass with gradient. All tensors [B,T].

    `share_BT` is each selected token's part of the step's loss (the aggregation's coefficient, 0 where not selected):
    the loss is `sum(share * token_loss)` however the rows are cut into micro-batches. `active_BT` marks the selected
    positions whose gradient is not known to be zero; only these are ever scored. `draw_BT` holds a uniform number in
    [0, 1) for every policy token: whatever is random later was drawn here, once for the whole step.
    """

    advantage_BT: Tensor
    selected_BT: Tensor
    share_BT: Tensor
    active_BT: Tensor
    draw_BT: Tensor

    def to(self, device: torch.device) -> Plan:
        """The same plan on another device."""
        return Plan(*(getattr(self, f.name).to(device) for f in fields(self)))

    def rows(self, index: Sequence[int]) -> Plan:
        """The plan of some rows, in the order of `index`. Shares stay those of the whole step."""
        return Plan(*(getattr(self, f.name)[list(index)] for f in fields(self)))


@dataclass(frozen=True)
class Scored:
    """What LEARN sees of some rows: log-probs at the planned positions, zeros elsewhere. All tensors [B,T] unless said.

    `logp_BT` carries gradient; `old_BT` (sampling policy) and `ref_BT` (reference policy) do not. `weight_BT` scales
    the numerator only. `draw_BT` are the plan's uniform numbers. `group_B` [B] and `n_groups` say which rows belong
    together. `sampler_BT` are the sampler's own log-probs, not finite where it has none; None: those of `old_BT`.
    """

    logp_BT: Tensor
    old_BT: Tensor
    ref_BT: Tensor
    advantage_BT: Tensor
    selected_BT: Tensor
    weight_BT: Tensor
    draw_BT: Tensor
    group_B: Tensor
    n_groups: int
    sampler_BT: Tensor | None = None


@dataclass(frozen=True)
class Loss:
    """The result of `tessera.score_group`.

    `value` 0-d, carries gradient; `per_token`, `advantage`, `weight` float [G,T] and `selected` bool [G,T]: each
    token's loss before aggregation (0 where not selected), its advantage, its weight, and whether it takes part.
    """

    value: Tensor
    per_token: Tensor
    advantage: Tensor
    weight: Tensor
    selected: Tensor
    metrics: Mapping[str, float] = field(default_factory=dict)


def pad_rows(rows: Sequence[Sequence[int]], fill: int = 0) -> Tensor:
    """Stack ragged rows of integers into a long tensor [B,T], filled with `fill` on the right."""
    width = max((len(row) for row in rows), default=0)
    return torch.tensor([[*row, *[fill] * (width - len(row))] for row in rows], dtype=torch.long).reshape(
        len(rows), width
    )


def make_batch(
    rows: Sequence[Sequence[int]],
    sampled: Sequence[Sequence[bool]],
    rewards: Sequence[float],
    groups: Sequence[int],
) -> TokenBatch:
    """Build a TokenBatch from plain lists: ids, provenance, reward and group of each row. Rewards stay in float64."""
    return TokenBatch(
        tokens_BT=pad_rows(rows),
        lengths_B=torch.tensor([len(row) for row in rows], dtype=torch.long),
        mask_BT=pad_rows([[int(s) for s in row] for row in sampled]).bool(),
        rewards_B=torch.tensor(rewards, dtype=torch.float64),
        group_B=torch.tensor(groups, dtype=torch.long),
        n_groups=max(groups, default=-1) + 1,
    )
