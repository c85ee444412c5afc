"""Where a launcher put this process."""

from __future__ import annotations

import pytest

from processes import environment
from tessera.core.launcher import Place, place


def test_without_a_launcher_a_process_is_alone() -> None:
    assert place() == Place(rank=0, size=1, local=0)


def test_a_launcher_says_which_process_this_is(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {**environment(5, 16, 29500), "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    assert place() == Place(rank=5, size=16, local=1)


def test_a_lone_variable_is_no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    """Schedulers set WORLD_SIZE for reasons of their own; without an address nobody could be met."""
    monkeypatch.setenv("WORLD_SIZE", "8")
    assert place() == Place()
