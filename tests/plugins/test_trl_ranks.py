"""Two processes, between which a group is torn: together they make Tessera's update."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("trl", minversion="1.16")
SCRIPT = Path(__file__).parent / "in_ranks.py"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dapo", "cw_grpo", "t_spmo"])
def test_two_processes_make_the_update_of_one(tmp_path: Path, name: str) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "true"}
    folders = [str(folder) for folder in (Path(__file__).parents[1], Path(__file__).parents[2] / "benchmarks")]
    path = os.pathsep.join([*folders, os.environ.get("PYTHONPATH", "")])
    started = [
        subprocess.Popen(
            [sys.executable, str(SCRIPT), name, str(tmp_path)],
            env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank), "PYTHONPATH": path},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    outputs = [process.communicate(timeout=300)[0] for process in started]
    assert [process.returncode for process in started] == [0, 0], outputs[0][-3000:] + outputs[1][-3000:]
    assert "agreed" in outputs[0]
