"""The order in which problems are met. Where a sampler stands is data, and saved."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Any, Protocol

import torch

from tessera.core.errors import UserError
from tessera.core.seeding import generator


class Sampler(Protocol):
    """Draws the indices of problems, without end."""

    def next(self, step: int) -> int:
        """The next index, for step `step` of the stage, counted from 1."""

    def take(self, count: int, step: int = 1) -> list[int]:
        """The next `count` indices."""
        return [self.next(step) for _ in range(count)]

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over what `state` returned; UserError where it belongs to other data."""


class ProblemSampler(Sampler):
    """Each of `indices` once an epoch, in a fresh seeded permutation.

    With `rank` an epoch goes from low to high rank, and the permutation decides among equals. What `admits` turns down
    at the step is passed over for this epoch; it must admit something at every step.
    """

    def __init__(
        self,
        indices: Sequence[int],
        seed: int,
        *,
        rank: Callable[[int], float] | None = None,
        admits: Callable[[int, int], bool] | None = None,
    ) -> None:
        self.indices = indices
        self.seed = seed
        self.epoch = 0
        self.position = 0
        self._rank, self._admits = rank, admits
        self._order = self._of_epoch()

    def next(self, step: int) -> int:
        """The next index that is admitted; an epoch may end before it."""
        while True:
            if self.position == len(self.indices):
                self.epoch, self.position = self.epoch + 1, 0
                self._order = self._of_epoch()
            index = self._order[self.position]
            self.position += 1
            if self._admits is None or self._admits(index, step):
                return index

    def state(self) -> dict[str, Any]:
        """The epoch, and the place in it."""
        return {"n": len(self.indices), "epoch": self.epoch, "position": self.position}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over what `state` returned; the number of problems must be the same."""
        if state["n"] != len(self.indices):
            raise UserError(f"the checkpoint was made with {state['n']} problems, the task now has {len(self.indices)}")
        self.epoch, self.position = state["epoch"], state["position"]
        self._order = self._of_epoch()

    def _of_epoch(self) -> list[int]:
        permutation = torch.randperm(len(self.indices), generator=generator(self.seed, "order", self.epoch))
        order = [self.indices[i] for i in permutation.tolist()]
        return order if self._rank is None else sorted(order, key=self._rank)


class WeightedSampler(Sampler):
    """Draws from several samplers by weight, as evenly as can be, and without chance.

    After any number of draws, the count of each of k samplers is within 1 - 1 / (2k - 2) of its share: the rule of
    Tijdeman (The chairman assignment problem, Discrete Mathematics 32, 1980) takes, of those that are behind by
    1 / (2k - 2) at least, the one that would be too far behind first.
    """

    def __init__(self, samplers: Mapping[str, Sampler], weights: Mapping[str, float]) -> None:
        exact = {name: Fraction(str(weights[name])) for name in samplers}
        self.samplers = samplers
        self.shares = {name: weight / sum(exact.values()) for name, weight in exact.items()}
        self.drawn = dict.fromkeys(samplers, 0)

    def next(self, step: int) -> int:
        """The next index of the sampler whose turn it is."""
        name = self._turn()
        self.drawn[name] += 1
        return self.samplers[name].next(step)

    def state(self) -> dict[str, Any]:
        """How often each sampler was drawn from, and where it stands."""
        return {"drawn": dict(self.drawn), "samplers": {name: s.state() for name, s in self.samplers.items()}}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over what `state` returned; the names must be the same."""
        if set(state["drawn"]) != set(self.drawn):
            was, now = (", ".join(sorted(names)) for names in (state["drawn"], self.drawn))
            raise UserError(f"the checkpoint was made with problems of {was}; now there are {now}")
        self.drawn = {name: state["drawn"][name] for name in self.samplers}
        for name, sampler in self.samplers.items():
            sampler.restore(state["samplers"][name])

    def _turn(self) -> str:
        least = Fraction(1, max(1, 2 * len(self.drawn) - 2))
        at = sum(self.drawn.values()) + 1
        behind = {name: share * at - self.drawn[name] for name, share in self.shares.items()}
        late = {name: (1 - least - gap) / self.shares[name] for name, gap in behind.items() if gap >= least}
        return min(late, key=late.__getitem__)
