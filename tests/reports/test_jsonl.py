from __future__ import annotations

import json
import math
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tessera.core.errors import UserError
from tessera.reports import jsonl

ROWS = [{"step": 1, "x": 0.5}, {"step": 2, "text": "é\n\u2028"}, {"step": 3, "deep": {"a": [1, None, True]}}]


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """A real write error half-way: the system takes the bytes up to `size`, then refuses.

    For the block alone: it holds for every file of the process, and the output of the tests may be one.
    """
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_non_finite_numbers_become_null() -> None:
    row = {"a": math.nan, "b": [math.inf, -math.inf, 1.5], "c": {"d": np.float32("nan")}}
    assert jsonl.dumps(row) == '{"a": null, "b": [null, null, 1.5], "c": {"d": null}}'


def test_numbers_of_other_libraries_become_plain_and_booleans_stay() -> None:
    assert jsonl.dumps({"n": np.int64(3), "x": np.float32(0.25), "yes": True}) == '{"n": 3, "x": 0.25, "yes": true}'


def test_what_is_no_json_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="set"):
        jsonl.dumps({"a": {1, 2}})


def test_rows_come_back_in_order_and_appending_adds(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    jsonl.append(path, ROWS[:2])
    jsonl.append(path, ROWS[2:])
    assert list(jsonl.read(path)) == ROWS


def test_no_file_is_no_rows(tmp_path: Path) -> None:
    assert list(jsonl.read(tmp_path / "none")) == []
    jsonl.keep(tmp_path / "none", lambda row: True)
    jsonl.mend(tmp_path / "none")
    assert list(tmp_path.iterdir()) == []


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(st.characters()), number=st.floats())
def test_any_text_and_any_number_fit_on_one_line(tmp_path: Path, text: str, number: float) -> None:
    line = jsonl.dumps({"text": text, "number": number})
    assert "\n" not in line
    assert json.loads(line) == {"text": text, "number": number if math.isfinite(number) else None}


def test_wherever_the_file_is_cut_the_rows_before_survive_and_the_next_is_readable(tmp_path: Path) -> None:
    whole = "".join(jsonl.dumps(row) + "\n" for row in ROWS).encode()
    ends = [i for i, byte in enumerate(whole) if byte == ord("\n")]
    path = tmp_path / "rows.jsonl"
    for size in range(len(whole) + 1):
        path.write_bytes(whole[:size])
        complete = sum(end <= size for end in ends)  # a row is whole once its closing brace is there
        assert list(jsonl.read(path)) == ROWS[:complete], size
        assert list(jsonl.Rows(path)) == ROWS[:complete], size
        jsonl.mend(path)
        jsonl.append(path, [{"step": 9}])
        assert list(jsonl.read(path)) == [*ROWS[:complete], {"step": 9}], size


def test_a_last_line_of_nul_bytes_is_torn_too(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"step": 1}\n' + b"\0" * 64)
    assert list(jsonl.read(path)) == [{"step": 1}]


@pytest.mark.parametrize("bad", [b'{"step": \n', b"17\n", b"\xff\xfe\n", b"\n"])
def test_damage_before_the_end_names_the_line(tmp_path: Path, bad: bytes) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"step": 1}\n' + bad + b'{"step": 3}\n')
    with pytest.raises(UserError, match=r"rows\.jsonl: line 2 is not a JSON object"):
        list(jsonl.read(path))


def test_keep_leaves_the_wanted_lines_byte_for_byte(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"step":1,   "x": 1e0}\n{"step": 5}\n{"step":  2}\n{"ste')
    jsonl.keep(path, lambda row: row["step"] <= 2)
    assert path.read_bytes() == b'{"step":1,   "x": 1e0}\n{"step":  2}\n'


def test_a_write_that_fails_half_way_leaves_no_half_row(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    jsonl.append(path, ROWS)
    before = path.read_bytes()
    with largest_file(len(before) + 10), pytest.raises(OSError, match="too large"):
        jsonl.append(path, [{"step": 4, "text": "x" * 100}])
    assert path.read_bytes() == before


def test_rows_by_number_are_those_there_were_and_damage_is_met_where_it_is(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    assert len(jsonl.Rows(path)) == 0
    jsonl.append(path, ROWS)
    rows = jsonl.Rows(path)
    jsonl.append(path, [{"step": 4}])
    assert (len(rows), rows[2], rows[0], rows[1]) == (3, ROWS[2], ROWS[0], ROWS[1])
    with pytest.raises(IndexError):
        rows[3]
    path.write_bytes(path.read_bytes().replace(b'{"step": 2', b'#"step": 2'))
    rows = jsonl.Rows(path)
    assert (len(rows), rows[3]) == (4, {"step": 4})
    with pytest.raises(UserError, match=r"rows.jsonl: line 2 is not a JSON object; the file is damaged"):
        rows[1]
