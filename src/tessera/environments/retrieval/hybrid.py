"""Two retrievers in one, by reciprocal rank fusion (Cormack et al. 2009): a hit counts 1 / (5 + its rank).

The paper's 60 is for lists that are read far down. For the first few passages it puts what both find at about the 40th
place before what one finds at the first; with 5 that ends at the 7th place of both.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from tessera.environments.retrieval.bm25 import Bm25
from tessera.environments.retrieval.dense import Dense
from tessera.environments.retrieval.passages import Hit

OFFSET = 5
DEPTH = 100  # hits of each that are fused


class Hybrid:
    """BM25 and dense vectors over the same passages."""

    def __init__(self, bm25: Bm25, dense: Dense) -> None:
        self.parts = (bm25, dense)
        self.passages = bm25.passages

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        """See Retriever; the score is the sum of the fusion."""
        found = [part.places(queries, max(k, DEPTH)) for part in self.parts]
        return [
            [Hit(self.passages[place], score) for place, score in fused([[p for p, _ in row] for row in rows])[:k]]
            for rows in zip(*found, strict=True)
        ]


def fused(rankings: Sequence[Sequence[int]]) -> list[tuple[int, float]]:
    """One ranking of several, the best first; equal sums in the order of positions."""
    total: dict[int, float] = defaultdict(float)
    for ranking in rankings:
        for rank, place in enumerate(ranking, 1):
            total[place] += 1 / (OFFSET + rank)
    return sorted(total.items(), key=lambda found: (-found[1], found[0]))
