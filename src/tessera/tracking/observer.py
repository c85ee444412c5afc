"""Trackers as an observer of the run: they are told of every row, and one that fails is said and never stops it."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tessera.core.errors import UserError
from tessera.core.launcher import place
from tessera.reports.run import RunFolder
from tessera.rollout.boundary import attempt
from tessera.tracking.clients import Run, Status, Tracker, open_tracker
from tessera.tracking.rows import configuration, numbers
from tessera.tracking.settings import TrackerSettings
from tessera.training.context import Observer
from tessera.training.interrupt import Interrupted

log = logging.getLogger("tessera")

GIVE_UP = 3  # failures in a row after which a tracker is left alone: each may have waited for a server


@dataclass
class _Line:
    """A tracker, and how it has fared."""

    tracker: Tracker
    lost: int = 0
    failures: int = 0  # in a row
    error: str = ""

    def send(self, values: Mapping[str, float], step: int) -> None:
        if self.failures == GIVE_UP:
            self.lost += 1
            return
        _, error = attempt(lambda: self.tracker.send(values, step))
        self.failures = self.failures + 1 if error else 0
        if error:
            self.failed(error, step)

    def failed(self, error: str, step: int) -> None:
        self.lost += 1
        if not self.error:
            log.warning("tracker %s failed at step %d, training goes on: %s", self.tracker.kind, step, error)
        self.error = self.error or error
        if self.failures == GIVE_UP:
            log.warning("tracker %s failed %d times in a row: nothing more is sent to it", self.tracker.kind, GIVE_UP)

    def close(self, status: Status) -> None:
        _, error = attempt(lambda: self.tracker.close(status))
        if error:
            log.warning("tracker %s did not close: %s", self.tracker.kind, error)
        if self.lost:
            log.warning("tracker %s lacks %d rows of metrics.jsonl: %s", self.tracker.kind, self.lost, self.error)


class Trackers(Observer):
    """Sends every row of metrics.jsonl to some trackers."""

    def __init__(self, trackers: Sequence[Tracker]) -> None:
        self.lines = [_Line(tracker) for tracker in trackers]

    def row(self, row: Mapping[str, Any]) -> None:
        """Send the numbers of a row."""
        values = numbers(row)
        for line in self.lines:
            line.send(values, row["step"])

    def resumed(self, step: int) -> None:
        """Tell the trackers where the run goes on."""
        for line in self.lines:
            _, error = attempt(lambda line=line: line.tracker.resumed(step))  # type: ignore[misc]
            if error:
                line.failed(error, step)

    def close(self, status: Status) -> None:
        """Close every tracker; say which lacks rows."""
        for line in self.lines:
            line.close(status)


@contextmanager
def tracking(
    trackers: Sequence[TrackerSettings], folder: RunFolder, recipe: Mapping[str, Any], recipe_text: str
) -> Iterator[Trackers]:
    """The trackers of a run while it lasts. Their ids are kept in the folder, by which a resumed run finds them again.

    Of several processes only the first writes. One that cannot begin is a UserError.
    """
    run = Run(folder.path, configuration(recipe), recipe_text)
    known = folder.trackers()
    opened = Trackers([])
    status: Status = "failed"
    try:
        for settings in trackers if place().rank == 0 else ():
            opened.lines.append(_Line(_begin(settings, run, known.get(settings.kind))))
            folder.note_trackers({**known, **{line.tracker.kind: line.tracker.id for line in opened.lines}})
        yield opened
        status = "finished"
    except Interrupted:
        status = "interrupted"
        raise
    finally:
        opened.close(status)


def _begin(settings: TrackerSettings, run: Run, known: str | None) -> Tracker:
    tracker, error = attempt(lambda: open_tracker(settings, run, known))
    if tracker is None:
        raise UserError(f"tracking: {settings.kind} cannot begin ({error}); once it can, use --resume {run.folder}")
    return tracker
