"""Tracked runs of the tiny model: trackers keep what metrics.jsonl holds, and they stop nothing."""

from __future__ import annotations

import json
import logging
import math
import os
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

import runs
from processes import environment
from runs import TEST, TRAIN, VALIDATION, rl, rows_of, sft
from tessera.core.errors import UserError
from tessera.reports.run import RunFolder
from tessera.tracking import observer
from tessera.tracking.clients import Status
from tessera.tracking.observer import GIVE_UP, Trackers, tracking
from tessera.tracking.rows import numbers
from tessera.tracking.settings import TensorBoardSettings
from tessera.training.context import Observer
from tessera.training.interrupt import Interrupted
from trackers import (
    Series,
    of_mlflow,
    of_tensorboard,
    of_trackio,
    of_wandb,
    records_of_wandb,
    text_of_tensorboard,
)


@pytest.fixture
def trackio_folder() -> Path:
    """trackio writes in one folder a process: see conftest.py."""
    return Path(os.environ["TRACKIO_DIR"])


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No address is connected to but sockets of this machine, and what clients keep of their own lies in tmp_path."""
    connect = socket.socket.connect

    def local(self: socket.socket, address: Any) -> None:
        assert self.family == socket.AF_UNIX or address[0] in ("127.0.0.1", "::1", "localhost"), address
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", local)
    for name in ("CACHE", "CONFIG", "DATA"):
        monkeypatch.setenv(f"WANDB_{name}_DIR", str(tmp_path / "of_wandb"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "none"))


class StopAfter(Observer):
    """Ends the run after a step that no checkpoint holds."""

    def __init__(self, step: int) -> None:
        self.step = step

    def progress(self, what: str, done: int, total: int) -> None:
        if done == self.step:
            raise Interrupted


def all_four(tmp_path: Path, trackio_folder: Path, project: str) -> list[Any]:
    return [
        "tensorboard",
        {"kind": "wandb", "project": project, "name": "first", "tags": ["small", "fast"]},
        {"kind": "trackio", "project": project, "dir": str(trackio_folder)},
        {"kind": "mlflow", "project": project, "tags": ["small"], "uri": f"sqlite:///{tmp_path}/mlflow.db"},
    ]


def kept(tmp_path: Path, trackio_folder: Path, project: str, folder: Path) -> dict[str, Series]:
    ids = json.loads((folder / "trackers.json").read_text())
    return {
        "tensorboard": of_tensorboard(folder / "tensorboard"),
        "wandb": of_wandb(folder),
        "trackio": of_trackio(trackio_folder, project),
        "mlflow": of_mlflow(f"sqlite:///{tmp_path}/mlflow.db", ids["mlflow"]),
    }


def expected(folder: Path) -> Series:
    """From metrics.jsonl, by a rule written anew: the kind, for an evaluation also its split, and the key."""
    found: Series = {}
    for row in rows_of(folder):
        kind = f"eval/{row['split']}" if row["kind"] == "eval" else row["kind"]
        for key, value in row.items():
            if key != "step" and isinstance(value, int | float):
                found.setdefault(f"{kind}/{key}", []).append((row["step"], value))
    return found


def close(series: Series) -> dict[str, Any]:
    """For comparison up to the 32 bits of TensorBoard; one tracker may sort its steps and another not."""
    return {key: [pytest.approx(pair, rel=2**-23) for pair in sorted(pairs)] for key, pairs in series.items()}


def in_order(series: Series) -> Series:
    return {key: sorted(pairs) for key, pairs in series.items()}


def test_one_run_is_in_all_four_trackers_as_in_its_own_folder(
    tmp_path: Path, trackio_folder: Path, alone: None, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "run"
    stages = [sft(steps=2, stop_accuracy=1.0, check_every=1), rl(steps=2)]
    trackers = all_four(tmp_path, trackio_folder, "whole")
    runs.run(folder, *stages, rows=(TRAIN, VALIDATION, TEST), tracking=trackers)
    found = kept(tmp_path, trackio_folder, "whole", folder)
    numbers_of_run = expected(folder)
    steps = [step for step, _ in numbers_of_run["eval/test/accuracy/value"]]
    assert steps == [0, 2, 4]  # before training, after two steps of each stage
    assert {"rl/reward/mean", "sft/loss", "eval/validation/accuracy/ci_low"} <= set(numbers_of_run)
    for name in ("wandb", "trackio", "mlflow"):
        assert in_order(found[name]) == in_order(numbers_of_run), name
    assert in_order(found["tensorboard"]) == close(numbers_of_run)
    check_configurations(tmp_path, trackio_folder, folder)
    assert not [record for record in caplog.records if record.name == "tessera"]


def check_configurations(tmp_path: Path, trackio_folder: Path, folder: Path) -> None:
    """Each tracker of the run `whole` has the resolved recipe, a default among it, and its names and tags."""
    from mlflow import MlflowClient
    from trackio import context_vars
    from trackio.sqlite_storage import SQLiteStorage

    assert context_vars.current_run.get() is None  # nothing is left for trackio to say when the program ends
    assert f"```yaml\n{(folder / 'recipe.yaml').read_text()}```" in text_of_tensorboard(folder / "tensorboard")
    (run,) = [r.run for r in records_of_wandb(folder) if r.WhichOneof("record_type") == "run"]
    assert (run.project, run.display_name, list(run.tags)) == ("whole", "first", ["small", "fast"])
    told = {item.key: json.loads(item.value_json) for item in run.config.update}
    assert told["stages"]["rl"]["optimizer"]["lr"] == 1e-3 and told["seed"] == 1
    told = SQLiteStorage.get_run_config("whole", "run")
    assert told["stages"]["rl"]["optimizer"]["lr"] == 1e-3 and told["seed"] == 1
    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/mlflow.db")
    (mlflow_run,) = client.search_runs([client.get_experiment_by_name("whole").experiment_id])
    assert (mlflow_run.info.run_name, mlflow_run.info.status) == ("run", "FINISHED")
    assert mlflow_run.data.tags["tags"] == "small"
    assert (mlflow_run.data.params["stages.rl.optimizer.lr"], mlflow_run.data.params["seed"]) == ("0.001", "1")


def test_a_resumed_run_goes_on_in_the_same_runs_of_its_trackers(
    tmp_path: Path, trackio_folder: Path, alone: None
) -> None:
    folder = tmp_path / "run"
    same: dict[str, Any] = {"tracking": all_four(tmp_path, trackio_folder, "resumed"), "run": {"save_every": 2}}
    with pytest.raises(Interrupted):
        runs.run(folder, rl(steps=4), observers=[StopAfter(3)], **same)
    ids = (folder / "trackers.json").read_text()
    runs.run(folder, rl(steps=4), resume=True, **same)
    assert (folder / "trackers.json").read_text() == ids
    found = kept(tmp_path, trackio_folder, "resumed", folder)
    of_run = expected(folder)
    assert in_order(found["tensorboard"]) == close(of_run)  # what came after the checkpoint was taken back
    for name in ("wandb", "trackio", "mlflow"):  # step 3 came twice
        rewards, again = found[name]["rl/reward/mean"], of_run["rl/reward/mean"]
        assert sorted(rewards) == sorted([*again, again[2]]), name


class Broken:
    """A tracker that fails at some steps."""

    kind, id, place = "broken", "1", "nowhere"

    def __init__(self, at: tuple[int, ...], closes: bool = True) -> None:
        self.at, self.closes = at, closes
        self.sent: list[int] = []
        self.ended: list[Status] = []

    def send(self, numbers: Mapping[str, float], step: int) -> None:
        self.sent.append(step)
        if step in self.at:
            raise ConnectionError("no\nanswer")

    def resumed(self, step: int) -> None:
        raise OSError("full")

    def close(self, status: Status) -> None:
        self.ended.append(status)
        if not self.closes:
            raise OSError("gone")


def told(tracker: Broken, steps: int) -> None:
    trackers = Trackers([tracker])
    for step in range(steps):
        trackers.row({"kind": "rl", "step": step, "loss": 0.5})
    trackers.close("finished")


def test_a_tracker_that_fails_warns_once_and_says_in_the_end_what_it_lacks(caplog: pytest.LogCaptureFixture) -> None:
    tracker = Broken(at=(1, 2, 4))
    told(tracker, 6)
    assert tracker.sent == [0, 1, 2, 3, 4, 5]
    assert [record.getMessage() for record in caplog.records] == [
        "tracker broken failed at step 1, training goes on: ConnectionError: no answer",
        "tracker broken lacks 3 rows of metrics.jsonl: ConnectionError: no answer",
    ]


def test_a_tracker_that_only_fails_is_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    tracker = Broken(at=(1, 2, 3), closes=False)
    told(tracker, 6)
    assert (GIVE_UP, tracker.sent, tracker.ended) == (3, [0, 1, 2, 3], ["finished"])
    assert [record.getMessage() for record in caplog.records] == [
        "tracker broken failed at step 1, training goes on: ConnectionError: no answer",
        "tracker broken failed 3 times in a row: nothing more is sent to it",
        "tracker broken did not close: OSError: gone",
        "tracker broken lacks 5 rows of metrics.jsonl: ConnectionError: no answer",
    ]


def test_failing_to_go_back_is_said_too(caplog: pytest.LogCaptureFixture) -> None:
    Trackers([Broken(at=())]).resumed(4)
    assert [record.getMessage() for record in caplog.records] == [
        "tracker broken failed at step 4, training goes on: OSError: full"
    ]


def test_training_does_not_notice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    tracker = Broken(at=(2,))
    monkeypatch.setattr(observer, "open_tracker", lambda *of: tracker)
    caplog.set_level(logging.WARNING)
    summary = runs.run(tmp_path / "run", rl(steps=3), tracking=["tensorboard"])
    assert (summary["status"], tracker.sent, tracker.ended) == ("finished", [1, 2, 3], ["finished"])
    assert len(caplog.records) == 2
    runs.run(tmp_path / "plain", rl(steps=3))
    assert runs.without_times(rows_of(tmp_path / "run")) == runs.without_times(rows_of(tmp_path / "plain"))


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[RunFolder]:
    with RunFolder.create(tmp_path / "run", "seed: 1\n", "0") as made:
        yield made


RECIPE: dict[str, Any] = {"stages": [{"name": "rl", "steps": 1}]}


def test_a_tracker_that_cannot_begin_is_one_line(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*of: Any) -> Any:
        raise RuntimeError("refused")

    monkeypatch.setattr(observer, "open_tracker", fails)
    with (
        pytest.raises(UserError, match=r"^tracking: tensorboard cannot begin \(RuntimeError: refused\); .*--resume"),
        tracking([TensorBoardSettings()], folder, RECIPE, ""),
    ):
        raise AssertionError("not reached")


def test_how_a_run_ended_is_told(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    tracker = Broken(at=())
    monkeypatch.setattr(observer, "open_tracker", lambda *of: tracker)
    for error in (Interrupted, RuntimeError):
        with pytest.raises(error), tracking([TensorBoardSettings()], folder, RECIPE, ""):
            raise error
    assert tracker.ended == ["interrupted", "failed"]


def test_only_the_first_process_writes(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(observer, "open_tracker", lambda *of: Broken(at=()))
    for rank, lines in ((1, 0), (0, 1)):
        for name, value in environment(rank, 2, 29500).items():
            monkeypatch.setenv(name, value)
        with tracking([TensorBoardSettings()], folder, RECIPE, "") as opened:
            assert len(opened.lines) == lines
        assert folder.trackers() == ({"broken": "1"} if lines else {})


def test_what_is_not_finite_reaches_no_tracker() -> None:
    row = {"kind": "rl", "step": 1, "stage": "rl", "kl": None, "loss": math.nan, "grad_norm": math.inf, "updates": 1}
    assert numbers(row) == {"rl/updates": 1}
