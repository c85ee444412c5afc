"""The run folder: everything a run leaves behind, and the only code that writes it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import yaml

from tessera.core.errors import UserError
from tessera.reports import jsonl, page
from tessera.reports.credit import Method
from tessera.reports.difference import differences
from tessera.reports.environment import environment
from tessera.reports.files import atomic_write, reason, stops_run
from tessera.reports.lock import FolderLock

ROWS = ("metrics.jsonl", "completions.jsonl", "diagnostics.jsonl", "groups.jsonl", "harvest.jsonl")
TRACKED = ("trackers.json", "tensorboard", "wandb")
CONTENTS = ("recipe.yaml", *ROWS, "checkpoints", "adapter", "model", "summary.json", "report.html", *TRACKED)


class RunFolder:
    """A folder `runs/NAME`.

    `create` and `resume` take the folder's lock and keep it until `close`; `open` reads, and takes the lock only when
    entered as a context manager (to add an evaluation to a finished run). What writes raises RunStopped when the disk
    does not take it, and UserError where the lock is not held.
    """

    def __init__(self, path: Path | str) -> None:
        """Use `create`, `open` or `resume`: this checks nothing."""
        self.path = Path(path)
        self._lock: FolderLock | None = None

    @classmethod
    def create(cls, path: Path | str, recipe_text: str, fingerprint: str, force: bool = False) -> RunFolder:
        """Start a run: write `recipe_text` (the resolved recipe, YAML) and the environment with the `fingerprint`.

        A folder that holds a run is refused with a UserError; with `force` that run is deleted.
        """
        run = cls(path)._start(mkdir=True)
        with run._closed_on_error(), stops_run(run.path):
            run._make_room(force)
            atomic_write(run.path / "environment.json", _json({**environment(), "fingerprint": fingerprint}))
            # Last, because a folder with a recipe is a run.
            atomic_write(run.path / "recipe.yaml", recipe_text)
        return run

    @classmethod
    def open(cls, path: Path | str) -> RunFolder:
        """An existing run, to read. Raises UserError naming what a folder lacks to be one."""
        run = cls(path)
        if not run.path.is_dir():
            raise UserError(f"no run folder at {run.path}: there is no such folder")
        missing = [name for name in ("recipe.yaml", "environment.json") if not (run.path / name).is_file()]
        if missing:
            raise UserError(f"{run.path} is not a run folder: {' and '.join(missing)} missing")
        return run

    @classmethod
    def resume(cls, path: Path | str, recipe_text: str, fingerprint: str) -> RunFolder:
        """An existing run, to continue with the same recipe.

        An environment other than last time's is noted beside the first. Raises UserError naming the first keys that
        differ when `fingerprint` is not the run's.
        """
        run = cls.open(path)
        run._check_same(recipe_text, fingerprint)
        run._start()._note_environment()
        return run

    def __enter__(self) -> RunFolder:
        return self if self._lock else self._start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Release the lock. Reading still works."""
        if self._lock:
            self._lock.release()
            self._lock = None

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints; not there before the first."""
        return self.path / "checkpoints"

    @property
    def adapter(self) -> Path:
        """Folder of the final adapter; not there before the end."""
        return self.path / "adapter"

    @property
    def model(self) -> Path:
        """Folder of the final model of a run without adapter; not there before the end."""
        return self.path / "model"

    def recipe_text(self) -> str:
        """The resolved recipe as it was written."""
        return (self.path / "recipe.yaml").read_text(encoding="utf-8")

    def recipe(self) -> dict[str, Any]:
        """The resolved recipe, parsed."""
        try:
            return dict(yaml.safe_load(self.recipe_text()))
        except (yaml.YAMLError, TypeError, ValueError) as error:
            line = " ".join(str(error).split())
            raise UserError(f"{self.path / 'recipe.yaml'} is not a YAML mapping: {line}") from error

    def changed(self, recipe_text: str, fingerprint: str) -> str | None:
        """The first keys in which the run's recipe and this one differ, in words; None when the fingerprint is its."""
        if self.environment().get("fingerprint") == fingerprint:
            return None
        found = differences(self.recipe(), yaml.safe_load(recipe_text))
        more = f"; and {len(found) - 3} more" if len(found) > 3 else ""
        return ("; ".join(found[:3]) or "no key, but the data or the code it names") + more

    def environment(self) -> dict[str, Any]:
        """What the run was started on, and the recipe's `fingerprint`."""
        return self._read_json("environment.json")

    def trackers(self) -> dict[str, str]:
        """By kind, the ids of the trackers' runs that this run is written to."""
        return self._read_json("trackers.json") if (self.path / "trackers.json").exists() else {}

    def note_trackers(self, ids: Mapping[str, str]) -> None:
        """Keep the ids of the trackers' runs."""
        self._check_writable()
        with stops_run(self.path / "trackers.json"):
            atomic_write(self.path / "trackers.json", _json(ids))

    def metrics(self) -> list[dict[str, Any]]:
        """The rows of metrics.jsonl; a torn last line is left out. Raises UserError for damage before it."""
        return list(jsonl.read(self.path / "metrics.jsonl"))

    def completions(self) -> Iterator[dict[str, Any]]:
        """The rows of completions.jsonl, read as they are asked for; otherwise as `metrics`."""
        return jsonl.read(self.path / "completions.jsonl")

    def harvest(self) -> Iterator[dict[str, Any]]:
        """The rows of harvest.jsonl: completions kept for an SFT stage."""
        return jsonl.read(self.path / "harvest.jsonl")

    def groups(self) -> Iterator[dict[str, Any]]:
        """The rows of groups.jsonl, read as they are asked for; otherwise as `metrics`."""
        return jsonl.read(self.path / "groups.jsonl")

    def summary(self) -> dict[str, Any] | None:
        """The content of summary.json, or None for a run that has not written it."""
        return self._read_json("summary.json") if (self.path / "summary.json").exists() else None

    def log(self, row: Mapping[str, Any]) -> None:
        """Append one row to metrics.jsonl and flush. NaN and infinities are written as null."""
        self._append("metrics.jsonl", [row])

    def log_completions(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Append rows to completions.jsonl and flush."""
        self._append("completions.jsonl", rows)

    def log_harvest(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Append rows to harvest.jsonl and flush."""
        self._append("harvest.jsonl", rows)

    def log_diagnostics(self, row: Mapping[str, Any]) -> None:
        """Append one row to diagnostics.jsonl and flush."""
        self._append("diagnostics.jsonl", [row])

    def log_groups(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Append rows to groups.jsonl and flush."""
        self._append("groups.jsonl", rows)

    def truncate_after(self, step: int) -> None:
        """Forget what came after `step`: rows with a greater step, a torn last line, and the summary of them all."""
        self._check_writable()
        for name in ROWS:
            with stops_run(self.path / name):
                jsonl.keep(self.path / name, lambda row: row["step"] <= step)
        self._forget_summary()

    def position(self) -> dict[str, int]:
        """Bytes in each row file now, for `rollback`."""
        return {name: path.stat().st_size if (path := self.path / name).exists() else 0 for name in ROWS}

    def rollback(self, position: Mapping[str, int]) -> None:
        """Forget what was written after `position` was taken, and the summary of it all."""
        self._check_writable()
        now = self.position()
        for name in ROWS:
            with stops_run(self.path / name):
                if position.get(name, 0) < now[name]:  # never longer: a crash of the machine may have lost the end
                    os.truncate(self.path / name, position.get(name, 0))
        self._forget_summary()

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Write summary.json."""
        self._check_writable()
        with stops_run(self.path / "summary.json"):
            atomic_write(self.path / "summary.json", _json(summary))

    def report(self, methods: Mapping[str, Method] | None = None, version: str = "") -> str:
        """The report on what the folder holds now, as HTML; see `page.render`."""
        return page.render(
            name=self.path.resolve().name,
            rows=self.metrics(),
            completions=self.completions(),
            recipe=self.recipe(),
            recipe_text=self.recipe_text(),
            environment=self.environment(),
            summary=self.summary(),
            groups=self.groups,
            methods=methods,
            version=version,
        )

    def write_report(self, methods: Mapping[str, Method] | None = None) -> Path:
        """Write report.html from what the folder holds now, and return its path. Needs no lock."""
        html, path = self.report(methods), self.path / "report.html"
        with stops_run(path):
            atomic_write(path, html)
        return path

    def _start(self, mkdir: bool = False) -> RunFolder:
        """Take the lock and remove lines that an earlier writer left unfinished."""
        try:
            if mkdir:
                self.path.mkdir(parents=True, exist_ok=True)
            self._lock = FolderLock(self.path)
        except OSError as error:
            raise UserError(f"cannot write in run folder {self.path}: {reason(error)}") from error
        with self._closed_on_error():
            for name in ROWS:
                with stops_run(self.path / name):
                    jsonl.mend(self.path / name)
        return self

    @contextmanager
    def _closed_on_error(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self.close()
            raise

    def _note_environment(self) -> None:
        recorded, now = self.environment(), environment()
        last = [recorded, *recorded.get("resumed", [])][-1]
        if now != {key: last.get(key) for key in now}:
            path = self.path / "environment.json"
            with self._closed_on_error(), stops_run(path):
                atomic_write(path, _json({**recorded, "resumed": [*recorded.get("resumed", []), now]}))

    def _make_room(self, force: bool) -> None:
        held = [name for name in CONTENTS if (self.path / name).exists()]
        if held and not force:
            raise UserError(f"{self.path} already holds a run ({held[0]}): use --resume, or give another run.dir")
        for name in held:
            _delete(self.path / name)

    def _check_same(self, recipe_text: str, fingerprint: str) -> None:
        if (changed := self.changed(recipe_text, fingerprint)) is not None:
            advice = "give the run's own recipe, or another run.dir"
            raise UserError(f"cannot resume {self.path} with another recipe: {changed}; {advice}")

    def _check_writable(self) -> None:
        if not self._lock:
            raise UserError(f"run folder {self.path} is open for reading: write inside `with RunFolder.open(...)`")

    def _forget_summary(self) -> None:
        with stops_run(self.path / "summary.json"):
            (self.path / "summary.json").unlink(missing_ok=True)

    def _append(self, name: str, rows: Iterable[Mapping[str, Any]]) -> None:
        self._check_writable()
        with stops_run(self.path / name):
            jsonl.append(self.path / name, rows)

    def _read_json(self, name: str) -> dict[str, Any]:
        try:
            value = json.loads((self.path / name).read_text(encoding="utf-8"))
        except ValueError as error:
            raise UserError(f"{self.path / name} is not valid JSON: {error}") from error
        return dict(value)


def _json(value: Mapping[str, Any]) -> str:
    return jsonl.dumps(value, indent=2) + "\n"


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()
