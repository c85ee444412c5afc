"""Stopping on request: Ctrl-C or SIGTERM ends a run where nothing is half done."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(KeyboardInterrupt):
    """Raised where a run can stop and be saved.

    No `Exception`, so that a reward which catches those, or the boundary around it, cannot take it for its own.
    """


class Interrupt:
    """Remembers a request to stop. While `immediate`, the request is obeyed at once; else at the next `check`.

    A second request stops the program as if there were no handler.
    """

    def __init__(self) -> None:
        self.requested = False
        self._immediate = False

    def check(self) -> None:
        """Raise Interrupted when a stop was requested."""
        if self.requested:
            raise Interrupted

    @contextmanager
    def immediate(self) -> Iterator[None]:
        """For work that changes no state, such as sampling: stop in the middle of it, or at its end at the latest."""
        self.check()
        self._immediate = True
        try:
            yield
        finally:
            self._immediate = False
        self.check()  # a request can be lost in the middle: a user's code may catch whatever is raised

    @contextmanager
    def handling(self) -> Iterator[None]:
        """Handle the signals; only the main thread can, elsewhere nothing changes."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._handle) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> Any:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
        if self._immediate:
            raise Interrupted
