"""Any files or data sets with a prompt and an answer, graded by named rewards."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from tessera.tasks.files import GradedTask
from tessera.tasks.rows import RowFormat


class Jsonl(GradedTask):
    """Files or data sets with a prompt and an answer column, graded by named rewards.

    A prompt is a text, worded by `prompt` (by default taken verbatim), or a list of {role, content} messages, taken
    as they are; a last message by the assistant opens its turn.
    """

    prompt_column: str = Field("prompt", description="column of the prompt")
    answer_column: str = Field("answer", description="column of the gold answer")
    id_column: str | None = Field(None, description="column of the id; without, split and position")

    ids_required: ClassVar[bool] = True

    @property
    def row_format(self) -> RowFormat:
        """The columns named in the recipe."""
        return RowFormat(self.prompt_column, self.answer_column, self.id_column, self.prompt, self.grader)
