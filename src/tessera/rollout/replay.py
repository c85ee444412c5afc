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
    """A graded completion: its problem's id, all its tokens after the problem's own prompt, and if it is a success."""

    problem_id: str
    ids: tuple[int, ...]
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
                    self._entries.append(Remembered(group.problem.id, prefix + rollout.ids, solved))

    def draw(self, outcome: Outcome, problems: Mapping[str, Problem], generator: Generator) -> Start | None:
        """A start inside a random completion of that outcome, or None when there is none.

        The cut is uniform over the completion's tokens: after none of them up to all but the last. A cut after the
        last one leaves nothing to generate; leaving it out is the paper's uniform draw with such draws repeated.
        """
        wanted = [e for e in self._entries if e.solved == (outcome == "success") and e.ids]
        if not wanted:
            return None
        entry = wanted[int(torch.randint(len(wanted), (), generator=generator))]
        cut = int(torch.randint(len(entry.ids), (), generator=generator))
        return Start(problems[entry.problem_id], entry.ids[:cut])

    def clear(self) -> None:
        """Forget everything."""
        self._entries.clear()

    def state(self) -> list[dict[str, Any]]:
        """Everything remembered, as plain data for a checkpoint."""
        return [entry._asdict() for entry in self._entries]

    def restore(self, state: Iterable[Mapping[str, Any]]) -> None:
        """Take over what `state` returned."""
        self._entries.clear()
        self._entries.extend(Remembered(e["problem_id"], tuple(e["ids"]), e["solved"]) for e in state)
