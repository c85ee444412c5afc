"""A corpus written and read back, passage by passage."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tessera.core.errors import UserError
from tessera.environments.retrieval.passages import Passage, PassageFile, read_passages
from tessera.tasks.data import Row

TEXT = st.text(st.characters(codec="utf-8"), min_size=1, max_size=30)


@given(st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=8))
def test_what_was_written_is_read(tmp_path_factory: pytest.TempPathFactory, texts: list[tuple[str, str]]) -> None:
    folder = tmp_path_factory.mktemp("index")
    passages = [Passage(str(n), title, text) for n, (title, text) in enumerate(texts)]
    PassageFile.write(folder, passages)
    found = PassageFile(folder)
    assert len(found) == len(passages)
    assert [found[n] for n in reversed(range(len(found)))] == passages[::-1]


def row(**values: object) -> Row:
    return Row("corpus.jsonl, line 3", values)


def test_a_row_needs_an_id_and_a_text(tmp_path: Path) -> None:
    assert read_passages([row(id=7, text="a"), row(id="x", text="b", title=None)]) == [
        Passage("7", "", "a"),
        Passage("x", "", "b"),
    ]
    with pytest.raises(UserError, match="line 3 has no column 'text'"):
        read_passages([row(id="1", title="T")])
    with pytest.raises(UserError, match="line 3: text = '  ' must be a text"):
        read_passages([row(id="1", text="  ")])
    with pytest.raises(UserError, match="'1' occurs more than once"):
        read_passages([row(id="1", text="a"), row(id=1, text="b")])
