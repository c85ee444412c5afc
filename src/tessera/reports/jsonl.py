"""Files of one strict JSON object a line, which survive a writer that died in the middle of a line."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from tessera.core.errors import UserError
from tessera.reports.files import atomic_write


def dumps(value: Any, indent: int | None = None, compact: bool = False) -> str:
    """`value` as strict JSON in ASCII: NaN and infinities, which JSON does not have, become null."""
    return json.dumps(_strict(value), allow_nan=False, indent=indent, separators=(",", ":") if compact else None)


def append(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Add `rows` to the end of `path` and flush. On an OSError the file is cut back to where it was."""
    data = "".join(dumps(row) + "\n" for row in rows).encode()
    with path.open("ab", buffering=0) as file:
        start = file.seek(0, os.SEEK_END)
        try:
            _write_all(file.write, data)
        except OSError:
            file.truncate(start)
            raise


def read(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of `path`, in order; none where there is no file. A torn last line is left out.

    Raises UserError naming file and line for a damaged line before the last.
    """
    for _, row in _lines(path):
        yield row


class Rows:
    """The rows of `path` by number, each read when it is asked for: only where lines begin is held.

    As many as there are now; otherwise as `read`, but that damage is met in the rows that are asked for alone.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._starts = list(_starts(path))
        if self._starts and _parse(self._line(-1)) is None:
            self._starts.pop()

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, number: int) -> dict[str, Any]:
        row = _parse(self._line(number))
        if row is None:
            raise _damaged(self.path, number + 1)
        return row

    def _line(self, number: int) -> bytes:
        with self.path.open("rb") as file:
            file.seek(self._starts[number])
            return file.readline()


def keep(path: Path, wanted: Callable[[dict[str, Any]], bool]) -> None:
    """Rewrite `path` atomically to its `wanted` rows, byte for byte; a torn last line goes too."""
    if path.exists():
        atomic_write(path, b"".join(line.rstrip(b"\r\n") + b"\n" for line, row in _lines(path) if wanted(row)))


def mend(path: Path) -> None:
    """Remove a line that its writer did not finish, so that the next row starts on a line of its own."""
    if path.exists() and _unfinished(path):
        keep(path, lambda row: True)


def _lines(path: Path) -> Iterator[tuple[bytes, dict[str, Any]]]:
    if not path.exists():
        return
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            row = _parse(line)
            if row is not None:
                yield line, row
            elif file.read(1):
                raise _damaged(path, number)


def _starts(path: Path) -> Iterator[int]:
    start = 0
    if path.exists():
        with path.open("rb") as file:
            for line in file:
                yield start
                start += len(line)


def _damaged(path: Path, number: int) -> UserError:
    return UserError(f"{path}: line {number} is not a JSON object; the file is damaged, remove that line")


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) else None


def _unfinished(path: Path) -> bool:
    with path.open("rb") as file:
        if not file.seek(0, os.SEEK_END):
            return False
        file.seek(-1, os.SEEK_END)
        return file.read(1) != b"\n"


def _write_all(write: Callable[[bytes], int | None], data: bytes) -> None:
    """A raw write may take only a part: on a disk that fills up, the part that still fits."""
    view = memoryview(data)
    while view:
        view = view[write(bytes(view)) or 0 :]


def _strict(value: Any) -> Any:
    """The same value in JSON's own types: numbers of any numeric library as int or float, non-finite ones as None."""
    if isinstance(value, Mapping):
        return {str(key): _strict(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(item) for item in value]
    if isinstance(value, Real) and not isinstance(value, bool):
        return _number(value)
    return value


def _number(value: Real) -> int | float | None:
    if isinstance(value, Integral):
        return int(value)
    number = float(value)
    return number if math.isfinite(number) else None
