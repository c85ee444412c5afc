"""All processes but the first log to a folder that is not theirs."""

from __future__ import annotations

from pathlib import Path

from tessera.reports.follower import Follower


def test_nothing_is_written(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with Follower(folder) as follower:
        follower.log({"step": 1})
        follower.log_completions([{"step": 1}])
        follower.log_diagnostics({"step": 1})
        assert follower.position() == {}
        follower.rollback({"metrics.jsonl": 0})
    assert not folder.exists()


def test_rows_are_not_even_made(tmp_path: Path) -> None:
    made = []
    Follower(tmp_path).log_completions(made.append(1) or {} for _ in range(3))
    assert made == []
