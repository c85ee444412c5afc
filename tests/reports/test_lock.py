from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tessera.core.errors import UserError
from tessera.reports import lock
from tessera.reports.lock import FolderLock

HOLD = """
import sys, time
from pathlib import Path
from tessera.reports.lock import FolderLock
held = FolderLock(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(60)
"""


def test_another_process_is_named_and_its_death_frees_the_folder(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True) as other:
        try:
            assert other.stdout is not None and other.stdout.readline() == "held\n"
            with pytest.raises(UserError) as caught:
                FolderLock(tmp_path)
            assert str(caught.value) == f"run folder {tmp_path} is in use by process {other.pid}"
        finally:
            other.send_signal(signal.SIGKILL)
    FolderLock(tmp_path).release()


def test_one_process_cannot_hold_it_twice(tmp_path: Path) -> None:
    first = FolderLock(tmp_path)
    with pytest.raises(UserError, match=f"process {os.getpid()}$"):
        FolderLock(tmp_path)
    first.release()
    first.release()
    FolderLock(tmp_path).release()


def test_a_forked_worker_does_not_keep_a_released_lock(tmp_path: Path) -> None:
    held = FolderLock(tmp_path)
    ready, go = os.pipe()
    child = os.fork()
    if child == 0:
        os.read(ready, 1)
        os._exit(0)
    try:
        held.release()
        FolderLock(tmp_path).release()
    finally:
        os.write(go, b"x")
        os.waitpid(child, 0)


def test_without_flock_the_file_is_the_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "fcntl", None)
    held = FolderLock(tmp_path)
    with pytest.raises(UserError, match=rf"in use by process {os.getpid()}; if no such process .* delete"):
        FolderLock(tmp_path)
    held.release()
    assert not (tmp_path / ".lock").exists()
    FolderLock(tmp_path).release()
