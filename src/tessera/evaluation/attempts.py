"""Asking the questions of an evaluation: how often and how each, a chunk at a time, never one that was asked before."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence, Set
from dataclasses import asdict
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from tessera.core.errors import UserError
from tessera.core.seeding import derive
from tessera.core.types import Group, Problem
from tessera.rollout.boundary import read_answer
from tessera.rollout.collect import Collector, Start
from tessera.rollout.engine import Sampling
from tessera.tasks.base import Split

Row = dict[str, Any]


class Part(BaseModel):
    """A set of questions, and how each of them is asked.

    `task` is a recipe's mapping of `name` and options. `first` keeps that many questions of the split (null: all). `by`
    is a key of the problems' metadata whose values are also scored apart. `success`: see `Rollout.solved`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    task: dict[str, Any]
    split: Split = "test"
    first: int | None = Field(None, gt=0)
    samples: int = Field(1, gt=0)
    temperature: float = Field(0.0, ge=0)
    max_new_tokens: int = Field(512, gt=0)
    by: str | None = None
    success: float | None = None

    @model_validator(mode="after")
    def _attempts_differ(self) -> Part:
        if self.samples > 1 and self.temperature == 0:
            raise ValueError(
                f"{self.samples} samples at temperature 0 are the same answer so many times: give a temperature above "
                "0, or 1 sample"
            )
        return self

    @property
    def sampling(self) -> Sampling:
        """What the engine is told."""
        return Sampling(max_new_tokens=self.max_new_tokens, temperature=self.temperature)


def attempts(
    collector: Collector, part: Part, problems: Sequence[Problem], *, done: Set[str], seed: int, at_once: int
) -> Iterator[list[Row]]:
    """Ask the `problems` whose ids are not `done`, about `at_once` completions a time; yield the rows of each chunk.

    A chunk holds whole questions. Attempt i at a question draws from the stream (seed, part, question, i), so what is
    asked together, or was asked before, changes nothing.
    """
    left = [problem for problem in problems if problem.id not in done]
    size = max(1, at_once // part.samples)
    streams = derive(seed, "evaluation", part.name)
    for start in range(0, len(left), size):
        starts = [Start(problem, stream=problem.id) for problem in left[start : start + size]]
        groups = collector.collect(starts, part.samples, part.sampling, streams)
        yield [row for group in groups for row in _rows(collector, part, group)]


def check_group(part: Part, problems: Sequence[Problem]) -> None:
    """UserError where `part.by` is no key of a problem's metadata."""
    for problem in problems if part.by is not None else ():
        if part.by not in problem.metadata:
            raise UserError(f"part {part.name}: problem {problem.id!r} has no {part.by!r} to be scored by")


def _rows(collector: Collector, part: Part, group: Group) -> Iterator[Row]:
    """The rows that are kept of the attempts at one question; `answer` if the task can tell it, `turns` with tools."""
    problem, tokenizer = group.problem, collector.policy.tokenizer
    prompt = str(tokenizer.decode(list(group.prompt_ids)))
    for sample, rollout in enumerate(group.rollouts):
        read = read_answer(collector.task, problem, rollout.text)
        answer = {} if read is None else {"answer": read.answer}
        by = {} if part.by is None else {"by": str(problem.metadata[part.by])}
        turns = {} if collector.tooled is None else {"turns": [asdict(turn) for turn in rollout.turns]}
        yield {
            "part": part.name,
            "problem_id": problem.id,
            "question": fingerprint(problem.key),
            "sample": sample,
            **by,
            "prompt": prompt,
            "text": rollout.text,
            "gold": plain(problem.answer),
            **answer,
            "reward": rollout.reward,
            "components": dict(rollout.components),
            "error": rollout.error or (read.error if read else None),
            "solved": rollout.solved(part.success),
            "finish_reason": rollout.finish_reason,
            "tokens": rollout.written,
            **turns,
        }


def fingerprint(text: str) -> str:
    """What stands for a text where two are only ever compared."""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def plain(answer: Any) -> Any:
    """A gold answer as JSON has it; what JSON does not know, as text."""
    if answer is None or isinstance(answer, str | int | float):
        return answer
    return [plain(a) for a in answer] if isinstance(answer, list | tuple) else str(answer)
