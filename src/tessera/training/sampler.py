"""The order in which problems are met: every epoch a fresh seeded permutation; the position is data, and saved."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from tessera.core.errors import UserError
from tessera.core.seeding import generator


class ProblemSampler:
    """Indices in `0..n-1`, each once an epoch."""

    def __init__(self, n: int, seed: int) -> None:
        self.n = n
        self.seed = seed
        self.epoch = 0
        self.position = 0
        self._order = self._permutation()

    def take(self, count: int) -> list[int]:
        """The next `count` indices; an epoch's end may fall inside."""
        taken = []
        for _ in range(count):
            if self.position == self.n:
                self.epoch, self.position = self.epoch + 1, 0
                self._order = self._permutation()
            taken.append(self._order[self.position])
            self.position += 1
        return taken

    def state(self) -> dict[str, int]:
        """For a checkpoint."""
        return {"n": self.n, "epoch": self.epoch, "position": self.position}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over what `state` returned; the number of problems must be the same."""
        if state["n"] != self.n:
            raise UserError(f"the checkpoint was made with {state['n']} problems, the task now has {self.n}")
        self.epoch, self.position = state["epoch"], state["position"]
        self._order = self._permutation()

    def _permutation(self) -> list[int]:
        order: list[int] = torch.randperm(self.n, generator=generator(self.seed, "order", self.epoch)).tolist()
        return order
