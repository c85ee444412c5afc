"""`tracking` in a recipe: read strictly, and a missing package said before anything is written."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

import runs
from tessera.core.errors import UserError
from tessera.recipe import Recipe, check_recipe
from tessera.tracking.settings import MLflowSettings, TensorBoardSettings, WandbSettings


def recipe(tracking: Any) -> Recipe:
    stages = [{"kind": "rl", "algorithm": "grpo", "steps": 1}]
    return check_recipe({"task": "arithmetic", "stages": stages, "run": {"dir": "r"}, "tracking": tracking}, "r")


def test_a_name_alone_is_a_tracker_with_its_defaults() -> None:
    given = recipe(["tensorboard", {"kind": "wandb", "project": "sums", "tags": ["a"]}]).tracking
    assert given == (TensorBoardSettings(), WandbSettings(project="sums", tags=("a",)))
    assert recipe([]).tracking == ()


@pytest.mark.parametrize(
    ("tracking", "line"),
    [
        (["tensorbord"], r"unknown kind of tracking 'tensorbord'.*tensorboard"),
        ([{"project": "p"}], r"unknown kind of tracking 'None'"),
        (["mlflow", {"kind": "mlflow", "project": "p"}], r"^tracking names mlflow twice$"),
        ([{"kind": "wandb", "projet": "p"}], r"unknown option of recipe r 'tracking\.0\.projet'.*project"),
        ([{"kind": "tensorboard", "project": "p"}], r"unknown option of recipe r 'tracking\.0\.project'"),
        ([{"kind": "wandb", "mode": "on"}], r"tracking\.0\.mode"),
        ("wandb", r"recipe r: tracking = 'wandb'"),
    ],
)
def test_what_is_wrong_is_one_line(tracking: Any, line: str) -> None:
    with pytest.raises(UserError, match=line):
        recipe(tracking)


def test_trackers_do_not_decide_the_outcome() -> None:
    assert recipe(["mlflow"]).fingerprint() == recipe([]).fingerprint()


@pytest.mark.parametrize(
    ("tracker", "package"),
    [("tensorboard", "tensorboard"), ("wandb", "wandb"), ("trackio", "trackio"), ("mlflow", "mlflow"),
     ("mlflow", "alembic")],
)  # fmt: skip
def test_a_missing_package_is_said_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tracker: str, package: str
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == package else found(name))
    line = rf"^tracking: {tracker} needs the package {package}: pip install 'tessera-rl\[tracking\]', or leave"
    with pytest.raises(UserError, match=line):
        runs.run(tmp_path / "run", tracking=[tracker])
    assert list(tmp_path.iterdir()) == []


def test_a_server_needs_no_data_base_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    assert MLflowSettings().address == "http://127.0.0.1:5000"
    assert MLflowSettings(uri="sqlite:///a.db").address == "sqlite:///a.db"
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert MLflowSettings().address == "sqlite:///mlflow.db"
