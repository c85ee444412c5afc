from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from tessera.core.errors import RunStopped
from tessera.reports.files import atomic_write, reason, stops_run


def full_disk(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_writes_text_as_utf8_and_bytes_as_they_are(tmp_path: Path) -> None:
    atomic_write(tmp_path / "text", "é\n")
    atomic_write(tmp_path / "bytes", b"\xff\x00")
    assert (tmp_path / "text").read_bytes() == b"\xc3\xa9\n"
    assert (tmp_path / "bytes").read_bytes() == b"\xff\x00"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bytes", "text"]


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    target = tmp_path / "summary.json"
    atomic_write(target, "old")
    if failing == "fsync":
        monkeypatch.setattr(os, "fsync", full_disk)
    else:
        monkeypatch.setattr(Path, "replace", full_disk)
    with pytest.raises(OSError, match="No space left"):
        atomic_write(target, "new")
    assert target.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["summary.json"]


def test_text_that_has_no_utf8_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(UnicodeEncodeError):
        atomic_write(tmp_path / "file", "\ud800")
    assert list(tmp_path.iterdir()) == []


def test_the_new_file_has_the_permissions_of_any_new_file(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("x")
    atomic_write(tmp_path / "atomic", "x")
    assert (tmp_path / "atomic").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_an_os_error_becomes_one_line_that_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(RunStopped) as caught, stops_run(tmp_path / "metrics.jsonl"):
        full_disk()
    line = str(caught.value)
    assert line.startswith(f"could not write {tmp_path / 'metrics.jsonl'}: No space left on device; ")
    assert "--resume" in line and "\n" not in line


def test_other_errors_pass_through(tmp_path: Path) -> None:
    with pytest.raises(KeyError), stops_run(tmp_path):
        raise KeyError("step")


def test_reason_of_an_error_without_text() -> None:
    assert reason(OSError()) == "OSError"
    assert reason(OSError("odd")) == "odd"
