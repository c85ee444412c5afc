"""SVAMP, one-sentence arithmetic word problems (Patel et al. 2021), asked as in 2504.20834 App. A.2."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from tessera.core.types import Problem
from tessera.tasks.files import FileTask
from tessera.tasks.grading import last_integer
from tessera.tasks.prompts import PromptFormat
from tessera.tasks.rewards import Grader, read_grader
from tessera.tasks.rows import RowFormat
from tessera.tasks.sources import Source
from tessera.tasks.traces import worked_solution


class Svamp(FileTask):
    """SVAMP word problems from files; the last integer is graded (2504.20834 App. A.2, B).

    Rows hold `id`, `question`, `answer` and, for a supervised warm-up, `equation`. An answer that is not an integer is
    refused, since the reward could never pay it (the data has none, but some copies write 145.0 for 145). The paper
    names no validation split: without a file, the last 100 rows of train are one.
    """

    prompt: PromptFormat = PromptFormat(template="Problem: {question}\nAnswer:")
    test: Source = Field(description="of the test split")

    default_validation_size: ClassVar[int] = 100

    @property
    def grader(self) -> Grader:
        """The last integer, exactly."""
        return read_grader("last_integer")

    @property
    def row_format(self) -> RowFormat:
        """Columns `id`, `question`, `answer`."""
        return RowFormat("question", "answer", "id", self.prompt, self.grader, kept=("question",))

    def answer_of(self, problem: Problem, text: str) -> str | None:
        """The last number of `text`."""
        return last_integer(text)

    def gold(self, problem: Problem) -> str:
        """The solution worked from the row's `equation` column; the bare answer where that leads elsewhere."""
        equation = problem.metadata.get("equation")
        worked = worked_solution(str(problem.metadata["question"]), equation) if isinstance(equation, str) else None
        return worked[0] if worked and worked[1] == problem.answer else str(problem.answer)
