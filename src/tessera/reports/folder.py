"""A folder that one process writes at a time: rows appended and flushed, other files replaced in one step."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Self

from tessera.core.errors import UserError
from tessera.reports import jsonl
from tessera.reports.files import atomic_write, reason, stops_run
from tessera.reports.lock import FolderLock


class Folder:
    """What the folders of runs and of evaluations share.

    Files are named as they lie in it. What writes raises RunStopped when the disk does not take it, and UserError
    where the lock is not held.
    """

    noun: ClassVar[str]  # what an error calls it, before its path
    again: ClassVar[str]  # what is to be done after a write that failed
    row_files: ClassVar[Sequence[str]]

    def __init__(self, path: Path | str) -> None:
        """Checks nothing and takes no lock."""
        self.path = Path(path)
        self._lock: FolderLock | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the lock. Reading still works."""
        if self._lock:
            self._lock.release()
            self._lock = None

    def _take(self, mkdir: bool = False) -> Self:
        """Take the lock."""
        try:
            if mkdir:
                self.path.mkdir(parents=True, exist_ok=True)
            self._lock = FolderLock(self.path)
        except OSError as error:
            raise UserError(f"cannot write in {self.noun}{self.path}: {reason(error)}") from error
        return self

    def _mend(self) -> None:
        """Remove lines that an earlier writer left unfinished."""
        for name in self.row_files:
            with self._writing(name) as path:
                jsonl.mend(path)

    def _has(self, name: str) -> bool:
        return (self.path / name).exists()

    def _rows(self, name: str) -> Iterator[dict[str, Any]]:
        return jsonl.read(self.path / name)

    def _json(self, name: str) -> dict[str, Any]:
        try:
            return dict(json.loads((self.path / name).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise UserError(f"{self.path / name} cannot be read as JSON: {error}") from error

    def _append(self, name: str, rows: Iterable[Mapping[str, Any]]) -> None:
        with self._writing(name) as path:
            jsonl.append(path, rows)

    def _keep(self, name: str, wanted: Callable[[dict[str, Any]], bool]) -> None:
        with self._writing(name) as path:
            jsonl.keep(path, wanted)

    def _write(self, name: str, content: Mapping[str, Any] | str) -> None:
        with self._writing(name) as path:
            atomic_write(path, content if isinstance(content, str) else jsonl.dumps(content, indent=2) + "\n")

    @contextmanager
    def _writing(self, name: str) -> Iterator[Path]:
        """The path of `name`, while it is written."""
        if not self._lock:
            raise UserError(f"{self.noun}{self.path} is open for reading: write inside `with`, which takes the lock")
        with stops_run(self.path / name, self.again):
            yield self.path / name

    @contextmanager
    def _closed_on_error(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self.close()
            raise
