"""Shared fixtures, and which tests a run leaves out: `slow` without --slow, `gpu` without a CUDA device."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import pytest
import torch

for folder in (Path(__file__).parent, Path(__file__).parents[1] / "benchmarks"):
    sys.path.insert(0, str(folder))  # for `from tiny import tiny_policy`, `from peak import peak`

from tiny import save_tiny  # noqa: E402

# trackio reads where it writes when it is imported, and TRL imports it.
_TRACKIO = tempfile.TemporaryDirectory(prefix="trackio-", ignore_cleanup_errors=True)
os.environ["TRACKIO_DIR"] = _TRACKIO.name

# Tiny models spend their time in Python; more threads only slow them down, and sums keep one order.
torch.set_num_threads(1)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="also run the tests marked slow")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    slow = pytest.mark.skip(reason="slow: run with --slow")
    gpu = pytest.mark.skip(reason="needs a CUDA device")
    for item in items:
        if item.get_closest_marker("slow") and not config.getoption("--slow"):
            item.add_marker(slow)
        if item.get_closest_marker("gpu") and not torch.cuda.is_available():
            item.add_marker(gpu)


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A local model folder with the tiny model of seed 0. Tests read it; one that writes makes its own."""
    return save_tiny(tmp_path_factory.mktemp("tiny") / "model")
