"""Competition mathematics: MATH, AIME, Minerva, OlympiadBench, DeepScaleR, or rows of the same columns."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import count
from typing import Any, ClassVar

from pydantic import Field

from tessera.core.types import Problem
from tessera.tasks.data import Row
from tessera.tasks.maths.final import last_box
from tessera.tasks.maths.normal import normal
from tessera.tasks.maths.plain import value as plain_value
from tessera.tasks.prompts import PromptFormat
from tessera.tasks.rewards import Weights
from tessera.tasks.rows import RowFormat
from tessera.tasks.worded import WORDINGS, WordedTask

_DIGIT = re.compile(r"(?<!_)(?<!_\{)[0-9]")  # that of an index names something, and is no value


@dataclass(frozen=True)
class MathRows(RowFormat):
    """Rows that may name several references: `answer`, those in `answer_alt`, and `answer` with its `unit`."""

    alternatives: bool = True

    def gold(self, row: Row) -> Any:
        """The reference, or the list of all that count, each once."""
        answer = _unboxed(row.column(self.answer_column))
        others = row.values.get("answer_alt") if self.alternatives else None
        unit = row.values.get("unit")
        with_unit = [f"{answer} {unit}"] if unit else []
        known = [answer, *(others if isinstance(others, list | tuple) else []), *with_unit]
        return answer if len(known) == 1 else list(dict.fromkeys(known))


def _unboxed(answer: Any) -> Any:
    """What the box of a reference holds, where the data has one in it; a completion puts one around its answer."""
    return last_box(answer) or answer if isinstance(answer, str) else answer


class Mathematics(WordedTask):
    """Mathematical problems from files; an answer equal to the reference, however it is written, is right.

    Rows hold `id`, `problem`, `answer` (LaTeX or plain) and optionally `answer_alt` (further references), `unit` and,
    for a worked solution to learn from, `solution`.
    """

    prompt: PromptFormat = WORDINGS["boxed"]
    reward_weights: Weights = Field("math", alias="reward", description="a reward by name, or names with weights")
    alternatives: bool = Field(True, description="whether the references in `answer_alt` count beside `answer`")

    default_validation_size: ClassVar[int] = 100
    solution_column: ClassVar[str] = "solution"

    @property
    def row_format(self) -> RowFormat:
        """Columns `id`, `problem`, `answer`, and further references."""
        return MathRows("problem", "answer", "id", self.prompt, self.grader, alternatives=self.alternatives)

    def answer_of(self, problem: Problem, text: str) -> str | None:
        """What the last box of `text` holds, in one spelling, a plain number in lowest terms; None without a box."""
        return _plainest(last_box(text) or "") or None

    def corrupted(self, problem: Problem) -> str:
        """The reference with its first digit raised, or with one added where it has no digit.

        The digit goes up until the answer is spelled as none of the references; of several the next may be one.
        """
        answer = self.reference(problem)
        digit = _DIGIT.search(answer)
        if digit is None:
            return self.laid_out(problem, "So:", f"{answer} + 1")
        raised = (_DIGIT.sub(str(int(digit[0]) + step), answer, count=1) for step in count(1))
        golds = problem.answer if isinstance(problem.answer, tuple) else (answer,)
        known = {_plainest(text) or text for text in golds}
        wrong = next(text for text in raised if (_plainest(text) or text) not in known)
        return self.laid_out(problem, "So:", wrong)


def _plainest(answer: str) -> str:
    """`answer` in one spelling, a plain number in lowest terms."""
    spelled = normal(answer)
    number = plain_value(spelled)
    return spelled if number is None else str(number)
