"""The folder of an evaluation."""

from __future__ import annotations

from pathlib import Path

import pytest

from tessera.core.errors import UserError
from tessera.reports.evaluations import EvaluationFolder

ROWS = [{"part": part, "problem_id": problem} for part in ("p", "q") for problem in ("a", "b")]


def test_it_goes_on_behind_a_torn_line(tmp_path: Path) -> None:
    with EvaluationFolder.start(tmp_path / "e", {"k": 1}) as folder:
        folder.keep(ROWS)
    with (tmp_path / "e" / "completions.jsonl").open("a") as file:
        file.write('{"part": "q", "pro')
    with EvaluationFolder.start(tmp_path / "e", {"k": 1}) as folder:
        assert folder.rows() == ROWS
        folder.keep([{"part": "q", "problem_id": "c"}])
        assert folder.rows() == [*ROWS, {"part": "q", "problem_id": "c"}]
        folder.drop("q", {"b"})
        assert folder.rows() == [ROWS[0], ROWS[1], ROWS[3]]
        assert folder.result() is None
        folder.finish({"value": 0.5}, "# page\n")
    read = EvaluationFolder.read(tmp_path / "e")
    assert (read.settings(), read.result()) == ({"k": 1}, {"value": 0.5})
    assert (tmp_path / "e" / "report.md").read_text() == "# page\n"


def test_other_settings_are_refused_and_forced(tmp_path: Path) -> None:
    with EvaluationFolder.start(tmp_path / "e", {"k": 1, "m": {"t": 0.5}}) as folder:
        folder.keep(ROWS)
    with pytest.raises(UserError, match=r"other settings: m\.t: 0\.5 in the folder, 0\.7 given; give another --out"):
        EvaluationFolder.start(tmp_path / "e", {"k": 1, "m": {"t": 0.7}})
    with EvaluationFolder.start(tmp_path / "e", {"k": 1, "m": {"t": 0.7}}, force=True) as folder:
        assert folder.rows() == []
        assert folder.settings()["m"] == {"t": 0.7}


def test_one_writer(tmp_path: Path) -> None:
    with EvaluationFolder.start(tmp_path / "e", {}), pytest.raises(UserError, match="in use by process"):
        EvaluationFolder.start(tmp_path / "e", {})


def test_what_is_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "completions.jsonl").write_text("{}\n")  # as a run's folder has
    for force in (False, True):
        with pytest.raises(UserError, match=r"holds something else \(completions.jsonl\): give another --out"):
            EvaluationFolder.start(tmp_path, {}, force)
    assert (tmp_path / "completions.jsonl").read_text() == "{}\n"
    with pytest.raises(UserError, match="is a file: an evaluation is kept in a folder"):
        EvaluationFolder.check(tmp_path / "completions.jsonl", {})
    with pytest.raises(UserError, match="is no folder of an evaluation"):
        EvaluationFolder.read(tmp_path)
