"""Passages in a file that is mapped, not read: a corpus takes no memory but what was looked at."""

from __future__ import annotations

import json
import mmap
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from tessera.core.errors import UserError
from tessera.tasks.data import Row

Progress = Callable[[int, int], None]
"""Called with how many are done, of how many."""


@dataclass(frozen=True)
class Passage:
    """A passage of a corpus."""

    id: str
    title: str
    text: str


class Hit(NamedTuple):
    """A passage that was found, and how well it fits (larger is better; scores of two retrievers do not compare)."""

    passage: Passage
    score: float


class Retriever(Protocol):
    """Finds passages. May be asked from several threads at once."""

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        """At most `k` passages for each query, the best first; none where nothing fits."""
        ...


def passage_of(row: Row) -> Passage:
    """The passage in a row of `id`, `text` and, if there is one, `title`."""
    text = row.column("text")
    if not isinstance(text, str) or not text.strip():
        raise UserError(f"{row.where}: text = {text!r:.60} must be a text")
    return Passage(str(row.column("id")), str(row.values.get("title") or ""), text)


def read_passages(rows: Iterable[Row]) -> list[Passage]:
    """The passages of a corpus; UserError for one that occurs twice."""
    passages = [passage_of(row) for row in rows]
    seen: set[str] = set()
    for passage in passages:
        if passage.id in seen:
            raise UserError(f"passage {passage.id!r} occurs more than once in the corpus")
        seen.add(passage.id)
    return passages


class PassageFile(Sequence[Passage]):
    """The passages of an index, by position."""

    TEXT, STARTS = "passages.jsonl", "passages.npy"

    def __init__(self, folder: Path) -> None:
        self.starts: np.ndarray = np.load(folder / self.STARTS, mmap_mode="r")
        with (folder / self.TEXT).open("rb") as file:
            self.data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    @classmethod
    def write(cls, folder: Path, passages: Sequence[Passage]) -> None:
        """Write the passages into `folder`."""
        starts = np.zeros(len(passages) + 1, dtype=np.int64)
        with (folder / cls.TEXT).open("wb") as file:
            for i, passage in enumerate(passages):
                file.write(json.dumps(asdict(passage), ensure_ascii=False).encode("utf-8", "replace") + b"\n")
                starts[i + 1] = file.tell()
        np.save(folder / cls.STARTS, starts)

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, position):  # type: ignore[no-untyped-def, override]
        """The passage at a position."""
        start, end = int(self.starts[position]), int(self.starts[position + 1])
        return Passage(**json.loads(self.data[start:end]))
