import gzip
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tessera.core.errors import UserError
from tessera.tasks.data import Row, hold_out, locate, read_jsonl


def write(tmp_path: Path, content: str | bytes, name: str = "rows.jsonl") -> str:
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


def test_rows_keep_their_line_numbers_and_blank_lines_are_passed_over(tmp_path: Path) -> None:
    path = write(tmp_path, '{"a": 1}\n\n  \r\n{"a": "\u2028"}')
    assert read_jsonl(path) == [Row(f"{path}, line 1", {"a": 1}), Row(f"{path}, line 4", {"a": "\u2028"})]


def test_gzip_and_a_byte_order_mark(tmp_path: Path) -> None:
    path = write(tmp_path, gzip.compress(b'\xef\xbb\xbf{"a": "\xc3\xa9"}\n'), "rows.jsonl.gz")
    assert [row.values for row in read_jsonl(path)] == [{"a": "é"}]


JSON = st.dictionaries(st.text(), st.none() | st.booleans() | st.integers(-(10**30), 10**30) | st.text())


@settings(max_examples=30)
@given(rows=st.lists(JSON, min_size=1), ascii_only=st.booleans())
def test_what_json_writes_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict], ascii_only: bool
) -> None:
    path = tmp_path_factory.mktemp("jsonl") / "rows.jsonl"
    path.write_text("\n".join(json.dumps(row, ensure_ascii=ascii_only) for row in rows), encoding="utf-8")
    assert [row.values for row in read_jsonl(str(path))] == rows


GOOD = b'{"a": 1}\n'


@pytest.mark.parametrize(
    ("content", "name", "message"),
    [
        (b"", "e.jsonl", "e.jsonl is empty; it must hold one JSON object a line"),
        (b"\n \n", "e.jsonl", "e.jsonl is empty"),
        (GOOD + b'{"a": \n', "e.jsonl", "e.jsonl, line 2 is not JSON: Expecting value"),
        (GOOD * 2 + b"[1]", "e.jsonl", "e.jsonl, line 3 is a JSON list; each line must be an object"),
        (b'{"a": NaN}', "e.jsonl", "line 1 is not JSON: NaN is not a JSON number"),
        (b'{"a": ' + b"9" * 5000 + b"}", "e.jsonl", "line 1 is not JSON: .*4300 digits"),
        (b"[" * 100_000, "e.jsonl", "line 1 is not JSON: maximum recursion depth exceeded"),
        (GOOD + b'{"a": "\xff"}', "e.jsonl", "e.jsonl, line 2 is not UTF-8: invalid start byte 0xff"),
        (gzip.compress(GOOD * 100)[:-9], "e.jsonl.gz", "e.jsonl.gz is not a whole gzip file"),
        (GOOD, "e.jsonl.gz", "e.jsonl.gz is not a whole gzip file: Not a gzipped file"),
        (gzip.compress(GOOD), "e.jsonl", "e.jsonl, line 1 is not UTF-8"),
    ],
)
def test_a_bad_file_is_one_line_that_says_where(tmp_path: Path, content: bytes, name: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as raised:
        read_jsonl(write(tmp_path, content, name))
    assert "\n" not in str(raised.value)


def test_missing_files_and_folders(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no such file: 'nowhere/x\.jsonl'"):
        read_jsonl("nowhere/x.jsonl")
    with pytest.raises(UserError, match="cannot be read: Is a directory"):
        read_jsonl(str(tmp_path))


def test_a_missing_column_names_the_line_and_those_present() -> None:
    row = Row("x.jsonl, line 7", {"question": "?", "answer": 1})
    assert row.column("answer") == 1
    with pytest.raises(UserError, match=r"x\.jsonl, line 7 has no column 'id'; its columns are 'question', 'answer'"):
        row.column("id")


def test_files_are_located_in_the_working_directory_then_the_base(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cwd, base = tmp_path / "cwd", tmp_path / "base"
    for folder, name in ((cwd, "both"), (base, "both"), (base, "only")):
        folder.mkdir(exist_ok=True)
        (folder / name).touch()
    monkeypatch.chdir(cwd)
    assert locate("both", base) == "both"
    assert locate("only", base) == str(base / "only")
    assert locate(str(base / "only")) == str(base / "only")
    with pytest.raises(UserError, match=r"no such file: '\./none' .looked in .*cwd and .*base."):
        locate("./none", base)
    with pytest.raises(UserError, match=r"^no such file: '/none/x'$"):
        locate("/none/x", base)


@given(st.integers(1, 20), st.integers(0, 19))
def test_hold_out_takes_the_end(n: int, size: int) -> None:
    rows = [Row(f"line {i}", {}) for i in range(n)]
    if size >= n and size:
        with pytest.raises(UserError, match=rf"validation_size = {size} must be from 0 to {n - 1}: f has {n} rows"):
            hold_out(rows, size, "f")
    else:
        kept, held = hold_out(rows, size, "f")
        assert (list(kept) + list(held), len(held)) == (rows, size)
