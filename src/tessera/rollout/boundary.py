"""The one place where an exception becomes data: a reward that fails is an error of its rollout, not of the run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from tessera.core.types import Problem
from tessera.tasks.base import Task, grade_text


class Grade(NamedTuple):
    """What a text earned, and whether it is right.

    When the reward raised or was not finite, `reward` and `correct` are None and `error` says why in a line.
    """

    reward: float | None
    components: Mapping[str, float]
    error: str | None
    correct: bool | None = None


def grade(task: Task, problem: Problem, text: str) -> Grade:
    """Reward `text`, the assistant's whole turn, as an answer to `problem`."""
    try:
        earned = grade_text(task, problem, text)
    except Exception as error:  # noqa: BLE001 - a user's code may raise anything
        return Grade(None, {}, f"{type(error).__name__}: {' '.join(str(error).split())}")
    return Grade(earned.value, earned.components, None, earned.correct)
