"""An algorithm is six pieces, and a correction where another sampled than trains.

PLAN and LEARN of plan -> score -> learn live here; SCORE, which needs a model, lives in `tessera.policy`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor

from tessera.core.batch import Plan, Scored, TokenBatch
from tessera.core.checks import check_groups
from tessera.core.errors import UserError
from tessera.core.importance import Importance, importance_ratio
from tessera.core.masking import blank, group_size, uniform
from tessera.pieces import CORRECTION, KINDS, Chain, Piece, giving


class TokenLoss(NamedTuple):
    """`loss_BT` float [B,T], each selected token's loss before aggregation; the flags of SurrogateTerms, bool [B,T].

    `importance` is there where the composition corrects for the sampler.
    """

    loss_BT: Tensor
    clipped_low_BT: Tensor
    clipped_high_BT: Tensor
    bounded_BT: Tensor
    importance: Importance | None = None


# What one piece may need of another: its kind, and why a composition without it has no meaning.
FITS = {
    "whole_rows": ("selection", "sums over every token of a completion, and selection {} removes some"),
    "by_prefix": (
        "advantage",
        "lets one completion stand for all that share a prefix, and advantage {} differs among them",
    ),
    "positive_weight": ("weight", "takes the logarithm of the weight, and weight {} can be 0"),
}


@dataclass(frozen=True)
class Algorithm:
    """A composition: advantage -> selection -> weight -> surrogate (+ regulariser) -> aggregation.

    An `importance_correction` multiplies what the surrogate gives; None: sampler and trainer are taken for the same.
    """

    name: str
    advantage: Piece
    selection: Piece | Chain
    weight: Piece
    surrogate: Piece
    regulariser: Piece
    aggregation: Piece
    importance_correction: Piece | None = None

    def __post_init__(self) -> None:
        for kind, given in {**self.pieces, CORRECTION: self.importance_correction}.items():
            if given is not None and given.kind != kind:
                raise UserError(f"{self.name}: {given.name!r} is no {kind}")
        for piece in self.pieces.values():
            for need in sorted(piece.needs & FITS.keys()):
                kind, reason = FITS[need]
                other = getattr(self, kind)
                if need not in other.gives:
                    fitting = ", ".join(giving(kind, need))
                    raise UserError(
                        f"{self.name}: {piece.kind} {piece.name} {reason.format(other.name)}; give {kind}: {fitting}"
                    )

    @property
    def pieces(self) -> dict[str, Piece | Chain]:
        """The six pieces by kind, in the order they act."""
        return {kind: getattr(self, kind) for kind in KINDS}

    @property
    def needs(self) -> frozenset[str]:
        """What the composition needs besides rollouts and rewards (see pieces.registry.PieceSpec)."""
        return frozenset().union(*(piece.needs for piece in self.pieces.values()))

    @property
    def penalises_tokens(self) -> bool:
        """Whether a token with advantage 0 still carries gradient, through the regulariser."""
        return self.regulariser.name != "none" and "parameters" not in self.regulariser.needs

    def exchange(self, pieces: Mapping[str, Piece | Chain | None]) -> Algorithm:
        """The same composition with the pieces of some kinds, or the correction, exchanged."""
        changed: dict[str, Any] = dict(pieces)
        return replace(self, **changed)

    def check_group_size(self, sizes: Sequence[int]) -> None:
        """Refuse groups too small for a group statistic."""
        if "group" in self.needs:
            check_groups(sizes, f"{self.name}'s advantage {self.advantage.name!r}")

    def plan(self, batch: TokenBatch, generator: Generator) -> Plan:
        """PLAN: advantage and selection, without a model. All tensors on the batch's device, floats in float64."""
        self.check_group_size(group_size(batch.group_B, batch.n_groups).tolist())
        advantage_BT = self.advantage(batch)
        selected_BT = self.selection(batch, advantage_BT, generator) & batch.mask_BT
        share_BT = self.aggregation(batch, selected_BT)
        draw_BT = uniform(batch.mask_BT, generator)
        return Plan(advantage_BT, selected_BT, share_BT, self._active(advantage_BT, selected_BT), draw_BT)

    def _active(self, advantage_BT: Tensor, selected_BT: Tensor) -> Tensor:
        """Where gradient may arise: at a token with an advantage, or at any token of its row if the surrogate sums."""
        if self.penalises_tokens:
            return selected_BT
        credited_BT = selected_BT & (advantage_BT != 0)
        if "whole_rows" in self.surrogate.needs:
            return selected_BT & credited_BT.any(dim=1, keepdim=True)
        return credited_BT

    def weigh(self, scored: Scored) -> Scored:
        """The same rows with the weight piece's weights, 0 where not selected."""
        ones_BT = torch.ones_like(scored.logp_BT)
        detached = replace(scored, logp_BT=scored.logp_BT.detach(), weight_BT=ones_BT)
        return replace(scored, weight_BT=blank(self.weight(detached), scored.selected_BT))

    def token_loss(self, scored: Scored) -> TokenLoss:
        """LEARN: -(surrogate) + penalty of each selected token, 0 elsewhere; the loss is `sum(share * loss)`."""
        terms, importance = self.surrogate(scored), self._importance(scored)
        loss_BT = -(terms.objective_BT if importance is None else importance.factor_BT * terms.objective_BT)
        if self.penalises_tokens:
            loss_BT = loss_BT + self.regulariser(scored)
        keep_BT = scored.selected_BT
        low, high, bounded = terms.clipped_low_BT, terms.clipped_high_BT, terms.bounded_BT
        return TokenLoss(blank(loss_BT, keep_BT), low & keep_BT, high & keep_BT, bounded & keep_BT, importance)

    def _importance(self, scored: Scored) -> Importance | None:
        """The correction's factor, which multiplies the objective outside every clip; the policy's clip is its own."""
        if self.importance_correction is None:
            return None
        sampler_BT = scored.old_BT if scored.sampler_BT is None else scored.sampler_BT
        ratio_BT = importance_ratio(scored.old_BT, sampler_BT)
        return Importance(ratio_BT, self.importance_correction(ratio_BT))

    def parameter_loss(self, matrices: Sequence[Tensor]) -> Tensor | None:
        """The regulariser over the adapter's matrices, 0-d, or None when it is over tokens."""
        return self.regulariser(matrices) if "parameters" in self.regulariser.needs else None

    def describe(self) -> str:
        """The composition, a piece a line."""
        lines = [f"{kind:<12} {piece}" for kind, piece in self.pieces.items()]
        corrected = self.importance_correction
        return "\n".join(lines if corrected is None else [*lines, f"{CORRECTION} {corrected}"])
