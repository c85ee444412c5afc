"""What a tool is: a name, what it takes, and text back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

Reason = Literal["arguments", "crash", "timeout", "unknown", "unavailable"]


class ToolFailed(Exception):
    """A call that gave no result. `reason` is what is counted, the text what the model is told."""

    def __init__(self, reason: Reason, text: str) -> None:
        super().__init__(text)
        self.reason = reason


class Call(NamedTuple):
    """A call as the model wrote it: the tool's name, and its arguments by name."""

    tool: str
    arguments: Mapping[str, Any]


@runtime_checkable
class Tool(Protocol):
    """Something that a model may call. `call` may be called from several threads at once.

    `parameters` is a JSON schema of an object; `main` is the parameter that a call of one text goes to.
    """

    name: str
    description: str
    parameters: Mapping[str, Any]
    main: str

    def call(self, arguments: Mapping[str, Any], limit: float) -> str:
        """The result as text, within `limit` seconds; raises ToolFailed where there is none."""
        ...

    def close(self) -> None:
        """Let go of processes and connections."""
        ...


def text_parameters(name: str, description: str) -> dict[str, Any]:
    """The schema of a tool that takes one text."""
    return {
        "type": "object",
        "properties": {name: {"type": "string", "description": description}},
        "required": [name],
        "additionalProperties": False,
    }


def text_argument(arguments: Mapping[str, Any], name: str) -> str:
    """The one text that a tool takes; raises ToolFailed when it is missing, empty or not a text."""
    value = arguments.get(name)
    if not isinstance(value, str) or not value.strip():
        raise ToolFailed("arguments", f"{name} must be a text")
    if extra := sorted(set(arguments) - {name}):
        raise ToolFailed("arguments", f"there is no argument {extra[0]}; there is {name}")
    return value
