"""The one place where an exception becomes data: a reward that fails is an error of its rollout, not of the run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from tessera.core.types import Problem
from tessera.tasks.base import Task, read_reward


class Grade(NamedTuple):
    """What a text earned: `reward` is None and `error` says why in a line when the reward raised or was not finite."""

    reward: float | None
    components: Mapping[str, float]
    error: str | None


def grade(task: Task, problem: Problem, text: str) -> Grade:
    """Reward `text`, the assistant's whole turn, as an answer to `problem`."""
    try:
        reward, components = read_reward(task.reward(problem, text))
    except Exception as error:  # noqa: BLE001 - a user's code may raise anything
        return Grade(None, {}, f"{type(error).__name__}: {' '.join(str(error).split())}")
    return Grade(reward, components, None)
