"""Replay: restart generation from a random token of an earlier completion (arXiv:2504.20834, sec. 3.3)."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple

import torch
from torch import Generator

from tessera.core.types import Group, Problem
from tessera.rollout.collect import Start

Outcome = Literal["success", "failure"]


class Remembered(NamedTuple):
    """A graded completion: its problem's id, all its tokens after the problem's own prompt, which of them the policy
    wrote, and if it is a success."""

    problem_id: str
    ids: tuple[int, ...]
    sampled: tuple[bool, ...]
    solved: bool


class ReplayBuffer:
    """The newest `capacity` graded completions; a success is what `Rollout.solved(threshold)` says."""

    def __init__(self, capacity: int, threshold: float | None) -> None:
        self.threshold = threshold
        self._entries: deque[Remembered] = deque(maxlen=capacity)

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, groups: Iterable[Group], prompt_lengths: Mapping[str, int]) -> None:
        """Remember every rollout that has a reward. `prompt_lengths` are the tokens of each problem's own prompt."""
        for group in groups:
            prefix = group.prompt_ids[prompt_lengths[group.problem.id] :]
            for rollout in group.rollouts:
                if rollout.earned is not None:
                    solved = rollout.solved(self.threshold)
                    own = (group.prefix_sampled or (True,) * len(prefix)) + rollout.sampled
                    self._entries.append(Remembered(group.problem.id, prefix + rollout.ids, own, solved))

    def draw(self, outcome: Outcome, problems: Mapping[str, Problem], generator: Generator) -> Start | None:
        """A start inside a random completion of that outcome, or None when there is none.

        The cut is uniform over the tokens that the policy wrote: before the first of them up to before the last. A cut
        behind the last one leaves nothing to generate; leaving it out is the paper's uniform draw with such draws
        repeated.
        """
        wanted = [e for e in self._entries if e.solved == (outcome == "success") and any(e.sampled)]
        if not wanted:
            return None
        entry = wanted[int(torch.randint(len(wanted), (), generator=generator))]
        own = [t for t, sampled in enumerate(entry.sampled) if sampled]
        cut = own[int(torch.randint(len(own), (), generator=generator))]
        return Start(problems[entry.problem_id], entry.ids[:cut], entry.sampled[:cut])

    def clear(self) -> None:
        """Forget everything."""
        self._entries.clear()

    def state(self) -> list[dict[str, Any]]:
        """Everything remembered, as plain data for a checkpoint."""
        return [entry._asdict() for entry in self._entries]

    def restore(self, state: Iterable[Mapping[str, Any]]) -> None:
        """Take over what `state` returned."""
        self._entries.clear()
        for e in state:
            self._entries.append(Remembered(e["problem_id"], tuple(e["ids"]), tuple(e["sampled"]), e["solved"]))
