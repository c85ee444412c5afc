"""BM25 against its formula, written out."""

import logging
import math
from pathlib import Path

import pytest

from tessera.core.errors import UserError
from tessera.environments.retrieval.bm25 import Bm25
from tessera.environments.retrieval.index import build
from tessera.environments.retrieval.passages import Passage

pytest.importorskip("bm25s")
PASSAGES = [
    Passage("0", "", "cat cat dog"),
    Passage("1", "", "dog bird"),
    Passage("2", "", "bird fish horse cow"),
    Passage("3", "Cats", "sleeping"),
]


@pytest.fixture(scope="module")
def retriever(tmp_path_factory: pytest.TempPathFactory) -> Bm25:
    folder = tmp_path_factory.mktemp("index")
    build(folder, PASSAGES, None, lambda done, total: None)
    return Bm25(folder)


def test_scores_are_those_of_the_formula(retriever: Bm25) -> None:
    """idf = ln(1 + (N - n + 0.5) / (n + 0.5)); tf / (tf + k (1 - b + b L / mean L)), k = 1.5, b = 0.75: Lucene's form.

    `cat` stands in passages 0 (twice, of 3 words) and 3 (as `Cats`, of 2); the mean length is (3 + 2 + 4 + 2) / 4.
    """
    idf, mean = math.log(1 + (4 - 2 + 0.5) / (2 + 0.5)), 11 / 4
    of = [tf / (tf + 1.5 * (0.25 + 0.75 * length / mean)) for tf, length in ((2, 3), (1, 2))]
    (hits,) = retriever.search(["the CAT"], 4)
    assert [hit.passage.id for hit in hits] == ["0", "3"]
    assert [hit.score for hit in hits] == pytest.approx([idf * part for part in of], rel=1e-6)


def test_indexing_says_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        build(tmp_path, PASSAGES, None, lambda done, total: None)
    assert caplog.records == []


def test_equal_scores_keep_the_order_of_the_corpus_and_k_is_a_limit(retriever: Bm25) -> None:
    (hits,) = retriever.search(["fish horse dog"], 1)
    assert [hit.passage.id for hit in hits] == ["2"]
    assert [[h.passage.id for h in found] for found in retriever.search(["bird", "dog", "bird"], 99)] == [
        ["1", "2"], ["1", "0"], ["1", "2"]]  # fmt: skip


@pytest.mark.parametrize("query", ["", "the of", "zebra", "?!", "\0", "x" * 100_000])
def test_nothing_fits(retriever: Bm25, query: str) -> None:
    assert retriever.search([query], 3) == [[]]


def test_a_corpus_without_words_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no passage holds a word"):
        build(tmp_path, [Passage("a", "", "the a ...")], None, lambda done, total: None)
