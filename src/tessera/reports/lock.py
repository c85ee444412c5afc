"""One writer a run folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO

from tessera.core.errors import UserError

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]


class FolderLock:
    """An exclusive lock on `folder`, taken by the constructor and held until `release`.

    The file `.lock` names the process that holds it. Where the system has flock the lock ends with its process,
    however that dies. Elsewhere the existence of the file is the lock, and a crash leaves it to be deleted by hand.
    Raises UserError when another process, or another RunFolder of this one, holds the lock.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / ".lock"
        self._file: BinaryIO | None = self._flock() if fcntl else self._create()
        self._file.truncate(0)
        self._file.write(str(os.getpid()).encode())
        self._file.flush()

    def release(self) -> None:
        """Give the folder free; a second call does nothing."""
        if self._file is None:
            return
        if fcntl:
            fcntl.flock(self._file, fcntl.LOCK_UN)  # closing is not enough: a forked worker may hold the file too
        else:
            self.path.unlink(missing_ok=True)
        self._file.close()
        self._file = None

    def _flock(self) -> BinaryIO:
        file = self.path.open("a+b")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.close()
            if isinstance(error, BlockingIOError):
                raise self._in_use() from None
            raise
        return file

    def _create(self) -> BinaryIO:
        try:
            return self.path.open("xb")
        except FileExistsError:
            raise self._in_use(f"; if no such process runs any more, delete {self.path}") from None

    def _in_use(self, advice: str = "") -> UserError:
        holder = self.path.read_text().strip() or "unknown"
        return UserError(f"run folder {self.path.parent} is in use by process {holder}{advice}")
