"""Real launchers over real processes: what torchrun and accelerate start, and what a stop of the whole job comes to."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from command import ENVIRONMENT, Outcome, rl_stage, tessera, write_recipe
from processes import free_port, together
from runs import check_same, rows_of

SLOW = '''
import os
import time
from pathlib import Path

from tessera.core.types import Problem
from tessera.training.interrupt import Interrupted


class Slow:
    """The share of letters, a fifth of a second a completion. A process that grades says so in a file.

    Where there is a file `hang`, it hangs for a minute, and for another if it is asked to stop.
    """

    def problems(self, split):
        return [Problem(f"{split}-{i}", f"{i} =", i) for i in range({"train": 6, "validation": 0, "test": 0}[split])]

    def reward(self, problem, text):
        Path(f"{os.getpid()}.pid").touch()
        time.sleep(0.2)
        if Path("hang").exists():
            self.hang()
        return sum(c.isalpha() for c in text) / max(1, len(text))

    def hang(self):
        try:
            Path(f"{os.getpid()}.hangs").touch()
            time.sleep(60)
        except Interrupted:
            Path(f"{os.getpid()}.asked").touch()
            time.sleep(60)
'''


@pytest.fixture
def project(tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with a task of some seconds and its recipe."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "slow.py").write_text(SLOW)
    stage = rl_stage(steps=5, optimizer={"lr": 1e-2})
    write_recipe(tmp_path / "slow.yaml", tiny_folder, task="slow.py:Slow", stages=[stage], run={"save_every": 2})
    return tmp_path


def program(name: str) -> str:
    """What is installed beside this Python, whether the shell knows it or not."""
    return str(Path(sys.executable).with_name(name))


def launched(*arguments: str) -> subprocess.Popen[str]:
    """`tessera train ARGUMENTS` in two processes of torchrun."""
    port = ["--master_port", str(free_port())]
    return subprocess.Popen(
        [program("torchrun"), "--nproc_per_node", "2", *port, "-m", "tessera", "train", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **ENVIRONMENT},
    )


def wait_for(started: subprocess.Popen[str], pattern: str, lines: int = 0, count: int = 1) -> list[Path]:
    """The files that match, once so many have so many lines."""
    deadline = time.monotonic() + 100
    while True:
        found = [path for path in Path().glob(pattern) if path.read_text().count("\n") >= lines]
        if len(found) >= count:
            return found
        assert time.monotonic() < deadline
        assert started.poll() is None, started.communicate()
        time.sleep(0.02)


def in_two(*arguments: str) -> None:
    """`tessera train ARGUMENTS` in two processes, to its end."""
    assert [outcome.code for outcome in together(lambda rank: tessera("train", *arguments))] == [0, 0]


def test_a_job_that_is_stopped_as_a_whole_is_saved_and_ends_the_same(project: Path) -> None:
    """As batch systems do it: launcher and processes are asked, and the launcher passes it on to them once more."""
    started = launched("slow.yaml")
    wait_for(started, "runs/slow/metrics.jsonl", lines=3)
    for process in (*(int(path.stem) for path in project.glob("*.pid")), started.pid):
        os.kill(process, signal.SIGTERM)
    _, err = started.communicate(timeout=60)
    assert started.returncode == 1  # torchrun's own, whatever its processes return
    assert err.count("process 0 of 2: stopped and saved; go on with: tessera train --resume runs/slow\n") == 1
    assert len(list(project.glob("*.pid"))) == 2
    assert 3 <= len(rows_of(project / "runs" / "slow")) < 5

    in_two("--resume", "runs/slow")
    in_two("slow.yaml", "run.dir=runs/whole")
    check_same(project / "runs" / "slow", project / "runs" / "whole")


def test_the_first_process_alone_needs_the_run_folder(project: Path) -> None:
    """The others, on another machine, have recipe and model; a resumption without a recipe looks into the folder."""
    for rank in ("0", "1"):
        (project / rank).mkdir()
        for name in ("slow.py", "slow.yaml"):
            shutil.copy(project / name, project / rank)

    def train(rank: int, *arguments: str) -> Outcome:
        os.chdir(project / str(rank))
        return tessera("train", *arguments)

    run, recipe = project / "0" / "runs" / "slow", ("slow.yaml", "stages.0.steps=3")
    assert [done.code for done in together(lambda rank: train(rank, *recipe))] == [0, 0]
    shutil.copytree(run, project / "whole")
    shutil.rmtree(run / "adapter")
    for name in ("step-00000003-stage-00", "step-00000003-stage-01"):  # back to the checkpoint of the second step
        shutil.rmtree(run / "checkpoints" / name)
    resumed = together(lambda rank: train(rank, *recipe, "--resume", "runs/slow"))
    assert [done.code for done in resumed] == [0, 0], resumed
    check_same(run, project / "whole")
    assert not (project / "1" / "runs").exists()
    assert train(0, "--resume", "runs/other").err == "error: --resume runs/other: there is no run in this folder\n"


@pytest.mark.slow
def test_a_second_request_to_the_launcher_stops_at_once(project: Path) -> None:
    started = launched("slow.yaml")
    wait_for(started, "runs/slow/metrics.jsonl", lines=2)
    (project / "hang").touch()
    wait_for(started, "*.hangs", count=2)
    started.send_signal(signal.SIGTERM)
    wait_for(started, "*.asked", count=2)
    time.sleep(2.2)  # what comes sooner may be what somebody passed on
    assert started.poll() is None
    began = time.monotonic()
    started.send_signal(signal.SIGTERM)
    _, err = started.communicate(timeout=60)
    assert time.monotonic() - began < 10
    assert "stopped and saved" not in err
    assert not (project / "runs" / "slow" / "summary.json").exists()

    (project / "hang").unlink()
    in_two("--resume", "runs/slow")
    in_two("slow.yaml", "run.dir=runs/whole")
    check_same(project / "runs" / "slow", project / "runs" / "whole")


@pytest.mark.slow
def test_accelerate_starts_what_torchrun_starts(project: Path) -> None:
    command = [
        program("accelerate"),
        "launch",
        "--multi_gpu",
        "--num_processes",
        "2",
        "--main_process_port",
        str(free_port()),
    ]
    told = [*command, "-m", "tessera", "train", "slow.yaml", "model.device=cpu"]
    done = subprocess.run(told, capture_output=True, text=True, env={**os.environ, **ENVIRONMENT})
    assert done.returncode == 0, done.stderr
    assert "run folder runs/slow, 2 processes" in done.stdout
    in_two("slow.yaml", "run.dir=runs/whole")
    check_same(project / "runs" / "slow", project / "runs" / "whole")
