"""BM25 (Robertson and Zaragoza 2009) through the bm25s package; the index is mapped from its file."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tessera.core.errors import UserError
from tessera.environments.retrieval.passages import Hit, Passage, PassageFile

FOLDER = "bm25"


def build(folder: Path, passages: Sequence[Passage]) -> None:
    """Write an index of `passages` into `folder`."""
    bm25s = _package()
    index = bm25s.BM25()
    words = _words([f"{passage.title} {passage.text}" for passage in passages])
    if not any(words):
        raise UserError("no passage holds a word to search for: there are only stop words, single letters and signs")
    index.index(words, show_progress=False)
    index.save(str(folder / FOLDER), show_progress=False)


class Bm25:
    """Searches the index in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.passages = PassageFile(folder)
        self.index = _package().BM25.load(str(folder / FOLDER), mmap=True, show_progress=False, verbosity=0)

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        """See Retriever. A passage without any word of the query is no hit."""
        return [[Hit(self.passages[place], score) for place, score in found] for found in self.places(queries, k)]

    def places(self, queries: Sequence[str], k: int) -> list[list[tuple[int, float]]]:
        """Positions and scores, the best first."""
        return [self._best(query, k) for query in queries]

    def _best(self, query: str, k: int) -> list[tuple[int, float]]:
        known = [word for word in _words([query])[0] if word in self.index.vocab_dict]
        if not known:
            return []
        scores = self.index.get_scores(known)
        k = min(k, len(scores))
        last = max(np.partition(scores, -k)[-k], np.finfo(scores.dtype).tiny)
        (near,) = np.nonzero(scores >= last)
        # Equal scores in the order of the corpus: the same passages on every machine.
        best = near[np.argsort(-scores[near], kind="stable")[:k]]
        return [(int(place), float(scores[place])) for place in best]


def _words(texts: Sequence[str]) -> Any:
    """Stems, lower case, without stop words."""
    import Stemmer

    return _package().tokenize(
        list(texts), stopwords="en", stemmer=Stemmer.Stemmer("english"), return_ids=False, show_progress=False
    )


def _package() -> Any:
    try:
        import bm25s
        import Stemmer  # noqa: F401
    except ImportError as error:
        raise UserError(f"searching needs {error.name}: pip install 'tessera-rl[search]'") from None
    logging.getLogger("bm25s").setLevel(logging.WARNING)  # it sets its own to DEBUG
    return bm25s
