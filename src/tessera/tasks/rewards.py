"""The rewards a recipe can name. Each grades the assistant's whole turn, prefill included, against a gold answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from numbers import Real
from typing import Any

from tessera.core.errors import unknown
from tessera.core.types import Problem
from tessera.tasks.grading import integer_text, last_integer


@dataclass(frozen=True)
class NamedReward:
    """A registered reward: `score(problem, text)` in [0, 1], and how it reads a gold answer from data.

    `read_answer` returns the answer in the form that `Problem.answer` holds, and raises ValueError with what it needs
    when the answer could never be matched.
    """

    name: str
    summary: str
    score: Callable[[Problem, str], float]
    read_answer: Callable[[Any], Any]

    def __call__(self, problem: Problem, text: str) -> float:
        return self.score(problem, text)


def reward_by_name(name: str) -> NamedReward:
    """The registered reward `name`; an unknown name is a UserError."""
    if name not in REWARDS:
        raise unknown("reward", name, REWARDS)
    return REWARDS[name]


def _score_last_integer(problem: Problem, text: str) -> float:
    gold = integer_text(problem.answer)
    return float(gold is not None and last_integer(text) == gold)


def _read_integer(answer: Any) -> int:
    text = integer_text(answer)
    if text is None:
        raise ValueError("it needs an integer")
    return int(text)


def _score_exact_match(problem: Problem, text: str) -> float:
    return float(text.removeprefix(problem.prefill).strip() == str(problem.answer).strip())


def _read_text(answer: Any) -> str:
    if not isinstance(answer, str | Real) or not str(answer).strip():
        raise ValueError("it needs a text or a number")
    return str(answer).strip()


REWARDS = {
    reward.name: reward
    for reward in (
        NamedReward(
            "last_integer",
            "1 if the last number of the text, commas removed, is the gold integer (2504.20834 App. B)",
            _score_last_integer,
            _read_integer,
        ),
        NamedReward(
            "exact_match",
            "1 if the text after the prefill, stripped of white space, is the gold answer",
            _score_exact_match,
            _read_text,
        ),
    )
}
