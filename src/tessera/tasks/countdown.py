"""Countdown: reach a target with the given numbers and + - * /; graded as in section 3.2 of "Group-Reward Policy
Optimization for Mathematical Reasoning" (Le 2025)."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from fractions import Fraction
from typing import Annotated, Any, ClassVar

from pydantic import Field, field_validator

from tessera.core.errors import UserError
from tessera.core.types import Problem
from tessera.tasks.data import Row
from tessera.tasks.expressions import Expression, read_expression, solve
from tessera.tasks.prompts import PromptFormat
from tessera.tasks.puzzles import PuzzleTask, whole_numbers
from tessera.tasks.tags import tagged
from tessera.tasks.traces import OPERATIONS

WRONG, NEAREST, FARTHEST = 0.1, 0.8, 0.3  # an answer that is no solution; near-correct, at the target and at the limit
LARGEST_NUMBER = 99
TRIES = 200  # of one count of numbers, so that the counts are as frequent as they are asked for
_VALUE = re.compile(r"[+-]?[0-9]+(?:[./][0-9]+)?")
_OPERATIONS = [operation for _, operation in OPERATIONS.values()]


class Countdown(PuzzleTask):
    """An expression that reaches a target with three or four numbers, each used at most once.

    Rows hold `nums` and `target`. 1 for an expression in the given numbers that equals the target; from 0.8 down to 0.3
    for one that misses it by up to `near_limit` of the target; 0.1 for any other text in `<answer>`, so too for a bare
    number, which the prompt gives away; 0 without exactly one such pair of tags. `= value` after the expression is not
    judged. A puzzle that is drawn uses all of its numbers.
    """

    prompt: PromptFormat = PromptFormat(
        style="chat",
        template="{question} Use + - * / and brackets, and each number at most once. Work it out first; then write the "
        "expression itself, not its value, between <answer> and </answer>, as in <answer>(1 + 2) / 3</answer>.",
    )
    counts: tuple[Annotated[int, Field(ge=2, le=6)], ...] = Field(
        (3, 4), min_length=1, description="how many numbers a drawn puzzle has; one of these"
    )
    targets: tuple[int, int] = Field((10, 100), description="smallest and largest target that is drawn")
    near_limit: float = Field(
        0.1, ge=0, le=1, description="relative distance to the target up to which is near-correct"
    )

    of_drawing: ClassVar[frozenset[str]] = PuzzleTask.of_drawing | {"counts", "targets"}

    @field_validator("targets")
    @classmethod
    def _a_range(cls, targets: tuple[int, int]) -> tuple[int, int]:
        if not 1 <= targets[0] <= targets[1]:
            raise ValueError("the smallest target must be at least 1, and the largest no smaller")
        return targets

    def draw(self, source: random.Random) -> Mapping[str, Any] | None:
        """Numbers, and what a random expression in all of them comes to, where that is a target."""
        low, high = self.targets
        count = source.choice(self.counts)
        for _ in range(TRIES):
            numbers = [source.randint(1, LARGEST_NUMBER) for _ in range(count)]
            value = _random_value(numbers, source)
            if value is not None and value.denominator == 1 and low <= value <= high:
                return {"nums": numbers, "target": int(value)}
        return None

    def identity(self, values: Mapping[str, Any]) -> Hashable:
        """The numbers in any order, and the target."""
        return tuple(sorted(values["nums"])), values["target"]

    def problem(self, row: Row) -> Problem:
        """The problem of a row with `nums` and `target`."""
        numbers, target = whole_numbers(row, "nums"), row.column("target")
        if type(target) is not int or target < 1:
            raise UserError(f"{row.where}: target = {target!r:.60} must be a whole number above 0")
        question = f"Write an expression that equals {target} with the numbers {', '.join(map(str, numbers))}."
        kept = {name: value for name, value in row.values.items() if name not in ("id", "target")}
        prompt = self.prompt.render(question)
        return Problem(str(row.column("id")), prompt, target, self.prompt.prefill, {**kept, "nums": numbers})

    def reward(self, problem: Problem, text: str) -> float:
        """From 1, solved, to 0, no answer."""
        answer = tagged(text, "answer")
        if answer is None:
            return 0.0
        expression = _expression(answer, problem.metadata["nums"])
        return WRONG if expression is None else self._by_distance(expression.value, problem.answer)

    def correct(self, problem: Problem, text: str) -> bool:
        """Whether the target is reached."""
        return self.reward(problem, text) == 1.0

    def answer_of(self, problem: Problem, text: str) -> str | None:
        """What the expression in the tags comes to; None where there is no valid one."""
        answer = tagged(text, "answer")
        expression = None if answer is None else _expression(answer, problem.metadata["nums"])
        return None if expression is None else str(expression.value)

    def _by_distance(self, value: Fraction, target: int) -> float:
        if value == target:
            return 1.0
        distance, limit = abs(value - target) / target, Fraction(str(self.near_limit))
        return float(NEAREST - (NEAREST - FARTHEST) * float(distance / limit)) if distance <= limit else WRONG

    def gold(self, problem: Problem) -> str:
        """A solution, worked out and then in its tags; an unreachable target is a UserError."""
        solution = solve(problem.metadata["nums"], problem.answer)
        if solution is None:
            raise UserError(f"problem {problem.id!r}: no expression in {problem.metadata['nums']} is {problem.answer}")
        return f"{solution} = {problem.answer}\n<answer>{solution}</answer>"

    def corrupted(self, problem: Problem) -> str:
        """The target, reached with a number that was not given."""
        other = max(problem.metadata["nums"]) + 1
        return f"<answer>{problem.answer} + {other} - {other}</answer>"


def _expression(answer: str, numbers: Sequence[int]) -> Expression | None:
    """The expression in `answer`, if it is one in the given numbers, each used at most once, and no bare number."""
    written, equals, value = answer.partition("=")
    if equals and not _VALUE.fullmatch(value.strip()):
        return None
    expression = read_expression(written)
    if expression is None or not expression.operations or not Counter(expression.numbers) <= Counter(numbers):
        return None
    return expression


def _random_value(numbers: Sequence[int], source: random.Random) -> Fraction | None:
    """What a random expression in all of `numbers` comes to; None where it divides by zero."""
    values = list(map(Fraction, numbers))
    while len(values) > 1:
        source.shuffle(values)
        one, other = values.pop(), values.pop()
        operation = source.choice(_OPERATIONS)
        try:
            values.append(operation(one, other))
        except ZeroDivisionError:
            return None
    return values[0]
