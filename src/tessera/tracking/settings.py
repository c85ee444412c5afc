"""Which trackers a run writes to, and the keys of each."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import Field

from tessera.core.errors import UserError, unknown
from tessera.training.settings import Settings

KINDS = ("tensorboard", "wandb", "trackio", "mlflow")
MLFLOW_DEFAULT = "sqlite:///mlflow.db"  # MLflow's own default, named here to know what it needs


class TensorBoardSettings(Settings):
    """Event files in `dir`."""

    kind: Literal["tensorboard"] = "tensorboard"
    dir: str | None = None


class WandbSettings(Settings):
    """Weights & Biases: a run in `project`. `mode: offline` sends nothing; `wandb sync` does so later."""

    kind: Literal["wandb"] = "wandb"
    project: str = "tessera"
    name: str | None = None
    tags: tuple[str, ...] = ()
    mode: Literal["offline", "online"] = "offline"
    dir: str | None = None


class TrackioSettings(Settings):
    """trackio: a run in `project`, in a data base of the folder `dir`."""

    kind: Literal["trackio"] = "trackio"
    project: str = "tessera"
    name: str | None = None
    dir: str | None = None


class MLflowSettings(Settings):
    """MLflow: a run in the experiment `project` of the data base or server at `uri`."""

    kind: Literal["mlflow"] = "mlflow"
    project: str = "tessera"
    name: str | None = None
    tags: tuple[str, ...] = ()
    uri: str | None = None

    @property
    def address(self) -> str:
        """`uri`, or what the environment says, or MLflow's default."""
        return self.uri or os.environ.get("MLFLOW_TRACKING_URI") or MLFLOW_DEFAULT


TrackerSettings = Annotated[
    TensorBoardSettings | WandbSettings | TrackioSettings | MLflowSettings, Field(discriminator="kind")
]


def by_name(entries: Any) -> Any:
    """A recipe's `tracking` with every tracker as a mapping; `tensorboard` alone means `{kind: tensorboard}`."""
    if not isinstance(entries, list | tuple):
        return entries
    found = [{"kind": entry} if isinstance(entry, str) else entry for entry in entries]
    kinds = [entry.get("kind") for entry in found if isinstance(entry, dict)]
    for kind in kinds:
        if kind not in KINDS:
            raise unknown("kind of tracking", str(kind), KINDS)
        if kinds.count(kind) > 1:
            raise UserError(f"tracking names {kind} twice")
    return found


def check_installed(trackers: Iterable[TrackerSettings]) -> None:
    """Raise UserError for a tracker whose packages are missing."""
    for tracker in trackers:
        for package in _packages(tracker):
            if importlib.util.find_spec(package) is None:
                raise UserError(
                    f"tracking: {tracker.kind} needs the package {package}: pip install 'tessera-rl[tracking]', or "
                    f"leave {tracker.kind} out"
                )


def _packages(tracker: TrackerSettings) -> tuple[str, ...]:
    if isinstance(tracker, MLflowSettings) and "sql" in tracker.address.partition(":")[0]:
        return ("mlflow", "sqlalchemy", "alembic")
    return (tracker.kind,)
