"""Stopping on request: Ctrl-C or SIGTERM ends a run where nothing is half done, and all its processes there."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, TypeVar

from tessera.core.errors import TesseraError
from tessera.training.ranks import Ranks

T = TypeVar("T")

SIGNALS = (signal.SIGINT, signal.SIGTERM)
ECHO = 2.0  # seconds


class Interrupted(KeyboardInterrupt):
    """Raised where a run can stop and be saved.

    No `Exception`, so that a reward which catches those, or the boundary around it, cannot take it for its own.
    """


class Interrupt:
    """Remembers a request to stop. While `immediate`, the request is obeyed at once; else at the next `check`.

    A second request stops the program as if there were no handler. Of several processes any may be asked; `check`,
    `immediate` and `share` are called by all of them, and all stop at the same one. Many batch systems ask processes
    and launcher alike, and the launcher passes it on: what comes to one of several within `ECHO` is the same request.
    """

    def __init__(self, ranks: Ranks | None = None) -> None:
        self.ranks = ranks or Ranks()
        self.requested = False
        self._since = 0.0  # when it was requested
        self._immediate = False

    def check(self) -> None:
        """Raise Interrupted when a stop was requested."""
        if self.ranks.any(self.requested):
            raise Interrupted

    @contextmanager
    def immediate(self) -> Iterator[None]:
        """For work that changes no state, such as sampling: stop in the middle of it, or at its end at the latest.

        Where several processes have to meet in the middle, only what they `share` is stopped at once.
        """
        self.check()
        self._immediate = self.ranks.size == 1
        try:
            yield
        finally:
            self._immediate = False
        self.check()  # a request can be lost in the middle: a user's code may catch whatever is raised

    def between(self, parts: Iterable[T], abreast: bool = False) -> Iterator[T]:
        """The parts of work that may be dropped in its middle; Interrupted after the last one that was begun.

        Processes may have different numbers of parts, and meet at the end; `abreast` they have as many, and stop at
        the same one.
        """
        for part in parts:
            if self.ranks.any(self.requested) if abreast else self.requested:
                break
            yield part
        self.check()

    def share(self, work: Callable[[], T]) -> list[T]:
        """What `work` returns in each process, by rank. It changes no state and waits for no other process.

        It is stopped at once in a process that is asked to stop, and all processes stop when one was, or when the
        work of one raised an error of ours.
        """
        done, error = self._at_once(work)
        told = self.ranks.gather((self.requested, error, done))
        for _, raised, _ in told:
            if raised is not None:
                raise raised
        if any(requested for requested, _, _ in told):
            raise Interrupted
        return [part for _, _, parts in told for part in parts]

    def _at_once(self, work: Callable[[], T]) -> tuple[list[T], TesseraError | None]:
        """What `work` returned, or the error of ours that it raised; neither where it was stopped."""
        done: list[T] = []
        error: TesseraError | None = None
        try:
            self._immediate = True
            try:
                done.append(work())
            except TesseraError as raised:
                error = raised
            self._immediate = False  # in here, because a request may come at any instruction
        except Interrupted:
            pass
        finally:
            self._immediate = False
        return done, error

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
            if self.ranks.size > 1 and time.monotonic() < self._since + ECHO:
                return
            raise KeyboardInterrupt
        self.requested, self._since = True, time.monotonic()
        if self._immediate:
            raise Interrupted
