"""Reading JSON Lines, whole or not at all. Whatever is wrong with a file is one line that says where."""

from __future__ import annotations

import gzip
import json
import os
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NoReturn

from pydantic import BeforeValidator, ValidationInfo

from tessera.core.errors import UserError


@dataclass(frozen=True)
class Row:
    """One row of data, and where it stands (`data/train.jsonl, line 7`), for errors."""

    where: str
    values: Mapping[str, Any]

    def column(self, name: str) -> Any:
        """The value in column `name`; a missing column is a UserError that names those present."""
        if name not in self.values:
            present = ", ".join(map(repr, self.values)) or "none"
            raise UserError(f"{self.where} has no column {name!r}; its columns are {present}")
        return self.values[name]


def locate(path: str, base_dir: Path | None = None) -> str:
    """`path` if it exists, else the one inside `base_dir`; if neither does, a UserError with the path as given."""
    expanded = Path(path).expanduser()
    if expanded.exists():
        return str(expanded)
    if base_dir is not None and (base_dir / expanded).exists():
        return str(base_dir / expanded)
    places = dict.fromkeys([str(Path.cwd()), *([] if base_dir is None else [str(base_dir)])])
    looked = "" if expanded.is_absolute() else f" (looked in {' and '.join(places)})"
    raise UserError(f"no such file: {path!r}{looked}")


def _locate_option(value: Any, info: ValidationInfo) -> Any:
    if not isinstance(value, str | os.PathLike):
        return value
    return locate(os.fspath(value), (info.context or {}).get("base_dir"))


DataPath = Annotated[str, BeforeValidator(_locate_option)]
"""An option that names an existing data file, absolute or relative to the working directory or the recipe's."""


def read_jsonl(path: str) -> list[Row]:
    """Every row of a JSON Lines file in UTF-8, gzipped if the name ends in `.gz`. Blank lines are passed over.

    Raises UserError if the file is missing, unreadable, empty or not UTF-8, or if any line is not a JSON object.
    """
    lines = _decoded(path, _content(path)).split("\n")
    rows = [Row(f"{path}, line {n}", _object(path, n, line)) for n, line in enumerate(lines, 1) if line.strip()]
    if not rows:
        raise UserError(f"{path} is empty; it must hold one JSON object a line")
    return rows


def _content(path: str) -> bytes:
    try:
        content = Path(path).read_bytes()
        return gzip.decompress(content) if path.endswith(".gz") else content
    except FileNotFoundError:
        raise UserError(f"no such file: {path!r}") from None
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UserError(f"{path} is not a whole gzip file: {error}") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from None


def _decoded(path: str, content: bytes) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}, line {line} is not UTF-8: {error.reason} {content[error.start]:#04x}") from None


def _object(path: str, number: int, line: str) -> dict[str, Any]:
    try:
        value = json.loads(line, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        reason = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
        raise UserError(f"{path}, line {number} is not JSON: {reason}") from None
    if not isinstance(value, dict):
        raise UserError(f"{path}, line {number} is a JSON {type(value).__name__}; each line must be an object")
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def hold_out(rows: Sequence[Row], size: int, source: str) -> tuple[Sequence[Row], Sequence[Row]]:
    """`rows` without its last `size` rows, and those; a UserError if that leaves nothing to train on."""
    if size < 0 or (size and size >= len(rows)):
        most = max(len(rows) - 1, 0)
        raise UserError(f"validation_size = {size} must be from 0 to {most}: {source} has {len(rows)} rows")
    cut = len(rows) - size
    return rows[:cut], rows[cut:]
