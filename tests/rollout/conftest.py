from __future__ import annotations

from pathlib import Path

import pytest

from tessera.policy.adapters import save_adapter
from tiny import tiny_policy


@pytest.fixture(scope="session")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a fresh adapter of the tiny model, of rank 4."""
    folder = tmp_path_factory.mktemp("adapter") / "fresh"
    save_adapter(tiny_policy().model, folder)  # type: ignore[arg-type]
    return folder
