"""Files of a data folder, row by row: what fails is named, and a fault of the data is told from one of a reward."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from tessera.core.errors import UserError
from tessera.tasks.registry import TASKS
from tessera.tasks.validate_data import KNOWN, READ_BY, FileReport, validate_data

DATA = Path(__file__).parents[3] / "shared" / "data"
SUMS = [{"id": f"s{n}", "question": f"{n} and {n}?", "answer": 2 * n} for n in (1, 2, 3)]


def validate(folder: Path, rows: int | None = None) -> list[FileReport]:
    return list(validate_data(folder, rows, size=100_000))


def written(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(exist_ok=True)
    text = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)


def test_a_line_a_file_in_the_order_of_names(tmp_path: Path) -> None:
    written(tmp_path / "svamp" / "test.jsonl", SUMS)
    written(tmp_path / "gsm8k" / "train.jsonl.gz", SUMS)
    written(tmp_path / "poems" / "train.jsonl", SUMS)  # read by no task
    assert [str(report) for report in validate(tmp_path)] == [
        "ok    gsm8k/train.jsonl.gz: gsm8k, 3 rows, 0 faults, 0 known rows that cannot pass",
        "ok    svamp/test.jsonl: svamp, 3 rows, 0 faults, 0 known rows that cannot pass",
    ]
    assert [report.rows for report in validate(tmp_path, 2)] == [2, 2]


def test_every_row_that_fails_is_named_and_a_known_one_fails_nothing(tmp_path: Path) -> None:
    pytest.importorskip("math_verify")
    broken = [{"id": i, "problem": "?", "answer": r"\frac{1}{2"} for i in ("deepscaler-15580", "one", "two")]
    written(tmp_path / "deepscaler" / "train.jsonl", [*broken, {"id": "sound", "problem": "?", "answer": "5"}])
    (report,) = validate(tmp_path)
    assert not report.ok and report.rows == 4
    assert [fault.partition(": '")[0] for fault in report.faults] == [
        "gold answers earn full marks: problem 'one'",
        "gold answers earn full marks: problem 'two'",
    ]
    assert report.known == (f"deepscaler-15580: {KNOWN['deepscaler-15580']}",)
    assert str(report).startswith("FAIL  deepscaler/train.jsonl: math, 4 rows, 2 faults, 1 known")
    assert validate(tmp_path, 1)[0].ok


def test_what_leads_nowhere_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no NAME/\*\.jsonl or \.jsonl\.gz with NAME one of aime24, "):
        validate_data(tmp_path)
    with pytest.raises(UserError, match="rows = 0 must be at least 1"):
        validate_data(tmp_path, 0)


def test_every_folder_is_read_by_a_task_that_exists() -> None:
    assert set(READ_BY.values()) <= set(TASKS)


@pytest.mark.skipif(not DATA.is_dir(), reason="no ../shared/data beside the repository")
def test_the_first_rows_of_the_public_files() -> None:
    pytest.importorskip("math_verify")
    reports = list(validate_data(DATA, 5, size=10_000))
    assert {report.task for report in reports} == {"math", "svamp", "gsm8k", "countdown", "knights_knaves"}
    assert [str(report) for report in reports if not report.ok] == []
