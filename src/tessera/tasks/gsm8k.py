"""GSM8K, word problems of several steps (Cobbe et al. 2021)."""

from __future__ import annotations

import re
from typing import ClassVar

from pydantic import Field

from tessera.core.types import Problem
from tessera.tasks.numerals import final_number
from tessera.tasks.prompts import PromptFormat
from tessera.tasks.rows import RowFormat
from tessera.tasks.worded import WORDINGS, WordedTask, Wording

_CALCULATOR = re.compile(r"<<[^<>]*>>")


class Gsm8k(WordedTask):
    """GSM8K word problems from files; the number after `The answer is`, `####` or in a box is graded.

    Rows hold `id`, `question`, `answer` and, for a worked solution to learn from, `rationale`.
    """

    prompt: PromptFormat = WORDINGS["marked"]
    wording: Wording = Field("marked", description="how the answer is asked for; `prompt` changes single keys of it")

    default_validation_size: ClassVar[int] = 100
    solution_column: ClassVar[str] = "rationale"

    @property
    def row_format(self) -> RowFormat:
        """Columns `id`, `question`, `answer`."""
        return RowFormat("question", "answer", "id", self.prompt, self.grader)

    def answer_of(self, problem: Problem, text: str) -> str | None:
        """The number that `text` ends in, in lowest terms."""
        number = final_number(text)
        return None if number is None else str(number)

    def worked(self, problem: Problem) -> str:
        """The rationale, without the marks of a calculator."""
        return _CALCULATOR.sub("", super().worked(problem))
