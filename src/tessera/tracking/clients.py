"""The trackers, each through its own client. A client is imported where it is used."""

from __future__ import annotations

import io
import os
import sys
import time
from collections.abc import Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, Protocol

from tessera.core.errors import UserError
from tessera.tracking.rows import flat
from tessera.tracking.settings import (
    MLflowSettings,
    TensorBoardSettings,
    TrackerSettings,
    TrackioSettings,
    WandbSettings,
)

# Set before the import: no telemetry, and a server that is gone holds training up for seconds, not minutes.
MLFLOW_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
}

Status = Literal["finished", "interrupted", "failed"]


class Tracker(Protocol):
    """A run of a tracker."""

    kind: str
    id: str  # by which a resumed run finds it again
    place: str  # where a person finds it

    def send(self, numbers: Mapping[str, float], step: int) -> None:
        """Write numbers at a step."""

    def resumed(self, step: int) -> None:
        """The run goes on after `step`; what came later is made again."""

    def close(self, status: Status) -> None:
        """The run is over for now."""


@dataclass(frozen=True)
class Run:
    """What trackers are told of a run: its folder, and its recipe as a configuration and as text."""

    folder: Path
    config: Mapping[str, Any]
    recipe_text: str

    @property
    def name(self) -> str:
        """Of a tracker's run where the recipe gives none."""
        return self.folder.resolve().name


def open_tracker(settings: TrackerSettings, run: Run, known: str | None) -> Tracker:
    """Begin a tracker's run, or go on with the one whose id is `known`."""
    opening: Any = _OPEN[settings.kind]
    opened: Tracker = opening(settings, run, known)
    return opened


class TensorBoard:
    """Event files. Those of one folder are one run, so there is no id."""

    kind = "tensorboard"
    id = ""

    def __init__(self, settings: TensorBoardSettings, run: Run, known: str | None) -> None:
        self.place = settings.dir or str(run.folder / "tensorboard")
        self._text = f"```yaml\n{run.recipe_text}```"
        self._writer: Any = None
        if known is None:
            self._open(None)

    def _open(self, purge_step: int | None) -> None:
        self._writer = import_module("torch.utils.tensorboard").SummaryWriter(self.place, purge_step=purge_step)
        self._writer.add_text("recipe", self._text, purge_step or 0)

    def send(self, numbers: Mapping[str, float], step: int) -> None:
        """Write and flush. TensorBoard keeps 32 bits of a number."""
        for key, value in numbers.items():
            self._writer.add_scalar(key, value, step)
        self._writer.flush()

    def resumed(self, step: int) -> None:
        """TensorBoard leaves out what it read of later steps."""
        self.close("finished")
        self._open(purge_step=step + 1)

    def close(self, status: Status) -> None:
        """Close the file."""
        if self._writer is not None:
            self._writer.close()


class Wandb:
    """Weights & Biases. The step is a number of its own, since W&B's may not go back."""

    kind = "wandb"

    def __init__(self, settings: WandbSettings, run: Run, known: str | None) -> None:
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        folder = Path(settings.dir) if settings.dir else run.folder
        folder.mkdir(parents=True, exist_ok=True)
        wandb = import_module("wandb")
        self._run = wandb.init(
            project=settings.project,
            name=settings.name or run.name,
            tags=list(settings.tags),
            dir=str(folder),
            mode=settings.mode,
            id=known,
            resume="allow" if known else None,
            config=dict(run.config),
            settings=wandb.Settings(
                console="off", silent=True, x_disable_stats=True, x_disable_meta=True, disable_git=True, save_code=False
            ),
        )
        self._run.define_metric("*", step_metric="step")
        self.id = str(self._run.id)
        self.place = str(self._run.url if settings.mode == "online" else folder / "wandb")

    def send(self, numbers: Mapping[str, float], step: int) -> None:
        """Log numbers beside their step."""
        self._run.log({**numbers, "step": step})

    def resumed(self, step: int) -> None:
        """Nothing is taken back: later steps come a second time."""

    def close(self, status: Status) -> None:
        """Finish; anything but `finished` is a failed run there."""
        self._run.finish(exit_code=0 if status == "finished" else 1)


class Trackio:
    """trackio. A run is found again by its name: the newest of that name."""

    kind = "trackio"

    def __init__(self, settings: TrackioSettings, run: Run, known: str | None) -> None:
        self._trackio = trackio = _trackio(settings.dir)
        self.id = known or settings.name or run.name
        with redirect_stdout(io.StringIO()):  # it prints how to open the dashboard
            self._run = trackio.init(
                project=settings.project,
                name=self.id,
                resume="allow" if known else "never",
                config=dict(run.config),
                embed=False,
                auto_log_gpu=False,
                auto_log_cpu=False,
            )
        self.place = str(self._run.url or trackio.utils.TRACKIO_DIR)

    def send(self, numbers: Mapping[str, float], step: int) -> None:
        """Queue numbers; a thread of trackio's writes them."""
        self._run.log(dict(numbers), step=step)

    def resumed(self, step: int) -> None:
        """Nothing is taken back: later steps come a second time."""

    def close(self, status: Status) -> None:
        """Write what is queued."""
        with redirect_stdout(io.StringIO()):
            self._trackio.finish()  # of the current run: the last that was begun, which is this one


class MLflow:
    """MLflow. The configuration is its parameters, by dotted path."""

    kind = "mlflow"
    AT_ONCE = 100  # parameters that one call takes
    ENDS: Mapping[Status, str] = {"finished": "FINISHED", "interrupted": "KILLED", "failed": "FAILED"}

    def __init__(self, settings: MLflowSettings, run: Run, known: str | None) -> None:
        for key, value in MLFLOW_ENVIRONMENT.items():
            os.environ.setdefault(key, value)
        self.place = settings.address
        self._mlflow = import_module("mlflow")
        self._client = self._mlflow.MlflowClient(tracking_uri=self.place)
        self.id = known or self._create(settings, run)
        if known is not None:
            self._client.update_run(known, status="RUNNING")

    def _create(self, settings: MLflowSettings, run: Run) -> str:
        found = self._client.get_experiment_by_name(settings.project)
        experiment = found.experiment_id if found else self._client.create_experiment(settings.project)
        tags = {"tags": ", ".join(settings.tags)} if settings.tags else {}
        id_ = self._client.create_run(experiment, run_name=settings.name or run.name, tags=tags).info.run_id
        params = [self._mlflow.entities.Param(key, value) for key, value in flat(run.config).items()]
        for start in range(0, len(params), self.AT_ONCE):
            self._client.log_batch(id_, params=params[start : start + self.AT_ONCE])
        return str(id_)

    def send(self, numbers: Mapping[str, float], step: int) -> None:
        """One call a row."""
        now = int(1000 * time.time())
        metrics = [self._mlflow.entities.Metric(key, value, now, step) for key, value in numbers.items()]
        self._client.log_batch(self.id, metrics=metrics)

    def resumed(self, step: int) -> None:
        """Nothing is taken back: later steps come a second time."""

    def close(self, status: Status) -> None:
        """Say how it ended."""
        self._client.set_terminated(self.id, status=self.ENDS[status])


_OPEN = {"tensorboard": TensorBoard, "wandb": Wandb, "trackio": Trackio, "mlflow": MLflow}


def _trackio(folder: str | None) -> Any:
    """The client, writing in `folder`: it reads where to once, when it is imported."""
    wanted = None if folder is None else Path(folder).resolve()
    if wanted is not None and "trackio" not in sys.modules:
        os.environ["TRACKIO_DIR"] = str(wanted)
    trackio = import_module("trackio")
    kept = Path(trackio.utils.TRACKIO_DIR).resolve()
    if wanted not in (None, kept):
        raise UserError(f"tracking: trackio already writes in {kept}, and takes one dir a process, not {wanted} too")
    return trackio
