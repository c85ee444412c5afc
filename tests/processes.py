"""Several processes of a test: forks of this one, joined by gloo as torchrun would join them."""

from __future__ import annotations

import os
import pickle
import socket
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any


def environment(rank: int, size: int, port: int) -> dict[str, str]:
    """What a launcher sets for process `rank` of `size`."""
    told = {"RANK": rank, "WORLD_SIZE": size, "LOCAL_RANK": rank, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return {name: str(value) for name, value in told.items()}


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def together(work: Callable[[int], Any], size: int = 2) -> list[Any]:
    """What `work(rank)` returns in each of `size` forks of this process, None of one that was killed; an exception
    there is one here."""
    port, folder = free_port(), Path(tempfile.mkdtemp())
    started = [_fork(work, rank, size, port, folder / str(rank)) for rank in range(size)]
    for process in started:
        os.waitpid(process, 0)
    outcomes = [_answer(folder / str(rank)) for rank in range(size)]
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            raise outcome
    return outcomes


def _answer(path: Path) -> Any:
    return pickle.loads(path.read_bytes()) if path.exists() else None


def _fork(work: Callable[[int], Any], rank: int, size: int, port: int, answer: Path) -> int:
    process = os.fork()
    if process:
        return process
    try:
        os.environ.update(environment(rank, size, port))
        try:
            outcome = work(rank)
        except BaseException as error:  # noqa: BLE001 - handed to the test
            sys.excepthook(*sys.exc_info())
            outcome = error
        answer.write_bytes(pickle.dumps(outcome))
    finally:
        os._exit(0)
