"""The run folder: everything a run leaves behind, and the only code that writes it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from tessera.core.errors import UserError
from tessera.reports import jsonl, page
from tessera.reports.credit import Method
from tessera.reports.difference import differences, first
from tessera.reports.environment import environment
from tessera.reports.files import AGAIN, atomic_write, stops_run
from tessera.reports.folder import Folder

ROWS = ("metrics.jsonl", "completions.jsonl", "diagnostics.jsonl", "groups.jsonl", "harvest.jsonl")
TRACKED = ("trackers.json", "tensorboard", "wandb")
CONTENTS = ("recipe.yaml", *ROWS, "checkpoints", "adapter", "model", "summary.json", "report.html", *TRACKED)


class RunFolder(Folder):
    """A folder `runs/NAME`.

    `create` and `resume` take the folder's lock and keep it until `close`; `open` reads, and takes the lock only when
    entered as a context manager (to add an evaluation to a finished run).
    """

    noun, again, row_files = "run folder ", AGAIN, ROWS

    @classmethod
    def create(cls, path: Path | str, recipe_text: str, fingerprint: str, force: bool = False) -> RunFolder:
        """Start a run: write `recipe_text` (the resolved recipe, YAML) and the environment with the `fingerprint`.

        A folder that holds a run is refused with a UserError; with `force` that run is deleted.
        """
        run = cls(path)._start(mkdir=True)
        with run._closed_on_error(), stops_run(run.path):
            run._make_room(force)
            run._write("environment.json", {**environment(), "fingerprint": fingerprint})
            run._write("recipe.yaml", recipe_text)  # last, because a folder with a recipe is a run
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
        return first(found) or "no key, but the data or the code it names"

    def environment(self) -> dict[str, Any]:
        """What the run was started on, and the recipe's `fingerprint`."""
        return self._json("environment.json")

    def trackers(self) -> dict[str, str]:
        """By kind, the ids of the trackers' runs that this run is written to."""
        return self._json("trackers.json") if self._has("trackers.json") else {}

    def note_trackers(self, ids: Mapping[str, str]) -> None:
        """Keep the ids of the trackers' runs."""
        self._write("trackers.json", ids)

    def metrics(self) -> list[dict[str, Any]]:
        """The rows of metrics.jsonl; a torn last line is left out. Raises UserError for damage before it."""
        return list(self._rows("metrics.jsonl"))

    def completions(self) -> Iterator[dict[str, Any]]:
        """The rows of completions.jsonl, read as they are asked for; otherwise as `metrics`."""
        return self._rows("completions.jsonl")

    def harvest(self) -> Iterator[dict[str, Any]]:
        """The rows of harvest.jsonl: completions kept for an SFT stage."""
        return self._rows("harvest.jsonl")

    def groups(self) -> jsonl.Rows:
        """The rows of groups.jsonl by number, read as they are asked for."""
        return jsonl.Rows(self.path / "groups.jsonl")

    def summary(self) -> dict[str, Any] | None:
        """The content of summary.json, or None for a run that has not written it."""
        return self._json("summary.json") if self._has("summary.json") else None

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
        for name in ROWS:
            self._keep(name, lambda row: row["step"] <= step)
        self._forget_summary()

    def position(self) -> dict[str, int]:
        """Bytes in each row file now, for `rollback`."""
        return {name: path.stat().st_size if (path := self.path / name).exists() else 0 for name in ROWS}

    def rollback(self, position: Mapping[str, int]) -> None:
        """Forget what was written after `position` was taken, and the summary of it all."""
        now = self.position()
        for name in ROWS:
            with self._writing(name) as path:
                if position.get(name, 0) < now[name]:  # never longer: a crash of the machine may have lost the end
                    os.truncate(path, position.get(name, 0))
        self._forget_summary()

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Write summary.json."""
        self._write("summary.json", summary)

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
            groups=self.groups(),
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
        self._take(mkdir)
        with self._closed_on_error():
            self._mend()
        return self

    def _note_environment(self) -> None:
        recorded, now = self.environment(), environment()
        last = [recorded, *recorded.get("resumed", [])][-1]
        if now != {key: last.get(key) for key in now}:
            with self._closed_on_error():
                self._write("environment.json", {**recorded, "resumed": [*recorded.get("resumed", []), now]})

    def _make_room(self, force: bool) -> None:
        held = [name for name in CONTENTS if self._has(name)]
        if held and not force:
            raise UserError(f"{self.path} already holds a run ({held[0]}): use --resume, or give another run.dir")
        for name in held:
            _delete(self.path / name)

    def _check_same(self, recipe_text: str, fingerprint: str) -> None:
        if (changed := self.changed(recipe_text, fingerprint)) is not None:
            advice = "give the run's own recipe, or another run.dir"
            raise UserError(f"cannot resume {self.path} with another recipe: {changed}; {advice}")

    def _forget_summary(self) -> None:
        with self._writing("summary.json") as path:
            path.unlink(missing_ok=True)


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()
