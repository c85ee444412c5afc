"""The prefix trie of a group's completions, with exact rewards.

Paper: Token-Efficient RL for LLM Reasoning (arXiv:2504.20834, sec. 3.3). Rewards are floats, so every one is an
integer over a power of two; sums and comparisons of means are done on those integers and are exact. A difference of
means is zero here only if it is zero, never because of rounding, and the other way round.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

ROOT = 0


@dataclass(frozen=True)
class Trie:
    """Nodes are numbered in order of first visit; node 0 is the root (the prompt).

    For node n: `parent[n]`, `token[n]`, `depth[n]` (tokens from the root), `count[n]` completions through it and
    `total[n]` the sum of their rewards times `denominator`. `paths[i][t]` is the node that completion i reaches with
    its token t.
    """

    parent: tuple[int, ...]
    token: tuple[int, ...]
    depth: tuple[int, ...]
    count: tuple[int, ...]
    total: tuple[int, ...]
    denominator: int
    paths: tuple[tuple[int, ...], ...]

    def advantage(self, node: int) -> float:
        """A(v|p) = E[R|p.v] - E[R|p] of the pair ending in `node` (Eq. 7-9), correctly rounded; 0.0 only if equal."""
        up = self.parent[node]
        if self.count[node] == self.count[up]:
            return 0.0
        numerator = self.total[node] * self.count[up] - self.total[up] * self.count[node]
        return numerator / (self.count[node] * self.count[up] * self.denominator)


def build_trie(rows: Sequence[Sequence[int]], rewards: Sequence[float]) -> Trie:
    """Build the trie of `rows` (token ids of each completion) with one finite reward a row. O(total tokens)."""
    ratios = [Fraction(reward) for reward in rewards]
    denominator = max((ratio.denominator for ratio in ratios), default=1)
    values = [int(ratio * denominator) for ratio in ratios]
    parent, token, depth, count, total = [ROOT], [-1], [0], [len(rows)], [sum(values)]
    child: dict[tuple[int, int], int] = {}
    paths = []
    for row, value in zip(rows, values, strict=True):
        node, path = ROOT, []
        for v in row:
            step = (node, v)
            if step not in child:
                child[step] = len(parent)
                parent.append(node)
                token.append(v)
                depth.append(depth[node] + 1)
                count.append(0)
                total.append(0)
            node = child[step]
            count[node] += 1
            total[node] += value
            path.append(node)
        paths.append(tuple(path))
    return Trie(tuple(parent), tuple(token), tuple(depth), tuple(count), tuple(total), denominator, tuple(paths))
