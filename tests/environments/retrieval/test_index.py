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


def test_kinds_by_name(tmp_path: Path) -> None:
    build(tmp_path, [Passage("a", "Ant", "An insect.")], None, lambda done, total: None)
    (hits,) = open_index(tmp_path).search(["insect"], 5)
    assert hits[0].passage == Passage("a", "Ant", "An insect.")
    with pytest.raises(UserError, match=r"no dense vectors.*--dense MODEL"):
        open_index(tmp_path, "hybrid")
    with pytest.raises(UserError, match="bm25"):
        open_index(tmp_path, "bm52")  # type: ignore[arg-type]
