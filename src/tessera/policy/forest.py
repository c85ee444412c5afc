"""A batch of rows as a forest: every distinct prefix is one node, computed once, and nothing is padded.

The prompt of a group is the trunk of a tree and its completions are the branches, so sharing a prompt and sharing the
trie of T-SPMO (arXiv:2504.20834, sec. 3.3) are one mechanism. Nodes are packed depth first into one sequence: linear
layers see [1,K,H], and attention runs on blocks of neighbouring nodes, each of which sees its ancestors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

Ids = NDArray[np.int64]
# Neighbours share an attention call when that adds fewer score entries than a call costs; measured on two CPU cores.
CALL_WORTH = 16_384
CALL_WORTH_CUDA = 4_194_304


class Row(NamedTuple):
    """A completion to score: its prompt, its tokens, and the planned positions among them (0-based, increasing)."""

    prompt_ids: tuple[int, ...]
    ids: tuple[int, ...]
    positions: tuple[int, ...]

    @property
    def fed(self) -> tuple[int, ...]:
        """What the model has to read: the token at the last planned position is predicted, and never fed."""
        return self.prompt_ids + self.ids[: self.positions[-1]]


@dataclass
class Kept:
    """The frozen layers' output for a rollout: its prompt [P,H] (one tensor for a group) and what follows it [T,H]."""

    prompt_PH: Tensor | None
    rest_TH: Tensor | None

    def release(self) -> None:
        """Let go of it, whoever else holds the rollout."""
        self.prompt_PH = self.rest_TH = None

    def covers(self, row: Row) -> bool:
        """Whether it holds all that is fed of `row`."""
        if self.prompt_PH is None or self.rest_TH is None:
            return False
        return len(self.prompt_PH) == len(row.prompt_ids) and len(self.rest_TH) >= row.positions[-1]


class How(NamedTuple):
    """How a layer attends: scores are times `scale`; `window` is a sliding window's, `softcap` that of Gemma 2."""

    scale: float
    window: int | None = None
    softcap: float | None = None


class Piece(NamedTuple):
    """The first `length` nodes of run number `run`."""

    run: int
    length: int


class Run(NamedTuple):
    """The chain of nodes [start, stop) that only row `row` (or the first of several) adds, from position `depth` on.

    `above` are the pieces of earlier runs between the root and this run, in order; they hold `depth` nodes.
    """

    start: int
    stop: int
    row: int
    depth: int
    above: tuple[Piece, ...]

    def __len__(self) -> int:
        return self.stop - self.start


class Block(NamedTuple):
    """Runs [first, last) that share an attention call: all see some of what is above the first, and each other."""

    first: int
    last: int


@dataclass
class Forest:
    """K nodes of rows that are scored together.

    `token_K` and `depth_K` [K] are the token and the position (from 0) of each node. The rows' planned tokens, row
    after row, are `label_N` [N], predicted by the nodes `state_N` [N]. `below_KH` is the frozen layers' output, once
    it is known.
    """

    rows: tuple[Row, ...]
    runs: tuple[Run, ...]
    token_K: Tensor
    depth_K: Tensor
    state_N: Tensor
    label_N: Tensor
    below_KH: Tensor | None = None
    _masks: dict[tuple[int | None, torch.dtype], list[Tensor | None]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.token_K)

    @cached_property
    def blocks(self) -> tuple[Block, ...]:
        """The runs, neighbours joined where that is worth it."""
        return _join(self.runs, CALL_WORTH if self.token_K.device.type == "cpu" else CALL_WORTH_CUDA)

    def take(self, kept: Sequence[Kept | None]) -> None:
        """Fill `below_KH` with what was kept of each row; nothing is taken where one lacks some of what is fed."""
        parts = []
        for run in self.runs:
            row, at = self.rows[run.row], kept[run.row]
            if at is None or at.prompt_PH is None or at.rest_TH is None or not at.covers(row):
                return
            length = len(row.prompt_ids)
            parts.append(at.prompt_PH[run.depth : run.depth + len(run)])  # empty for a run that begins later
            parts.append(at.rest_TH[max(0, run.depth - length) : max(0, run.depth + len(run) - length)])
        self.below_KH = torch.cat(parts).to(self.token_K.device)

    @property
    def position(self) -> Tensor:
        """The position of each node [1,K]."""
        return self.depth_K[None]

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, how: How) -> Tensor:
        """Attention of every node to its ancestors and itself: `query` [1,h,K,d], `key` and `value` [1,g,K,d].

        Returns [1,h,K,d]; g divides h. The layer's number makes no difference here.
        """
        # Keys are cut into runs once, so that backward joins the pieces in one pass.
        sizes = [len(run) for run in self.runs]
        keys, values = key.split(sizes, dim=2), value.split(sizes, dim=2)
        queries = query.split([sum(sizes[block.first : block.last]) for block in self.blocks], dim=2)
        out = []
        for block, q, mask in zip(self.blocks, queries, self.masks(how.window, query.dtype), strict=True):
            seen = self.seen(block)
            k, v = (torch.cat([every[i][:, :, :n] for i, n in seen], dim=2) for every in (keys, values))
            out.append(attention(q, k, v, mask, how))
        return torch.cat(out, dim=2)

    def seen(self, block: Block) -> tuple[Piece, ...]:
        """The pieces whose keys a block attends to: what is above its first run, then its runs."""
        own = (Piece(i, len(self.runs[i])) for i in range(*block))
        return (*self.runs[block.first].above, *own)

    def masks(self, window: int | None, dtype: torch.dtype) -> list[Tensor | None]:
        """For every block what is added to its scores [Q,K]: 0 where a node sees another, else -inf.

        A node sees its ancestors and itself, the nearest `window` of them if one is given. None: Q is K, and a node
        sees all that come before it.
        """
        if window is not None and int(self.depth_K.max()) < window:
            window = None
        key = (window, dtype)
        if key not in self._masks:
            self._masks[key] = [self._mask(block, window, dtype) for block in self.blocks]
        return self._masks[key]

    def _mask(self, block: Block, window: int | None, dtype: torch.dtype) -> Tensor | None:
        runs, above = self.runs[block.first : block.last], self.runs[block.first].depth
        if len(runs) == 1 and above == 0 and window is None:
            return None
        start, width = runs[0].start, runs[-1].stop - runs[0].start
        sees = np.zeros((width, above + width), dtype=bool)
        for run in runs:
            inside = [piece for piece in run.above if piece.run >= block.first]
            lines = sees[run.start - start : run.stop - start]
            lines[:, : run.depth - sum(piece.length for piece in inside)] = True
            for piece in inside:
                column = above + self.runs[piece.run].start - start
                lines[:, column : column + piece.length] = True
            column = above + run.start - start
            lines[:, column : column + len(run)] = np.tri(len(run), dtype=bool)
        device = self.depth_K.device
        allowed = torch.from_numpy(sees).to(device)
        if window is not None:
            parts = [self.depth_K[self.runs[i].start : self.runs[i].start + n] for i, n in self.seen(block)]
            allowed &= self.depth_K[start : start + width, None] - torch.cat(parts) < window
        return torch.zeros(allowed.shape, dtype=dtype, device=device).masked_fill(~allowed, float("-inf"))


def plant(rows: Sequence[Row], device: torch.device | str = "cpu") -> Forest:
    """Pack `rows`, each of which plans at least one position, into a forest on `device`."""
    fed = [row.fed for row in rows]
    states: list[Ids] = [np.empty(0, np.int64)] * len(rows)
    runs: list[Run] = []
    tokens, depths = [], []
    count, path = 0, np.empty(0, np.int64)
    last: tuple[int, ...] = ()
    pieces: tuple[Piece, ...] = ()
    for i in in_order(rows):
        ids = fed[i]
        shared = common(last, ids)
        above = _cut(pieces, shared)
        new = len(ids) - shared
        path = np.concatenate([path[:shared], np.arange(count, count + new)])
        states[i] = path[len(rows[i].prompt_ids) - 1 + np.asarray(rows[i].positions)]
        pieces = (*above, Piece(len(runs), new)) if new else above
        if new:
            runs.append(Run(count, count + new, i, shared, above))
            tokens.append(np.asarray(ids[shared:]))
            depths.append(np.arange(shared, len(ids)))
        last, count = ids, count + new
    label = np.asarray([row.ids[t] for row in rows for t in row.positions])
    arrays = (np.concatenate(part) for part in (tokens, depths, states, [label]))
    token_K, depth_K, state_N, label_N = (torch.from_numpy(x).to(device) for x in arrays)
    return Forest(tuple(rows), tuple(runs), token_K, depth_K, state_N, label_N)


def in_order(rows: Sequence[Row]) -> list[int]:
    """Indices of `rows` by what is fed: rows that share a prefix side by side, a tree depth first."""
    return sorted(range(len(rows)), key=lambda i: rows[i].fed)


def common(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two rows share from their start."""
    n = min(len(one), len(other))
    differing = np.nonzero(np.asarray(one[:n]) != np.asarray(other[:n]))[0]
    return int(differing[0]) if len(differing) else n


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, how: How) -> Tensor:
    """Attention of `q` [B,h,Q,d] to `k` and `v` [B,g,K,d] with `mask` added to the scores; None: causal, Q is K."""
    scale, softcap = how.scale, how.softcap
    grouped = q.shape[1] != k.shape[1]
    if softcap is None:
        return scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=mask is None, scale=scale, enable_gqa=grouped
        )
    if grouped:
        k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], dim=1) for x in (k, v))
    if mask is None:
        mask = torch.full((q.shape[2], k.shape[2]), float("-inf"), dtype=q.dtype, device=q.device).triu(1)
    scores = softcap * torch.tanh((q @ k.transpose(2, 3)) * scale / softcap) + mask
    return torch.softmax(scores, dim=-1, dtype=torch.promote_types(q.dtype, torch.float32)).to(q.dtype) @ v


def _cut(pieces: tuple[Piece, ...], length: int) -> tuple[Piece, ...]:
    """The first `length` nodes of a path given as pieces."""
    kept = []
    for run, n in pieces:
        if length <= 0:
            break
        kept.append(Piece(run, min(n, length)))
        length -= n
    return tuple(kept)


def _join(runs: Sequence[Run], worth: int) -> tuple[Block, ...]:
    blocks: list[Block] = []
    for i, run in enumerate(runs):
        alone = len(run) * (run.depth + len(run))
        if blocks:
            first = runs[blocks[-1].first]
            before, now = runs[i - 1].stop - first.start, run.stop - first.start
            added = now * (first.depth + now) - before * (first.depth + before) - alone
            if added <= worth:
                blocks[-1] = Block(blocks[-1].first, i + 1)
                continue
        blocks.append(Block(i, i + 1))
    return tuple(blocks)
