"""Questions whose answer has to be looked up (2511.00066 App. B.1.3), with or without tools to do so."""

from __future__ import annotations

from functools import cached_property
from typing import ClassVar

from tessera.core.types import Problem
from tessera.tasks.base import Reward
from tessera.tasks.files import FileTask
from tessera.tasks.prompts import PromptFormat
from tessera.tasks.rewards import Grader, read_grader
from tessera.tasks.rows import RowFormat
from tessera.tasks.squad import normalised
from tessera.tasks.tags import tagged

RIGHT, WRONG = 1.0, -1.0  # Eq. 15


class SearchQA(FileTask):
    """Open questions from files; the answer between the one pair of `<answer>` tags is graded, +1 or -1.

    Rows hold `question` and `answers`, any of which is right: an exact match after SQuAD's normalisation (case,
    punctuation, articles and white space do not count). `id` and other columns are kept.
    """

    prompt: PromptFormat = PromptFormat(
        style="chat",
        template="Answer the question. Write the answer, in a few words, between <answer> and </answer>.\n\n"
        "Question: {question}",
    )

    default_validation_size: ClassVar[int] = 100

    @property
    def full_marks(self) -> float:
        """What a right answer earns."""
        return RIGHT

    @cached_property
    def grader(self) -> Grader:
        """Exact match with any of the answers."""
        return read_grader("squad_match")

    @property
    def row_format(self) -> RowFormat:
        """Columns `id`, `question`, `answers`."""
        return RowFormat("question", "answers", "id", self.prompt, self.grader)

    def reward(self, problem: Problem, text: str) -> Reward:
        """Eq. 15: +1 for a match, -1 for anything else."""
        right = bool(self.grader(problem, text))
        return Reward(RIGHT if right else WRONG, {}, right)

    def answer_of(self, problem: Problem, text: str) -> str | None:
        """The answer as it is compared."""
        found = tagged(text, "answer")
        return None if found is None else normalised(found)

    def gold(self, problem: Problem) -> str:
        """The first answer in its tags."""
        return f"<answer>{problem.answer[0]}</answer>"

    def corrupted(self, problem: Problem) -> str:
        """The same with a word in front."""
        return f"<answer>not {problem.answer[0]}</answer>"
