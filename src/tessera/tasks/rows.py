"""From a row of data, read from a file or given in memory, to a Problem."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tessera.core.errors import UserError, unknown
from tessera.core.types import Message, Problem
from tessera.tasks.data import Row
from tessera.tasks.prompts import VERBATIM, PromptFormat
from tessera.tasks.rewards import Grader

ROLES = ("system", "user", "assistant")


@dataclass(frozen=True)
class RowFormat:
    """Which columns hold what, and how the prompt is worded. Columns of no other use become `Problem.metadata`.

    Without an `id_column` a problem is called by its split and position. With a `grader`, every row
    needs an answer that the reward can match; without, the answer is None where the column is absent.
    """

    prompt_column: str = "prompt"
    answer_column: str = "answer"
    id_column: str | None = None
    prompt: PromptFormat = VERBATIM
    grader: Grader | None = None
    kept: tuple[str, ...] = ()  # columns that are used above and stand in the metadata all the same

    def problems(self, split: str, rows: Sequence[Row]) -> tuple[Problem, ...]:
        """The rows as problems; a row that does not fit is a UserError that says where."""
        return tuple(self.problem(row, f"{split}-{position}") for position, row in enumerate(rows))

    def problem(self, row: Row, position: str = "row") -> Problem:
        """One row as a problem, called `position` where there is no `id_column`."""
        prompt, prefill = self._prompt(row)
        used = {self.prompt_column, self.answer_column, self.id_column}
        return Problem(
            id=position if self.id_column is None else str(row.column(self.id_column)),
            prompt=prompt,
            answer=self._answer(row),
            prefill=prefill,
            metadata={name: value for name, value in row.values.items() if name not in used or name in self.kept},
        )

    def gold(self, row: Row) -> Any:
        """What the row says is right, as its columns hold it."""
        return row.column(self.answer_column)

    def _prompt(self, row: Row) -> tuple[str | tuple[Message, ...], str]:
        value = row.column(self.prompt_column)
        if isinstance(value, str) and value.strip():
            return self.prompt.render(value), self.prompt.prefill
        if isinstance(value, Sequence) and not isinstance(value, str | bytes) and value:
            return self._conversation(row, tuple(_message(row, self.prompt_column, item) for item in value))
        raise UserError(f"{row.where}: {self.prompt_column} = {value!r:.60} must be a text or a list of messages")

    def _conversation(self, row: Row, messages: tuple[Message, ...]) -> tuple[tuple[Message, ...], str]:
        """Messages stand as they are; a last one by the assistant opens its turn."""
        if self.prompt.model_copy(update={"prefill": ""}) != VERBATIM:
            raise UserError(f"{row.where} holds messages, which take no prompt.style, .system or .template")
        if messages[-1].role != "assistant":
            return messages, self.prompt.prefill
        if self.prompt.prefill or len(messages) == 1:
            raise UserError(f"{row.where}: the assistant's message would open its turn, which needs a turn before it "
                            "and no prompt.prefill")  # fmt: skip
        return messages[:-1], messages[-1].content

    def _answer(self, row: Row) -> Any:
        if self.grader is None:
            return row.values.get(self.answer_column)
        answer = self.gold(row)
        try:
            return self.grader.read_answer(answer)
        except ValueError as error:
            reward = self.grader.name
            raise UserError(f"{row.where}: reward {reward} cannot grade the answer {answer!r:.60}: {error}") from None


def _message(row: Row, column: str, item: Any) -> Message:
    given = {k: v for k, v in item.items() if v is not None} if isinstance(item, Mapping) else {}
    if set(given) != {"role", "content"} or not isinstance(given["content"], str):
        raise UserError(f"{row.where}: {column} holds {item!r:.60}; a message is {{role, content}}, both text")
    if given["role"] not in ROLES:
        raise unknown(f"role in {row.where}", str(given["role"]), ROLES)
    return Message(given["role"], given["content"])
