"""What the folders of runs and of evaluations share."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from tessera.core.errors import RunStopped, UserError
from tessera.reports import folder as module
from tessera.reports.folder import Folder


class Notes(Folder):
    noun, again, row_files = "notebook ", "write it again", ("rows.jsonl",)


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    with Notes(tmp_path / "a")._take(mkdir=True) as notes:
        notes._append("rows.jsonl", [{"n": 1}, {"n": 2}])
        notes._append("rows.jsonl", [{"n": 3}])
        notes._keep("rows.jsonl", lambda row: row["n"] != 2)
        notes._write("told.json", {"n": float("nan")})
        notes._write("page.md", "text\n")
    assert list(notes._rows("rows.jsonl")) == [{"n": 1}, {"n": 3}]
    assert (tmp_path / "a" / "told.json").read_text() == '{\n  "n": null\n}\n'
    assert (tmp_path / "a" / "page.md").read_text() == "text\n"
    assert notes._json("told.json") == {"n": None}
    assert (notes._has("told.json"), notes._has("other.json")) == (True, False)


def test_without_the_lock_nothing_is_written(tmp_path: Path) -> None:
    notes = Notes(tmp_path)._take()
    notes.close()
    notes.close()
    for write in (
        lambda: notes._append("rows.jsonl", [{}]),
        lambda: notes._keep("rows.jsonl", bool),
        lambda: notes._write("told.json", {}),
        notes._mend,
    ):
        with pytest.raises(UserError, match=f"^notebook {tmp_path} is open for reading: "):
            write()
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


def test_a_torn_line_is_mended_and_a_failed_write_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, content: str) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    (tmp_path / "rows.jsonl").write_text('{"n": 1}\n{"n"')
    monkeypatch.setattr(module, "atomic_write", full)
    with Notes(tmp_path)._take() as notes:
        notes._mend()
        with pytest.raises(RunStopped) as caught:
            notes._write("told.json", {})
    assert (tmp_path / "rows.jsonl").read_text() == '{"n": 1}\n'
    line = f"could not write {tmp_path / 'told.json'}: No space left on device; write it again once this is mended"
    assert str(caught.value) == line


def test_an_error_gives_the_lock_back(tmp_path: Path) -> None:
    with pytest.raises(KeyError), (notes := Notes(tmp_path)._take())._closed_on_error():
        raise KeyError("n")
    with Notes(tmp_path)._take(), pytest.raises(UserError, match="in use by process"):
        notes._take()


@pytest.mark.parametrize("content", ["{", "[1]", "3", None])
def test_what_is_no_json_object_is_named(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "told.json").write_text(content)
    with pytest.raises(UserError, match=r"^\S+told\.json cannot be read as JSON: "):
        Notes(tmp_path)._json("told.json")
