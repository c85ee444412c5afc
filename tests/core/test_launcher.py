"""Where a launcher put this process."""

from __future__ import annotations

import pytest

from processes import environment
from tessera.core.launcher import Place, lacks_others, place


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


def test_accelerate_that_starts_one_process_of_several_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """What `accelerate launch --cpu --num_processes 2` sets; with --multi_gpu it sets RANK and the others too."""
    assert not lacks_others()
    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", "NO")
    assert not lacks_others()  # --num_processes 1
    monkeypatch.setenv("MASTER_PORT", "29500")
    assert lacks_others()
    monkeypatch.setenv("RANK", "0")
    assert not lacks_others()
