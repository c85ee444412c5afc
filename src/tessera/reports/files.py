"""Writing files so that a crash or a full disk leaves the old file or the new one, never half of one."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tessera.core.errors import RunStopped

AGAIN = "checkpoints are intact, resume with --resume"


def atomic_write(path: Path | str, data: bytes | str) -> None:
    """Replace the file `path` by `data` (text as UTF-8) in one step.

    The data goes to a temporary file in the same folder, is forced to disk, and is renamed. On any error the
    temporary file is removed, `path` is as it was, and the OSError is raised again.
    """
    path = Path(path)
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with aside.open("xb") as file:
            file.write(data.encode() if isinstance(data, str) else data)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)  # after the rename there is nothing left to remove
    _sync_folder(path.parent)


@contextmanager
def stops_run(path: Path, again: str = AGAIN) -> Iterator[None]:
    """Turn an OSError raised while writing `path` into the one line of a RunStopped, `again` its advice."""
    try:
        yield
    except OSError as error:
        raise RunStopped(f"could not write {path}: {reason(error)}; {again} once this is mended") from error


def reason(error: OSError) -> str:
    """What the system said, without errno and path."""
    return error.strerror or str(error) or type(error).__name__


def _sync_folder(folder: Path) -> None:
    """Force the rename itself to disk. Systems that cannot open a folder (Windows) do this on their own."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
