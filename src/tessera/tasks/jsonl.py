"""Any files or data sets with a prompt and an answer, graded by a named reward."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field, field_validator

from tessera.tasks.files import FileTask
from tessera.tasks.rewards import NamedReward, reward_by_name
from tessera.tasks.rows import RowFormat


class Jsonl(FileTask):
    """Files or data sets with a prompt and an answer column, graded by a named reward.

    A prompt is a text, worded by `prompt` (by default taken verbatim), or a list of {role, content} messages, taken
    as they are; a last message by the assistant opens its turn.
    """

    # The recipe's key is `reward`, which is here the method's name.
    reward_name: str = Field(alias="reward", description="how answers are graded: last_integer or exact_match")
    prompt_column: str = Field("prompt", description="column of the prompt")
    answer_column: str = Field("answer", description="column of the gold answer")
    id_column: str | None = Field(None, description="column of the id; without, split and position")

    ids_required: ClassVar[bool] = True

    @field_validator("reward_name")
    @classmethod
    def _known_reward(cls, name: str) -> str:
        return reward_by_name(name).name

    @property
    def grader(self) -> NamedReward:
        """The reward named in the recipe."""
        return reward_by_name(self.reward_name)

    @property
    def row_format(self) -> RowFormat:
        """The columns named in the recipe."""
        return RowFormat(self.prompt_column, self.answer_column, self.id_column, self.prompt, self.grader)
