"""An index on disk, and what is said where there is none."""

from pathlib import Path

import pytest

from tessera.core.errors import UserError
from tessera.environments.retrieval.index import build, open_index
from tessera.environments.retrieval.passages import Passage

pytest.importorskip("bm25s")


def test_a_folder_without_an_index_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="tessera index CORPUS --out"):
        open_index(tmp_path)


@pytest.mark.parametrize(
    "lost", ["passages.jsonl", "passages.npy", "bm25/params.index.json", "bm25/data.csc.index.npy"]
)
def test_an_index_that_lost_a_file_is_said(tmp_path: Path, lost: str) -> None:
    build(tmp_path, [Passage("a", "Ant", "An insect.")], None, lambda done, total: None)
    (tmp_path / lost).unlink()
    with pytest.raises(UserError, match=r"is broken .*make it again with: tessera index CORPUS"):
        open_index(tmp_path)


def test_kinds_by_name(tmp_path: Path) -> None:
    build(tmp_path, [Passage("a", "Ant", "An insect.")], None, lambda done, total: None)
    (hits,) = open_index(tmp_path).search(["insect"], 5)
    assert hits[0].passage == Passage("a", "Ant", "An insect.")
    with pytest.raises(UserError, match=r"no dense vectors.*--dense MODEL"):
        open_index(tmp_path, "hybrid")
    with pytest.raises(UserError, match="bm25"):
        open_index(tmp_path, "bm52")  # type: ignore[arg-type]
