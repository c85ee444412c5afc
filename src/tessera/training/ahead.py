"""Rollouts of a step as data, and a thread in which they are sampled while the step before it updates."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from tessera.core.types import Group, Problem
from tessera.rollout.stored import from_plain, to_plain


@dataclass(frozen=True)
class Sampled:
    """The rollouts of a step, in the rounds in which they were sampled.

    `step` is the step, of the stage, at whose beginning the weights were that sampled. `seconds` went into them;
    `waited` is what the step that they are for saw of these, None when it sampled them itself.
    """

    rounds: tuple[list[Group], ...]
    step: int
    seconds: Mapping[str, float] = field(default_factory=dict)
    waited: float | None = None

    @property
    def groups(self) -> list[Group]:
        """All groups."""
        return [group for groups in self.rounds for group in groups]

    @property
    def times(self) -> dict[str, float]:
        """Seconds of the step by what they were spent on; `ahead` are those of the step before."""
        if self.waited is None:
            return dict(self.seconds)
        return {"rollout": self.waited, "reward": 0.0, "ahead": sum(self.seconds.values())}

    def to_plain(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"rounds": [to_plain(groups) for groups in self.rounds], "step": self.step, "seconds": self.seconds}

    @classmethod
    def from_plain(cls, data: Mapping[str, Any], problems: Mapping[str, Problem]) -> Sampled:
        """Take over what `to_plain` returned."""
        return cls(tuple(from_plain(groups, problems) for groups in data["rounds"]), data["step"], data["seconds"])


class Ahead:
    """At most one piece of sampling, under way or done. What it raises is raised by `take` alone."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, "tessera-ahead")
        self._next: Future[Sampled] | None = None

    @property
    def begun(self) -> bool:
        """Whether there is something to take."""
        return self._next is not None

    def begin(self, sample: Callable[[], Sampled]) -> None:
        """Call `sample` beside what follows."""
        self._next = self._pool.submit(sample)

    def put(self, sampled: Sampled | None) -> None:
        """Have this taken next, or nothing. Waits for what was begun, which uses the engine until then."""
        self.wait()
        self._next = None
        if sampled is not None:
            self._next = Future()
            self._next.set_result(sampled)

    def take(self) -> Sampled | None:
        """What was begun last, once it is done; None where nothing was."""
        begun, self._next = self._next, None
        return None if begun is None else begun.result()

    def wait(self) -> Sampled | None:
        """What `take` will return, once it is done; None also where it will raise."""
        return None if self._next is None or self._next.exception() is not None else self._next.result()
