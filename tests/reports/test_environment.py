from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tessera.reports import environment as module
from tessera.reports.environment import environment, git_state


def git(*arguments: str) -> str:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    return subprocess.run(["git", *identity, *arguments], check=True, capture_output=True, text=True).stdout.strip()


def test_git_state_follows_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert git_state() is None
    git("init", "-q")
    assert git_state() is None  # no commit yet
    (tmp_path / "a").write_text("1")
    git("add", "a")
    git("commit", "-qm", "one")
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "new").write_text("untracked, as a run folder is")
    assert git_state() == {"commit": git("rev-parse", "HEAD"), "dirty": False}
    (tmp_path / "a").write_text("2")
    assert git_state() == {"commit": git("rev-parse", "HEAD"), "dirty": True}


def test_a_system_without_git_has_no_git_state(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert git_state() is None


def test_versions_are_of_what_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "DISTRIBUTIONS", {"pytest": "pytest", "missing": "no-such-distribution"})
    found = environment()
    assert found["pytest"] == pytest.__version__
    assert found["missing"] is None
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))


def test_reading_and_writing_run_folders_loads_no_torch() -> None:
    code = "import sys, tessera.reports.run, tessera.reports.summary; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
