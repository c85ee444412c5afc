"""Runs that go wrong on the way: what is recorded, what is said, and that they can go on."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import pytest

from command import COUNTING, rl_stage, spawn, tessera, write_recipe

# The grader fills the disk: past its 14th call no file of this process may grow beyond 8 KB, the optimiser's does.
FULL_DISK = (
    COUNTING
    + '''

import resource


class FullDisk(Counting):
    """Counting, on a disk that is full from the fourth step on, once; `mark` says that it has been."""

    def __init__(self, mark: str) -> None:
        super().__init__()
        self.mark = mark

    def reward(self, problem, text):
        from pathlib import Path

        if self.calls == 13 and not Path(self.mark).exists():
            Path(self.mark).touch()
            resource.setrlimit(resource.RLIMIT_FSIZE, (8192, resource.RLIM_INFINITY))
        return super().reward(problem, text)
'''
)

SLOW = (
    COUNTING
    + '''

import time


class Slow(Counting):
    """Counting, a tenth of a second a completion."""

    def reward(self, problem, text):
        time.sleep(0.1)
        return super().reward(problem, text)
'''
)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with the graders of this file."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "counting.py").write_text(COUNTING)
    (tmp_path / "full.py").write_text(FULL_DISK)
    (tmp_path / "slow.py").write_text(SLOW)
    return tmp_path


def rows(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize(
    ("how", "error"),
    [
        ("raises", "ValueError: the grader broke"),
        ("nan", "UserError: the reward is nan; it must be finite"),
    ],
)
def test_a_reward_that_fails_is_an_error_of_its_completion(
    project: Path, tiny_folder: Path, how: str, error: str
) -> None:
    """Every fourth of 4 completions a step fails: a quarter, which is not past a limit of a quarter."""
    task = {"name": "counting.py:Counting", "fails": 4, "how": how}
    stage = rl_stage(sentinels={"reward_failures": 0.25, "truncation_rate": 1.0})
    write_recipe(project / "r.yaml", tiny_folder, task=task, stages=[stage])
    assert tessera("train", "r.yaml").code == 0
    completions = rows(project / "runs" / "r" / "completions.jsonl")
    # Calls 1 to 8 earn 1, 0, 1, -, 1, 0, 1, -.
    assert [row["reward"] for row in completions] == [1.0, 0.0, 1.0, None] * 2
    assert [row["error"] for row in completions] == [None, None, None, error] * 2
    assert [row["rollouts/failed"] for row in rows(project / "runs" / "r" / "metrics.jsonl")] == [1, 1]


def test_too_many_failed_rewards_stop_the_run(project: Path, tiny_folder: Path) -> None:
    stage = rl_stage(sentinels={"reward_failures": 0.24, "truncation_rate": 1.0})
    write_recipe(project / "r.yaml", tiny_folder, task={"name": "counting.py:Counting", "fails": 4}, stages=[stage])
    outcome = tessera("train", "r.yaml")
    assert outcome.code == 1
    assert outcome.err == (
        "run stopped: the reward failed on 1 of 4 completions of a step (limit 24%); the first: "
        "ValueError: the grader broke\n"
    )
    run = project / "runs" / "r"
    assert [row["error"] for row in rows(run / "completions.jsonl")] == [None] * 3 + ["ValueError: the grader broke"]
    assert json.loads((run / "summary.json").read_text())["status"].startswith("stopped: the reward failed on 1 of 4")
    assert (run / "report.html").is_file()
    assert not (run / "adapter").exists()


def test_a_full_disk_leaves_the_older_checkpoint_and_the_run_goes_on_from_it(project: Path, tiny_folder: Path) -> None:
    task = {"name": "full.py:FullDisk", "mark": "mark"}
    saved = {"save_every": 1, "keep_checkpoints": 3}
    write_recipe(project / "full.yaml", tiny_folder, task=task, stages=[rl_stage(steps=5)], run=saved,
                 report={"groups": 0})  # fmt: skip
    process = spawn("train", "full.yaml")
    _, err = process.communicate(timeout=120)
    assert process.returncode == 1
    assert err.count("\n") == 1, err
    assert "could not save runs/full/checkpoints/step-00000004-stage-00: " in err
    assert "checkpoints are intact, go on with --resume" in err
    checkpoints = sorted(path.name for path in (project / "runs" / "full" / "checkpoints").iterdir())
    assert checkpoints == [f"step-0000000{step}-stage-00" for step in (1, 2, 3)]

    # Steps 4 and 5 are made again: all five are there once, as in a run that nothing happened to.
    outcome = tessera("train", "--resume", "runs/full")
    assert outcome.code == 0, outcome.err
    assert tessera("train", "full.yaml", "run.dir=runs/whole").code == 0
    for name in ("metrics.jsonl", "completions.jsonl"):
        went_on, whole = (rows(project / "runs" / run / name) for run in ("full", "whole"))
        assert [row["step"] for row in went_on] == [row["step"] for row in whole]
    adapters = [(project / "runs" / run / "adapter" / "adapter_model.safetensors") for run in ("full", "whole")]
    assert adapters[0].read_bytes() == adapters[1].read_bytes()


def test_an_interrupted_run_is_saved_and_says_how_to_go_on(project: Path, tiny_folder: Path) -> None:
    write_recipe(project / "slow.yaml", tiny_folder, task="slow.py:Slow", stages=[rl_stage(steps=4)])
    process = spawn("train", "slow.yaml")
    metrics = project / "runs" / "slow" / "metrics.jsonl"
    deadline = time.monotonic() + 60
    while not (metrics.exists() and metrics.read_text().count("\n") >= 2):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err == "stopped and saved; go on with: tessera train --resume runs/slow\n"
    assert "\x1b" not in out and "\r" not in out
    assert json.loads((project / "runs" / "slow" / "summary.json").read_text())["status"] == "interrupted"

    assert tessera("train", "--resume", "runs/slow").code == 0
    assert [row["step"] for row in rows(metrics)] == [1, 2, 3, 4]


def test_an_interrupt_before_the_run_began_leaves_nothing(project: Path, tiny_folder: Path) -> None:
    (project / "early.py").write_text(COUNTING + "\n\nprint('reading', flush=True)\nimport time\ntime.sleep(60)\n")
    write_recipe(project / "early.yaml", tiny_folder, task="early.py:Counting")
    process = spawn("train", "early.yaml")
    assert process.stdout is not None and process.stdout.readline() == "reading\n"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, "")
    assert not (project / "runs").exists()
