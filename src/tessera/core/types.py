"""The plain data of a run: what is asked, what was sampled, what it earned. Frozen, and without torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

FinishReason = Literal["stop", "length", "error"]


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation. `role` is `system`, `user` or `assistant`."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Problem:
    """One row of a task.

    `prompt` is either plain text, shown to the model verbatim, or messages, which go through the model's chat
    template. `prefill` opens the assistant's turn; the model continues it and the reward sees it. `key` is what two
    splits may not share (two rows that ask the same thing have the same key). `metadata` carries what a reward needs
    beyond the answer.
    """

    id: str
    prompt: str | tuple[Message, ...]
    answer: Any
    prefill: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """The text that identifies the question, white space folded; splits are compared by it."""
        if isinstance(self.prompt, str):
            return " ".join(self.prompt.split())
        return " ".join(" ".join(f"{m.role}: {m.content}".split()) for m in self.prompt)


@dataclass(frozen=True, slots=True)
class Completion:
    """What an engine returns for one row: the sampled ids, their log-probs, and why sampling ended.

    `logprobs[t]` is the log-probability of `ids[t]` under the distribution it was drawn from (logits / temperature).
    `ids` includes the end-of-sequence token when `finish_reason` is `"stop"`, unless a stop text ended it; `"error"`
    is a row that could not be sampled on: its model gave values that are not finite or, where `error` says so, its
    engine failed. `trunk` is what an engine in the trainer's process may have kept of the frozen layers' output
    (tessera.policy.forest.Kept).
    """

    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish_reason: FinishReason
    trunk: Any = field(default=None, compare=False, repr=False)
    error: str | None = None


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call of a tool as the model wrote it, why it failed, if it did, and whether it found nothing."""

    tool: str
    arguments: Mapping[str, Any]
    failure: str | None = None
    empty: bool = False


@dataclass(frozen=True, slots=True)
class Turn:
    """What tools put into a completion: its tokens `start` to `end`, the answer to `calls`."""

    start: int
    end: int
    calls: tuple[ToolCall, ...]


@dataclass(frozen=True, slots=True)
class Rollout:
    """One scored completion of a prompt.

    `ids` are the tokens after the prompt; `sampled[t]` is True where the policy wrote `ids[t]`, and only there is
    `logprobs[t]` a log-probability (elsewhere None: not scored is not zero). `text` is the assistant's whole turn,
    prefill included. `error` holds the text of a reward that failed; such a rollout has reward None and takes no
    part in training. `reward` is what training sees; `unshaped` is what the task gave, where a penalty was added to it.
    `correct` is whether the answer is right, None where the reward failed or nobody asked. `trunk` is the completion's.
    `turns` are the results of tools among the tokens; what a tool wrote is no part of `text`.
    `rank` is that of the process that sampled it, which scores it too.
    """

    prompt_ids: tuple[int, ...]
    ids: tuple[int, ...]
    sampled: tuple[bool, ...]
    logprobs: tuple[float | None, ...]
    finish_reason: FinishReason
    text: str
    reward: float | None
    components: Mapping[str, float] = field(default_factory=dict)
    error: str | None = None
    unshaped: float | None = None
    correct: bool | None = None
    trunk: Any = field(default=None, compare=False, repr=False)
    turns: tuple[Turn, ...] = ()
    rank: int = field(default=0, compare=False, repr=False)

    @property
    def written(self) -> int:
        """How many tokens the policy wrote."""
        return sum(self.sampled)

    @property
    def earned(self) -> float | None:
        """The task's own reward: what success is measured by."""
        return self.reward if self.unshaped is None else self.unshaped

    def solved(self, success: float | None = None) -> bool:
        """Whether the question is solved: what the task calls correct or, with `success`, a reward of at least that.

        A reward that failed solves nothing.
        """
        if success is None:
            return bool(self.correct)
        return self.earned is not None and self.earned >= success


@dataclass(frozen=True, slots=True)
class Group:
    """The rollouts of one prompt, compared with each other.

    All share `prompt_ids`: the rendered prompt, followed, for a replay, by the first tokens of an earlier completion,
    of which `prefix_sampled` says what the policy wrote.
    """

    problem: Problem
    prompt_ids: tuple[int, ...]
    rollouts: tuple[Rollout, ...]
    prefix_sampled: tuple[bool, ...] = ()

    @property
    def rewards(self) -> tuple[float, ...]:
        """The rewards of the rollouts that have one, in order."""
        return tuple(r.reward for r in self.rollouts if r.reward is not None)
