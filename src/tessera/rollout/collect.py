"""From problems to groups of graded rollouts."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from tessera.core.seeding import derive
from tessera.core.types import Completion, Group, Problem, Rollout
from tessera.policy.load import Policy
from tessera.policy.prompting import check_fits, render
from tessera.rollout.boundary import Grade, grade
from tessera.rollout.engine import Engine, Request, Sampling
from tessera.tasks.base import Task

NOT_FINITE = "the model computed values that are not finite while it was sampled"


class Start(NamedTuple):
    """Where rollouts of a problem begin: at its prompt, or after the first tokens of an earlier completion.

    A `stream` names the random stream that they draw from; without, its place among the starts does.
    """

    problem: Problem
    prefix_ids: tuple[int, ...] = ()
    stream: str | None = None


@dataclass
class Collector:
    """Samples groups with an engine and grades them with a task.

    `seconds` adds up the time spent sampling (`rollout`) and grading (`reward`); read and clear it with `take_times`.
    """

    engine: Engine
    policy: Policy
    task: Task
    chat_template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    _prompts: dict[tuple[object, str], tuple[int, ...]] = field(default_factory=dict)
    _seconds: dict[str, float] = field(default_factory=lambda: {"rollout": 0.0, "reward": 0.0})

    def prompt_ids(self, problem: Problem) -> tuple[int, ...]:
        """The ids of a problem's prompt, encoded once."""
        prompt = problem.prompt if isinstance(problem.prompt, str) else tuple(problem.prompt)
        said = (prompt, problem.prefill)  # not the id, which two splits may share
        if said not in self._prompts:
            self._prompts[said] = tuple(render(self.policy, problem, self.chat_template_kwargs))
        return self._prompts[said]

    def check_fits(self, problems: Sequence[Problem], max_new_tokens: int) -> None:
        """Refuse, before anything is sampled, a problem whose prompt and longest completion exceed the context."""
        for problem in problems:
            check_fits(self.prompt_ids(problem), max_new_tokens, self.engine.context_length, problem.id)

    def collect(self, starts: Sequence[Start], size: int, sampling: Sampling, seed: int) -> list[Group]:
        """A group of `size` rollouts from each start. Row i of start g draws from the stream (seed, g, i), or, where
        the start names its own, (seed, stream, i)."""
        prompts = [self.prompt_ids(start.problem) + start.prefix_ids for start in starts]
        streams = [g if start.stream is None else start.stream for g, start in enumerate(starts)]
        requests = [
            Request(prompt, derive(seed, stream, i))
            for prompt, stream in zip(prompts, streams, strict=True)
            for i in range(size)
        ]
        began = time.perf_counter()
        completions = self.engine.generate(requests, sampling)
        graded = time.perf_counter()
        groups = [
            Group(
                start.problem,
                prompt,
                tuple(self._rollout(start, prompt, c) for c in completions[g * size : (g + 1) * size]),
            )
            for g, (start, prompt) in enumerate(zip(starts, prompts, strict=True))
        ]
        self._seconds["rollout"] += graded - began
        self._seconds["reward"] += time.perf_counter() - graded
        return groups

    def take_times(self) -> dict[str, float]:
        """Seconds since the last call, by what they were spent on."""
        taken = dict(self._seconds)
        self._seconds.update(dict.fromkeys(taken, 0.0))
        return taken

    def _rollout(self, start: Start, prompt_ids: tuple[int, ...], completion: Completion) -> Rollout:
        text = start.problem.prefill + self._text(start.prefix_ids + completion.ids)
        failed = completion.finish_reason == "error"
        ungraded = Grade(None, {}, completion.error or NOT_FINITE, None)
        reward = ungraded if failed else grade(self.task, start.problem, text)
        return Rollout(
            prompt_ids=prompt_ids,
            ids=completion.ids,
            sampled=(True,) * len(completion.ids),
            logprobs=completion.logprobs,
            finish_reason=completion.finish_reason,
            text=text,
            reward=reward.reward,
            components=reward.components,
            error=reward.error,
            correct=reward.correct,
            trunk=completion.trunk,
        )

    def _text(self, ids: tuple[int, ...]) -> str:
        tokenizer: Any = self.policy.tokenizer
        return str(tokenizer.decode([i for i in ids if i not in self.policy.eos_ids], skip_special_tokens=True))
