"""The report served from the command line; what the others print is in test_cli.py and test_comparison_runs.py."""

from __future__ import annotations

import re
import signal
from pathlib import Path
from urllib.request import urlopen

from command import spawn, tessera
from tessera.reports.run import RunFolder


def test_a_run_is_viewed_until_ctrl_c(tmp_path: Path) -> None:
    with RunFolder.create(tmp_path / "run", "task: {name: sums}\n", "f") as run:
        run.log({"kind": "rl", "step": 1, "stage": "rl", "stage_index": 0, "seconds": 1.0})
    process = spawn("view", tmp_path / "run", "--port", "0")
    assert process.stdout is not None
    told = re.fullmatch(r"http://127\.0\.0\.1:(\d+)/   Ctrl-C ends\n", process.stdout.readline())
    assert told is not None
    with urlopen(f"http://127.0.0.1:{told[1]}/") as answer:
        assert "unfinished, 1 steps so far" in answer.read().decode()
    again = tessera("view", tmp_path / "run", "--port", told[1])
    assert again.code == 2
    assert again.err == f"error: port {told[1]} of 127.0.0.1 is in use: give another --port, or 0 for any free one\n"
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=60) == ("ended\n", "")
    assert process.returncode == 0
