"""Any files or data sets with a prompt and an answer, graded by named rewards."""

from __future__ import annotations

from functools import cached_property
from typing import ClassVar

from pydantic import Field, field_validator

from tessera.tasks.files import FileTask
from tessera.tasks.rewards import Grader, Weights, read_grader
from tessera.tasks.rows import RowFormat


class Jsonl(FileTask):
    """Files or data sets with a prompt and an answer column, graded by named rewards.

    A prompt is a text, worded by `prompt` (by default taken verbatim), or a list of {role, content} messages, taken
    as they are; a last message by the assistant opens its turn.
    """

    # The recipe's key is `reward`, which is here the method's name.
    reward_weights: Weights = Field(alias="reward", description="a reward by name, or names with their weights")
    prompt_column: str = Field("prompt", description="column of the prompt")
    answer_column: str = Field("answer", description="column of the gold answer")
    id_column: str | None = Field(None, description="column of the id; without, split and position")

    ids_required: ClassVar[bool] = True

    @field_validator("reward_weights")
    @classmethod
    def _known_rewards(cls, weights: Weights) -> Weights:
        read_grader(weights)
        return weights

    @cached_property
    def grader(self) -> Grader:
        """The rewards named in the recipe."""
        return read_grader(self.reward_weights)

    @property
    def row_format(self) -> RowFormat:
        """The columns named in the recipe."""
        return RowFormat(self.prompt_column, self.answer_column, self.id_column, self.prompt, self.grader)
