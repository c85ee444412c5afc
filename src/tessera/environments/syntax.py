"""How a model calls tools in its text, and how a result is put behind it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import jinja2

from tessera.core.errors import UserError
from tessera.environments.tool import Call, Reason, Tool

ANSWER = "answer"
NESTED = 50  # levels of the JSON of a call: what is kept of it has to be written by a recursion too
MALFORMED: Mapping[str, Any] = {}
"""The arguments of a call that could not be read: every tool refuses them, and says what it takes."""


class Result(NamedTuple):
    """What a call gave: the text that the model is shown, and why it failed, if it did."""

    text: str
    failure: Reason | None = None


class Frame(NamedTuple):
    """The text around the results of a turn: before the first, between two, behind the last."""

    before: str
    between: str
    behind: str


class Syntax(Protocol):
    """A way to call tools. `stops` are the texts that end a turn besides the end of the text."""

    stops: tuple[str, ...]

    def calls(self, text: str) -> list[Call]:
        """The calls in a turn that the model wrote; none where it is done."""
        ...

    def frame(self, ended: bool) -> Frame:
        """What goes around results; `ended` says whether the turn has its end-of-text token."""
        ...

    def introduction(self) -> str:
        """What the model is told about the tools, and how to call them."""
        ...


class Tags:
    """Search-R1's tags (Jin et al. 2025): `<search>query</search>`, answered by `<information>...</information>`.

    A tool is called by a tag of its name, and the text between is its main argument. The turn of the assistant goes on
    after a result; `<answer>...</answer>` ends it.
    """

    def __init__(self, tools: Sequence[Tool]) -> None:
        self.tools = {tool.name: tool for tool in tools}
        if ANSWER in self.tools:
            raise UserError(f"a tool called {ANSWER!r} cannot be told from an answer: use environment.syntax template")
        self.stops = tuple(f"</{name}>" for name in (*self.tools, ANSWER))
        self.marks = (*(f"<{name}>" for name in (*self.tools, ANSWER)), *self.stops)

    def calls(self, text: str) -> list[Call]:
        """See Syntax. A closing tag without an opening one is a call without arguments."""
        closed = [(text.find(f"</{name}>"), name) for name in (*self.tools, ANSWER)]
        place, name = min((found for found in closed if found[0] >= 0), default=(-1, ANSWER))
        if name == ANSWER:
            return []
        _, opened, inside = text[:place].rpartition(f"<{name}>")
        main = self.tools[name].main  # empty where a tool takes nothing
        return [Call(name, {main: inside.strip()} if opened and main else MALFORMED)]

    def frame(self, ended: bool) -> Frame:
        """See Syntax."""
        return Frame("\n<information>", "\n", "</information>\n")

    def introduction(self) -> str:
        """See Syntax."""
        lines = [f"<{t.name}>{t.main}</{t.name}>: {t.description}" for t in self.tools.values()]
        return "\n".join([
            "You can call tools. Write one of these, and the result follows between <information> and </information>:",
            *lines,
            "You can call as often as you need. When you know the answer, write it between <answer> and </answer>.",
        ])  # fmt: skip


class Template:
    """The calls of the model's own chat template: JSON in `<tool_call>` tags, results as messages of the role `tool`.

    That is what Qwen, SmolLM and Hermes models are trained on. What goes around a result is read off the template.
    """

    stops: tuple[str, ...] = ()
    marks = ("<tool_call>", "</tool_call>")

    def __init__(
        self, tools: Sequence[Tool], tokenizer: Any, eos: Sequence[str], variables: Mapping[str, Any] | None = None
    ) -> None:
        self.tools = {tool.name: tool for tool in tools}
        self._frame = template_frame(tokenizer, variables)
        self._ends = tuple(eos)

    def calls(self, text: str) -> list[Call]:
        """See Syntax. A call that is no JSON object with a name goes to the tool called "tool_call", which is none."""
        parts = text.split("<tool_call>")[1:]
        return [_json_call(part.partition("</tool_call>")[0]) for part in parts if "</tool_call>" in part]

    def frame(self, ended: bool) -> Frame:
        """See Syntax."""
        before = self._frame.before
        if ended:
            before = next((before.removeprefix(end) for end in self._ends if before.startswith(end)), before)
        return self._frame._replace(before=before)

    def introduction(self) -> str:
        """See Syntax."""
        signatures = [
            json.dumps({"name": t.name, "description": t.description, "parameters": t.parameters})
            for t in self.tools.values()
        ]
        return "\n".join([
            "You can call tools. These are there, with their arguments as JSON schemas:",
            *signatures,
            'To call one, write <tool_call>{"name": NAME, "arguments": {...}}</tool_call> and end your turn; the '
            "result is the next message. When you know the answer, write it between <answer> and </answer>.",
        ])  # fmt: skip


def template_frame(tokenizer: Any, variables: Mapping[str, Any] | None = None) -> Frame:
    """What a chat template, told `variables`, writes around tool messages, between two turns of the assistant.

    UserError for a template without the role `tool`, or one that rewrites the turn before a result.
    """
    said, one, two = "\u2042said\u2042", "\u2042one\u2042", "\u2042two\u2042"
    messages = [
        {"role": "user", "content": "?"},
        {"role": "assistant", "content": said},
        {"role": "tool", "content": one, "name": "tool"},
        {"role": "tool", "content": two, "name": "tool"},
    ]
    try:
        given = {"tokenize": False, "add_generation_prompt": True, **(variables or {})}
        text = str(tokenizer.apply_chat_template(messages, **given))
    except jinja2.TemplateError as error:
        raise UserError(f"the chat template takes no tool messages ({error}): use environment.syntax tags") from None
    _, found, rest = text.partition(said)
    before, first, rest = rest.partition(one)
    between, second, behind = rest.partition(two)
    if not (found and first and second):
        raise UserError("the chat template does not show a tool's result: use environment.syntax tags")
    return Frame(before, between, behind)


def _nested(value: Any, most: int = NESTED) -> bool:
    """Whether a value of JSON is nested at most so deep."""
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return most > 0 and all(_nested(part, most - 1) for part in parts)


def _json_call(text: str) -> Call:
    try:
        said = json.loads(text)
    except (ValueError, RecursionError):
        said = None
    if not isinstance(said, dict) or not isinstance(said.get("name"), str) or not _nested(said):
        return Call("tool_call", MALFORMED)
    arguments = said.get("arguments")
    return Call(said["name"], arguments if isinstance(arguments, dict) else MALFORMED)
