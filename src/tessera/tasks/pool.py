"""Checks in processes that can be killed: one that hangs, crashes or eats memory costs its limit and no more."""

from __future__ import annotations

import atexit
import json
import os
import select
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tessera.tasks.pool_worker import OUT_OF_MEMORY

GIGABYTE = 2**30
START_LIMIT = 120.0


def readable(descriptor: int, seconds: float) -> bool:
    """Wait until there is something to read, or an end; False when there is not within `seconds`.

    Unlike `select` for any descriptor: a program with many files and connections open is soon beyond the 1024th.
    """
    waiting = select.poll()
    waiting.register(descriptor, select.POLLIN)
    return bool(waiting.poll(1000 * seconds))


class CheckFailed(Exception):
    """A check that gave no result: it took too long, or its process ended. `reason` is timeout, memory or crash."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class CheckPool:
    """Up to `size` processes, started when first needed, each with `memory` bytes of address space.

    `function` is `module:function`; its arguments and its result go through JSON. Safe to call from several threads;
    after a fork, the child starts processes of its own.
    """

    def __init__(self, function: str, *, size: int | None = None, memory: int = 2 * GIGABYTE) -> None:
        self.function = function
        self.memory = memory
        self.size = size or os.cpu_count() or 1
        self.failures: Counter[str] = Counter()
        self._forget()
        os.register_at_fork(after_in_child=self._forget)
        atexit.register(self.close)

    def _forget(self) -> None:
        self._idle: list[_Worker] = []
        self._lock = threading.Lock()
        self._places = threading.Semaphore(self.size)

    def run(self, *arguments: Any, limit: float, patience: float | None = None) -> Any:
        """What the function returns for `arguments`; raises CheckFailed, within `limit` seconds of its beginning.

        With `patience` no process that is free within so many seconds is a timeout too.
        """
        with self._place(patience):
            worker = self._take()
            try:
                reply = worker.ask(arguments, limit)
            except CheckFailed as failure:
                self.failures[failure.reason] += 1
                worker.kill()
                self._give(_Worker(self.function, self.memory))  # it starts while the run goes on
                raise
            except BaseException:
                worker.kill()  # interrupted between question and reply
                raise
            self._give(worker)
            return reply

    @contextmanager
    def _place(self, patience: float | None) -> Iterator[None]:
        places = self._places
        if not places.acquire(timeout=patience):
            self.failures["timeout"] += 1
            raise CheckFailed("timeout")
        try:
            yield
        finally:
            places.release()

    def close(self) -> None:
        """Kill all idle processes. The pool may be used again."""
        with self._lock:
            workers, self._idle = self._idle, []
        for worker in workers:
            worker.kill()

    def _take(self) -> _Worker:
        with self._lock:
            worker = self._idle.pop() if self._idle else None
        if worker is None or not worker.alive():
            worker = _Worker(self.function, self.memory)
        worker.wait_until_ready()
        return worker

    def _give(self, worker: _Worker) -> None:
        with self._lock:
            self._idle.append(worker)


class _Worker:
    """One process, with pipes to and from it. Its own session: Ctrl-C in the terminal is the run's, not its."""

    def __init__(self, function: str, memory: int) -> None:
        package = str(Path(__file__).parents[2])
        path = os.pathsep.join(part for part in (package, *sys.path) if part)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tessera.tasks.pool_worker", function, str(memory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": path},
            start_new_session=True,
        )
        self.ready = False
        self.unread = b""

    def alive(self) -> bool:
        return self.process.poll() is None

    def wait_until_ready(self) -> None:
        if not self.ready:
            try:
                self._reply(START_LIMIT)
            except CheckFailed as failure:
                self.kill()
                raise RuntimeError(f"the process that checks answers did not start ({failure.reason})") from None
            self.ready = True

    def ask(self, arguments: Any, limit: float) -> Any:
        line = json.dumps([limit, arguments]).encode() + b"\n"
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(line)
            self.process.stdin.flush()
        except OSError:
            raise CheckFailed(self._ended()) from None
        return self._reply(limit)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except OSError:  # what was still to be written is for nobody
                    continue

    def _reply(self, limit: float) -> Any:
        assert self.process.stdout is not None
        descriptor, until = self.process.stdout.fileno(), time.monotonic() + limit
        while b"\n" not in self.unread:
            left = until - time.monotonic()
            if left <= 0 or not readable(descriptor, left):
                raise CheckFailed("timeout")
            read = os.read(descriptor, 65536)
            if not read:
                raise CheckFailed(self._ended())
            self.unread += read
        line, _, self.unread = self.unread.partition(b"\n")
        return json.loads(line)

    def _ended(self) -> str:
        return "memory" if self.process.wait() == OUT_OF_MEMORY else "crash"
