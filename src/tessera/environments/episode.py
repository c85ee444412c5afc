"""One episode: turns of the model, and what tools put between them. Every token knows who wrote it.

Ids go in and out. What the model sampled is decoded to read its calls, and never encoded again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from tessera.core.types import Completion, FinishReason, ToolCall, Turn
from tessera.environments.syntax import Result, Syntax
from tessera.environments.tool import Call

PARALLEL = 4  # calls of one turn that are run
CHARACTERS = 32  # of a result that are read for each token that it may have: few tokens are longer


class Limits(NamedTuple):
    """Of an episode: turns that call tools, tokens that the model writes, and tokens of one turn's results."""

    turns: int
    tokens: int
    result_tokens: int


class Words(NamedTuple):
    """A tokenizer's two directions, without special tokens of its own; `ends` are the ids that end a text.

    In what tools say, the text of a special token is text: `encode(text, False)` has none.
    """

    encode: Callable[[str, bool], list[int]]
    decode: Callable[[Sequence[int]], str]
    ends: frozenset[int]


@dataclass
class Episode:
    """The state of one episode. `ids` are the tokens after the prompt, `sampled` who wrote them.

    Take turns: `add` what was sampled; where it returns calls, `put` their results and sample on. An episode may begin
    with the tokens of an earlier one.
    """

    syntax: Syntax
    words: Words
    limits: Limits
    ids: list[int] = field(default_factory=list)
    sampled: list[bool] = field(default_factory=list)
    logprobs: list[float | None] = field(default_factory=list)
    turns: list[Turn] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    error: str | None = None
    taken: int = field(init=False)

    def __post_init__(self) -> None:
        self.logprobs = [None] * len(self.ids)
        self.taken = sum(after and not own for own, after in zip(self.sampled, [True, *self.sampled], strict=False))

    @property
    def left(self) -> int:
        """Tokens that the model may still write."""
        return self.limits.tokens - sum(self.sampled)

    @property
    def text(self) -> str:
        """What the model wrote, without what tools said."""
        return self._said(0)

    def add(self, completion: Completion) -> list[Call]:
        """Take the tokens of a turn; returns the calls in it, or none when the episode is over."""
        turn = len(self.ids) - next((n for n, own in enumerate(reversed(self.sampled)) if not own), len(self.ids))
        self.ids += completion.ids
        self.sampled += [True] * len(completion.ids)
        self.logprobs += completion.logprobs
        if completion.finish_reason != "stop":
            self.finish_reason, self.error = completion.finish_reason, completion.error
            return []
        calls = self.syntax.calls(self._said(turn))[:PARALLEL]
        if calls and self.left > 0 and self.taken < self.limits.turns:
            return calls
        self.finish_reason = "length" if calls else "stop"
        return []

    def put(self, calls: Sequence[Call], results: Sequence[Result]) -> None:
        """Append the results of a turn's calls, in the order of the calls."""
        frame = self.syntax.frame(ended=self.ids[-1] in self.words.ends)
        room = self.limits.result_tokens // len(results)
        added = self.words.encode(frame.before, True)
        for n, result in enumerate(results):
            added += self.words.encode(frame.between, True) if n else []
            added += self.words.encode(result.text[: room * CHARACTERS], False)[:room]
        added += self.words.encode(frame.behind, True)
        told = tuple(
            ToolCall(call.tool, call.arguments, result.failure, not result.text.strip())
            for call, result in zip(calls, results, strict=True)
        )
        self.turns.append(Turn(len(self.ids), len(self.ids) + len(added), told))
        self.taken += 1
        self.ids += added
        self.sampled += [False] * len(added)
        self.logprobs += [None] * len(added)

    def _said(self, start: int) -> str:
        rows = zip(self.ids[start:], self.sampled[start:], strict=True)
        return self.words.decode([i for i, own in rows if own and i not in self.words.ends])


def longest(syntax: Syntax, words: Words, limits: Limits) -> int:
    """Tokens that an episode has at most behind its prompt."""
    frame = syntax.frame(ended=False)
    around = len(words.encode(frame.before, True)) + len(words.encode(frame.behind, True))
    between = (PARALLEL - 1) * len(words.encode(frame.between, True))
    return limits.tokens + limits.turns * (limits.result_tokens + around + between)
