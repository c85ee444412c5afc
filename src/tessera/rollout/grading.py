"""Grading rows as they end, beside the sampling of the others; results in the order of the rows, however they end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from tessera.core.types import Completion, Rollout
from tessera.rollout.engine import Listed, Request, Sampling


class Grading:
    """Calls `grade(i, rollout)` for every row: when it ends, in one of `threads` threads, or with 0 at the end."""

    def __init__(self, grade: Callable[[int, Rollout], Rollout], threads: int) -> None:
        self._grade = grade
        self._pool = ThreadPoolExecutor(threads, "tessera-grade") if threads else None
        self._calls: dict[int, Callable[[], Rollout]] = {}

    def __enter__(self) -> Grading:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:  # where sampling was stopped, nobody waits for a slow reward
            self._pool.shutdown(wait=False, cancel_futures=True)

    def put(self, i: int, rollout: Rollout) -> None:
        """Row `i` has ended. May be called from any thread."""
        graded = partial(self._grade, i, rollout)
        self._calls[i] = graded if self._pool is None else self._pool.submit(graded).result

    def results(self, size: int) -> list[Rollout]:
        """The `size` graded rows, by number; waits for them."""
        return [self._calls[i]() for i in range(size)]


class Passing(Listed):
    """A feed of requests that are all known, which passes completions on: `ended(i, completion)` of the i-th."""

    def __init__(
        self, requests: Sequence[Request], sampling: Sampling, ended: Callable[[int, Completion], None]
    ) -> None:
        super().__init__(requests, sampling)
        self._ended = ended

    def put(self, request: Request, completion: Completion) -> None:
        """See Feed."""
        self._ended(request.key, completion)
