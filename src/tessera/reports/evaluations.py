"""The folder of an evaluation: its settings, every completion as it comes, and the numbers in the end."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from tessera.core.errors import RunStopped, UserError
from tessera.reports import jsonl
from tessera.reports.difference import differences
from tessera.reports.files import atomic_write, reason
from tessera.reports.lock import FolderLock

SETTINGS, COMPLETIONS, RESULT, PAGE = CONTENTS = ("settings.json", "completions.jsonl", "result.json", "report.md")


class EvaluationFolder:
    """`settings.json`, `completions.jsonl`, `result.json` and `report.md` of one evaluation.

    `start` takes the folder's lock and keeps it until `close`; `read` takes none. What writes raises RunStopped when
    the disk does not take it.
    """

    def __init__(self, path: Path) -> None:
        """Use `start` or `read`: this checks nothing."""
        self.path = path
        self._lock: FolderLock | None = None

    @classmethod
    def check(cls, path: Path, settings: Mapping[str, Any], force: bool = False) -> EvaluationFolder:
        """The evaluation that `start` would go on with, to read; raises what it would, and writes nothing."""
        folder = cls(path)
        if path.exists() and not path.is_dir():
            raise UserError(f"{path} is a file: an evaluation is kept in a folder, give another --out")
        if (path / SETTINGS).exists():
            if not force:
                folder._check_same(_plain(settings))
        elif held := [name for name in CONTENTS if (path / name).exists()]:
            raise UserError(f"{path} holds something else ({held[0]}): give another --out")
        return folder

    @classmethod
    def start(cls, path: Path, settings: Mapping[str, Any], force: bool = False) -> EvaluationFolder:
        """Begin an evaluation in `path`, or go on with the one that is there and has the same `settings`.

        An evaluation with other settings is refused with a UserError that names the first keys that differ; with
        `force` whatever evaluation is there is deleted. So is a folder that holds something else, and not deleted.
        """
        folder = cls(path)
        try:
            path.mkdir(parents=True, exist_ok=True)
            folder._lock = FolderLock(path)
        except OSError as error:
            raise UserError(f"cannot write in {path}: {reason(error)}") from error
        try:
            cls.check(path, settings, force)
            folder._open(_plain(settings), force)
        except BaseException:
            folder.close()
            raise
        return folder

    @classmethod
    def read(cls, path: Path) -> EvaluationFolder:
        """An evaluation that is there, finished or not."""
        if not (path / SETTINGS).is_file():
            raise UserError(f"{path} is no folder of an evaluation: it has no {SETTINGS}")
        return cls(path)

    def __enter__(self) -> EvaluationFolder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Release the lock."""
        if self._lock:
            self._lock.release()
            self._lock = None

    def settings(self) -> dict[str, Any]:
        """What was asked, and how."""
        return self._json(SETTINGS)

    def result(self) -> dict[str, Any] | None:
        """The numbers; None before the end."""
        return self._json(RESULT) if (self.path / RESULT).exists() else None

    def rows(self) -> list[dict[str, Any]]:
        """Every completion; a torn last line is left out."""
        return list(jsonl.read(self.path / COMPLETIONS))

    def keep(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Append completions, and flush."""
        with self._writing(COMPLETIONS):
            jsonl.append(self.path / COMPLETIONS, rows)

    def drop(self, part: str, but: set[str]) -> None:
        """Forget the completions of `part` at questions other than `but`: those that a kill left half asked."""
        with self._writing(COMPLETIONS):
            jsonl.keep(self.path / COMPLETIONS, lambda row: row["part"] != part or row["problem_id"] in but)

    def finish(self, result: Mapping[str, Any], page: str) -> None:
        """Write the numbers and the page about them."""
        for name, content in ((RESULT, jsonl.dumps(result, indent=2) + "\n"), (PAGE, page)):
            with self._writing(name):
                atomic_write(self.path / name, content)

    def _open(self, settings: dict[str, Any], force: bool) -> None:
        if force:
            for name in reversed(CONTENTS):  # the settings last: what has them is an evaluation
                (self.path / name).unlink(missing_ok=True)
        with self._writing(COMPLETIONS):
            jsonl.mend(self.path / COMPLETIONS)
        with self._writing(SETTINGS):
            atomic_write(self.path / SETTINGS, jsonl.dumps(settings, indent=2) + "\n")

    def _check_same(self, settings: dict[str, Any]) -> None:
        found = [line.replace(" in the run, ", " in the folder, ") for line in differences(self.settings(), settings)]
        if found:
            more = f"; and {len(found) - 3} more" if len(found) > 3 else ""
            raise UserError(
                f"{self.path} holds an evaluation with other settings: {'; '.join(found[:3])}{more}; give another "
                "--out, or delete that evaluation with --force"
            )

    def _json(self, name: str) -> dict[str, Any]:
        try:
            return dict(json.loads((self.path / name).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise UserError(f"{self.path / name} cannot be read: {error}") from error

    @contextmanager
    def _writing(self, name: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise RunStopped(
                f"could not write {self.path / name}: {reason(error)}; the same command goes on once this is mended"
            ) from error


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """As it will be read again."""
    return dict(json.loads(jsonl.dumps(settings)))
