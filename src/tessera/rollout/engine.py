"""What a rollout engine is: prompts and seeds in, sampled token ids with their log-probs out."""

from __future__ import annotations

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
    """One row to sample: its prompt ids, and the seed of its own random stream."""

    prompt_ids: tuple[int, ...]
    seed: int


class Engine(Protocol):
    """Samples completions. A row's tokens depend on its prompt, its seed and the weights, not on the other rows
    (up to the last bits of the arithmetic, which depend on the batch's shape)."""

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Completion]:
        """One completion a request, in order. Log-probs are those of the distribution sampled from."""

    def sync(self) -> None:
        """Make the engine sample from the trainer's current weights."""

    def fingerprint(self) -> str:
        """A hash of the adapter weights that the engine samples from."""
