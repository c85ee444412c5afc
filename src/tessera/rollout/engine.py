"""What a rollout engine is: prompts and seeds in, sampled token ids with their log-probs out."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Annotated, NamedTuple, Protocol

from pydantic import BaseModel, ConfigDict, Field

from tessera.core.types import Completion


class Sampling(BaseModel):
    """How to sample. `temperature` 0 takes the likeliest token.

    `top_k`, `top_p` and `min_p` leave out unlikely tokens (tessera.rollout.draw.truncated). A row also ends with the
    token that completes one of the `stop` texts.

    With `keep_trunk` an engine that runs the trainer's own model returns the frozen layers' output with a completion,
    where there is one to use again; other engines need not look at it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_new_tokens: int = Field(300, gt=0)
    temperature: float = Field(1.0, ge=0)
    top_k: int | None = Field(None, gt=0)
    top_p: float | None = Field(None, gt=0, le=1)
    min_p: float | None = Field(None, gt=0, le=1)
    stop: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    keep_trunk: bool = False

    @property
    def truncates(self) -> bool:
        """Whether some tokens are never drawn."""
        return self.top_k is not None or self.min_p is not None or (self.top_p or 1) < 1


class Request(NamedTuple):
    """One row to sample: its prompt ids, the seed of its own random stream, and what a feed knows it by.

    `max_new_tokens` is a limit of its own, at most the sampling's.
    """

    prompt_ids: tuple[int, ...]
    seed: int
    key: int = 0
    max_new_tokens: int | None = None


class Feed(Protocol):
    """Where an engine takes requests from as they come, and puts completions as they end.

    There are at most `size` requests at once, and prompt and completion of one are at most `length` tokens.
    """

    size: int
    length: int

    def take(self, most: int, wait: bool) -> list[Request]:
        """At most `most` requests that are ready, equal prompts side by side. With `wait` there is at least one, or
        there will be none; without, the call returns at once."""

    def put(self, request: Request, completion: Completion) -> None:
        """The completion of a request that was taken."""


class Listed:
    """A feed of requests that are all known, by length of their prompts."""

    def __init__(self, requests: Sequence[Request], sampling: Sampling) -> None:
        self.size = len(requests)
        self.length = max(len(request.prompt_ids) for request in requests) + sampling.max_new_tokens
        by_prompt = sorted(range(len(requests)), key=lambda i: (len(requests[i].prompt_ids), requests[i].prompt_ids))
        self._waiting = deque(requests[i]._replace(key=i) for i in by_prompt)
        self._done: dict[int, Completion] = {}

    def take(self, most: int, wait: bool) -> list[Request]:
        """See Feed."""
        return [self._waiting.popleft() for _ in range(min(most, len(self._waiting)))]

    def put(self, request: Request, completion: Completion) -> None:
        """See Feed."""
        self._done[request.key] = completion

    def completions(self) -> list[Completion]:
        """One a request, in the order of the requests."""
        return [self._done[i] for i in range(self.size)]


class Engine(Protocol):
    """Samples completions. A row's tokens depend on its prompt, its seed and the weights, not on the other rows
    (up to the last bits of the arithmetic, which depend on the batch's shape)."""

    @property
    def context_length(self) -> int | None:
        """Tokens of the longest prompt and completion together, None where nobody states it."""

    @property
    def apart(self) -> bool:
        """Whether it can sample beside the trainer: by weights of its own, in another process or on another device."""

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Completion]:
        """One completion a request, in order. Log-probs are those of the distribution sampled from."""

    def serve(self, feed: Feed, sampling: Sampling) -> None:
        """Sample what `feed` asks for, as it asks, until it has no more."""

    def sync(self) -> None:
        """Make the engine sample from the trainer's current weights."""

    def fingerprint(self) -> str:
        """A hash of the adapter weights that the engine samples from."""
