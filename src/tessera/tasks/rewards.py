"""The rewards a recipe can name. Each grades the assistant's whole turn, prefill included, against a gold answer."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Annotated, Any

from pydantic import AfterValidator

from tessera.core.errors import UserError, unknown
from tessera.core.types import Problem
from tessera.tasks.base import Reward, RewardValue
from tessera.tasks.equivalence import equivalent
from tessera.tasks.formats import has_answer, has_box, has_thoughts
from tessera.tasks.grading import integer_text, last_integer
from tessera.tasks.numerals import final_number, number_of
from tessera.tasks.squad import matches, normalised
from tessera.tasks.tags import tagged


@dataclass(frozen=True)
class NamedReward:
    """A registered reward: `score(problem, text)` in [0, 1], and how it reads a gold answer from data.

    `read_answer` returns the answer in the form that `Problem.answer` holds, and raises ValueError with what it needs
    when the answer could never be matched. It is None for a reward of the layout, which looks at no answer.
    """

    name: str
    summary: str
    score: Callable[[Problem, str], float]
    read_answer: Callable[[Any], Any] | None


@dataclass(frozen=True)
class Grader:
    """Named rewards and their weights. The components of a sum are logged apart, unweighted.

    A text is right when it earns full marks from every reward that looks at the answer; where none does, from all.
    """

    name: str
    parts: tuple[tuple[NamedReward, float], ...]

    @property
    def full_marks(self) -> float:
        """What a perfect text earns."""
        return math.fsum(weight for _, weight in self.parts)

    def __call__(self, problem: Problem, text: str) -> RewardValue:
        scores = {reward.name: reward.score(problem, text) for reward, _ in self.parts}
        if len(scores) == 1:
            return scores[self.parts[0][0].name] * self.full_marks
        judges = [r.name for r, _ in self.parts if r.read_answer is not None] or list(scores)
        value = math.fsum(weight * scores[reward.name] for reward, weight in self.parts)
        return Reward(value, scores, all(scores[name] >= 1 for name in judges))

    def read_answer(self, answer: Any) -> Any:
        """The gold answer as its reward reads it; as it stands where several read it, or none."""
        read = [reward.read_answer(answer) for reward, _ in self.parts if reward.read_answer is not None]
        return read[0] if len(read) == 1 else answer


def read_grader(weights: str | Mapping[str, float]) -> Grader:
    """The grader that `weights` names; an unknown reward, or a weight that is not positive, is a UserError."""
    if isinstance(weights, str):
        return Grader(weights, ((reward_by_name(weights), 1.0),))
    if not weights:
        raise UserError("the reward is an empty mapping; it needs the name of a reward and its weight")
    for name, weight in weights.items():
        if not (isinstance(weight, Real) and 0 < weight < math.inf):
            raise UserError(f"the weight of reward {name} is {weight!r}; it must be a positive number")
    return Grader(" + ".join(weights), tuple((reward_by_name(name), float(w)) for name, w in weights.items()))


def _known(weights: str | Mapping[str, float]) -> str | Mapping[str, float]:
    read_grader(weights)
    return weights


Weights = Annotated[str | Mapping[str, float], AfterValidator(_known)]
"""What a recipe names: a reward, or a mapping of rewards to their weights; unknown ones are refused."""


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


def _score_number(problem: Problem, text: str) -> float:
    gold = number_of(problem.answer)
    return float(gold is not None and final_number(text) == gold)


def _read_number(answer: Any) -> str:
    if (number := number_of(answer)) is None:
        raise ValueError("it needs a number")
    return str(number)


def _golds(answer: Any) -> tuple[str, ...]:
    """The gold answers of a mathematical problem, any of which is right."""
    return tuple(map(str, answer)) if isinstance(answer, list | tuple) else (str(answer),)


def _score_math(problem: Problem, text: str) -> float:
    return float(equivalent(_golds(problem.answer), text))


def _score_squad(problem: Problem, text: str) -> float:
    found = tagged(text, "answer")
    return float(found is not None and matches(found, problem.answer))


def _read_aliases(answer: Any) -> tuple[str, ...]:
    aliases = tuple(map(_read_text, answer)) if isinstance(answer, list | tuple) else (_read_text(answer),)
    if not any(map(normalised, aliases)):
        raise ValueError("it needs an answer with a word or a number in it")
    return aliases


def _read_expressions(answer: Any) -> str | tuple[str, ...]:
    if isinstance(answer, list | tuple) and answer:
        return tuple(map(_read_text, answer))
    return _read_text(answer)


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
        NamedReward(
            "number",
            r"1 if the number after `The answer is`, `####` or in `\boxed{}`, else the last one, is the gold number",
            _score_number,
            _read_number,
        ),
        NamedReward(
            "math",
            r"1 if what the last `\boxed{}` holds is mathematically equal to the gold answer, or to one of several",
            _score_math,
            _read_expressions,
        ),
        NamedReward(
            "squad_match",
            "1 if what stands between the one pair of `<answer>` tags is a gold answer after SQuAD's normalisation",
            _score_squad,
            _read_aliases,
        ),
        NamedReward(
            "format_think",
            "1 if the text opens with one matched pair of `<think>` tags and goes on after it (2605.11538 App. C)",
            lambda _, text: float(has_thoughts(text)),
            None,
        ),
        NamedReward(
            "format_answer",
            "1 if the text holds one pair of `<answer>` tags, with something in it",
            lambda _, text: float(has_answer(text)),
            None,
        ),
        NamedReward(
            "format_boxed",
            r"1 if the last `\boxed{}` of the text is closed and not empty",
            lambda _, text: float(has_box(text)),
            None,
        ),
    )
}
