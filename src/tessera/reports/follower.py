"""The run folder as it is for all processes of a run but the first."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from tessera.reports.run import RunFolder


class Follower(RunFolder):
    """Takes what is logged and writes nothing: the first process does. Whether there is a folder is not looked at."""

    def __enter__(self) -> Follower:
        return self

    def position(self) -> dict[str, int]:
        """Nothing was written here."""
        return {}

    def rollback(self, position: Mapping[str, int]) -> None:
        """Nothing was written here."""

    def _append(self, name: str, rows: Iterable[Mapping[str, Any]]) -> None:
        pass
