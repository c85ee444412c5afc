"""How a question becomes a prompt: plain text or chat messages, and the words that open the answer."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, field_validator, model_validator

from tessera.core.types import Message

PLACEHOLDER = "{question}"


class PromptFormat(BaseModel):
    """The wording around a question; every key can be set in a recipe under `task.prompt`.

    `style` is `plain` (the text goes to the model verbatim) or `chat` (through the model's chat template). `template`
    holds `{question}` once; other braces stand as they are. `system` opens a chat. `prefill` opens the assistant's
    turn, and the model continues it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    style: Literal["chat", "plain"] = "plain"
    system: str | None = None
    template: str = PLACEHOLDER
    prefill: str = ""

    @field_validator("template")
    @classmethod
    def _one_placeholder(cls, template: str) -> str:
        if (count := template.count(PLACEHOLDER)) != 1:
            raise ValueError(f"it must hold {PLACEHOLDER} exactly once, and holds it {count} times")
        return template

    @model_validator(mode="after")
    def _system_needs_chat(self) -> PromptFormat:
        if self.style == "plain" and self.system is not None:
            raise ValueError("a plain prompt has no system message: set style to chat or system to null")
        return self

    def render(self, question: str) -> str | tuple[Message, ...]:
        """`Problem.prompt` for `question`: text when plain, messages when chat. The prefill is not part of it."""
        text = self.template.replace(PLACEHOLDER, question)
        if self.style == "plain":
            return text
        opening = () if self.system is None else (Message("system", self.system),)
        return (*opening, Message("user", text))


VERBATIM = PromptFormat()
"""The question as it stands, in plain text."""
