"""Does every row of a folder of public data grade as it should? A line a file; faults of the data are told apart."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from tessera.core.errors import UserError
from tessera.tasks.registry import load_split
from tessera.tasks.validate import HOSTILE_SIZE, SECONDS_LIMIT, hostile_checks, row_checks

READ_BY: Mapping[str, str] = {
    "aime24": "math",
    "amc": "math",
    "countdown": "countdown",
    "deepscaler": "math",
    "gsm8k": "gsm8k",
    "knights_knaves": "knights_knaves",
    "math": "math",
    "math500": "math",
    "minerva": "math",
    "olympiadbench": "math",
    "svamp": "svamp",
}
"""The folders that are known, and the task that reads the files in each."""

KNOWN: Mapping[str, str] = {
    "deepscaler-15580": "its answer lacks the closing brace of the last fraction",
    "deepscaler-27919": "its answer lacks the closing brace of the last fraction",
}
"""Rows that cannot pass, by id, with the reason: faults of the data, not of a reward."""


class FileReport(NamedTuple):
    """What validation found in one file; `str(report)` is a line, and one more for each fault."""

    file: str
    task: str
    rows: int
    faults: tuple[str, ...]
    known: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing failed but known rows."""
        return not self.faults

    def __str__(self) -> str:
        told = f"{self.rows} rows, {len(self.faults)} faults, {len(self.known)} known rows that cannot pass"
        lines = [f"{'ok  ' if self.ok else 'FAIL'}  {self.file}: {self.task}, {told}"]
        return "\n".join([*lines, *(f"      {line}" for line in (*self.faults, *self.known))])


def validate_data(
    folder: Path, rows: int | None = None, *, seconds: float = SECONDS_LIMIT, size: int = HOSTILE_SIZE
) -> Iterator[FileReport]:
    """Validate each file `NAME/*.jsonl` or `.jsonl.gz` of `folder` whose NAME is in `READ_BY`.

    Of every row (of the first `rows`) the gold answer must earn full marks; a corrupted one, an empty text and two
    `<answer>` tags must not. Hostile texts of up to `size` characters are tried on the first row of a file. UserError
    where `folder` holds no such file, or a file cannot be read.
    """
    if rows is not None and rows < 1:
        raise UserError(f"rows = {rows} must be at least 1 of each file")
    files = [
        (path, task)
        for name, task in READ_BY.items()
        for path in sorted((folder / name).glob("*"))
        if path.name.endswith((".jsonl", ".jsonl.gz"))
    ]
    if not files:
        raise UserError(f"{folder} holds no NAME/*.jsonl or .jsonl.gz with NAME one of {', '.join(READ_BY)}")
    return (_validated(folder, path, task, rows, seconds, size) for path, task in files)


def _validated(folder: Path, path: Path, name: str, rows: int | None, seconds: float, size: int) -> FileReport:
    task, problems = load_split({"name": name, "test": str(path)}, "test")
    faults: list[str] = []
    known: list[str] = []
    for problem in problems[:rows]:
        failed = [f"{check.name}: {check.detail}" for check in row_checks(task, problem, seconds) if check.ok is False]
        if failed and problem.id in KNOWN:
            known.append(f"{problem.id}: {KNOWN[problem.id]}")
        else:
            faults += failed
    faults += [
        f"{check.name}: {check.detail}"
        for check in hostile_checks(task, problems[0], seconds, size)
        if check.ok is False
    ]
    count = len(problems[:rows])
    return FileReport(str(path.relative_to(folder)), name, count, tuple(faults), tuple(known))
