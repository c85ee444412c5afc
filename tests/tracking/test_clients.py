"""What is particular to a tracker's own client."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from tessera.core.errors import UserError
from tessera.tracking.clients import Run, open_tracker
from tessera.tracking.settings import MLflowSettings, TensorBoardSettings, TrackioSettings
from trackers import of_tensorboard


def run(folder: Path) -> Run:
    return Run(folder / "sums", {"seed": 1}, "seed: 1\n")


def test_tensorboard_takes_back_what_came_after_a_step(tmp_path: Path) -> None:
    first = open_tracker(TensorBoardSettings(), run(tmp_path), None)
    for step in range(4):
        first.send({"a": step}, step)
    first.close("interrupted")
    second = open_tracker(TensorBoardSettings(), run(tmp_path), first.id)
    second.resumed(1)
    second.send({"a": 20.0}, 2)
    second.close("finished")
    assert of_tensorboard(tmp_path / "sums" / "tensorboard") == {"a": [(0, 0.0), (1, 1.0), (2, 20.0)]}


def test_trackio_takes_one_folder_a_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trackio = type("trackio", (), {"utils": type("utils", (), {"TRACKIO_DIR": tmp_path / "one"})})
    monkeypatch.setitem(sys.modules, "trackio", trackio)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"trackio already writes in .*one, and takes one dir a process, not .*two too"):
        open_tracker(TrackioSettings(dir=str(tmp_path / "two")), run(tmp_path), None)


def test_a_server_that_is_gone_is_found_so_within_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow.exceptions import MlflowException

    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    begun = time.perf_counter()
    with pytest.raises(MlflowException, match=r"127\.0\.0\.1"):
        open_tracker(MLflowSettings(uri="http://127.0.0.1:9"), run(tmp_path), None)
    assert time.perf_counter() - begun < 20
