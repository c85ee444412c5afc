"""From problems to groups of graded rollouts."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from tessera.core.seeding import derive
from tessera.core.types import Completion, Group, Problem, Rollout
from tessera.environments.episode import Episode
from tessera.policy.load import Policy
from tessera.policy.prompting import check_fits, render
from tessera.rollout.boundary import Grade, grade
from tessera.rollout.engine import Engine, Request, Sampling
from tessera.rollout.episodes import Opening, Tooled
from tessera.rollout.grading import Grading, Passing
from tessera.tasks.base import Task

NOT_FINITE = "the model computed values that are not finite while it was sampled"


class Start(NamedTuple):
    """Where rollouts of a problem begin: at its prompt, or after the first tokens of an earlier completion, of which
    `prefix_sampled` says what the policy wrote (empty: all).

    A `stream` names the random stream that they draw from; without, its place among the starts does.
    """

    problem: Problem
    prefix_ids: tuple[int, ...] = ()
    prefix_sampled: tuple[bool, ...] = ()
    stream: str | None = None

    @property
    def written(self) -> int:
        """Tokens of the prefix that the policy wrote."""
        return sum(self.prefix_sampled) if self.prefix_sampled else len(self.prefix_ids)


@dataclass
class Collector:
    """Samples groups with an engine and grades them with a task.

    With `tooled`, a rollout is an episode in which the model may call tools. With `graders` above 0 a rollout is graded
    when it ends, in one of so many threads, while the others are sampled; else they are graded afterwards, in order.

    `seconds` adds up the time spent sampling (`rollout`) and grading (`reward`); read and clear it with `take_times`.
    """

    engine: Engine
    policy: Policy
    task: Task
    chat_template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    tooled: Tooled | None = None
    graders: int = 0
    _prompts: dict[tuple[object, str], tuple[int, ...]] = field(default_factory=dict)
    _seconds: dict[str, float] = field(default_factory=lambda: {"rollout": 0.0, "reward": 0.0})

    def prompt_ids(self, problem: Problem) -> tuple[int, ...]:
        """The ids of a problem's prompt, encoded once."""
        prompt = problem.prompt if isinstance(problem.prompt, str) else tuple(problem.prompt)
        said = (prompt, problem.prefill)  # not the id, which two splits may share
        if said not in self._prompts:
            asked = problem if self.tooled is None else self.tooled.introduced(problem)
            self._prompts[said] = tuple(render(self.policy, asked, self.chat_template_kwargs))
        return self._prompts[said]

    def check_fits(self, problems: Sequence[Problem], max_new_tokens: int) -> None:
        """Refuse, before anything is sampled, a problem whose prompt and longest completion exceed the context."""
        length = max_new_tokens if self.tooled is None else self.tooled.length(max_new_tokens)
        for problem in problems:
            check_fits(self.prompt_ids(problem), length, self.engine.context_length, problem.id)

    def collect(self, starts: Sequence[Start], size: int, sampling: Sampling, seed: int) -> list[Group]:
        """A group of `size` rollouts from each start. Row i of start g draws from the stream (seed, g, i), or, where
        the start names its own, (seed, stream, i)."""
        streams = [g if start.stream is None else start.stream for g, start in enumerate(starts)]
        seeds = [derive(seed, stream, i) for stream in streams for i in range(size)]
        rollouts = self._rollouts([start for start in starts for _ in range(size)], seeds, sampling)
        return [
            Group(
                start.problem,
                rollouts[g * size].prompt_ids,
                tuple(rollouts[g * size : (g + 1) * size]),
                start.prefix_sampled,
            )
            for g, start in enumerate(starts)
        ]

    def take_times(self) -> dict[str, float]:
        """Seconds since the last call, by what they were spent on."""
        taken = dict(self._seconds)
        self._seconds.update(dict.fromkeys(taken, 0.0))
        return taken

    def _rollouts(self, starts: Sequence[Start], seeds: Sequence[int], sampling: Sampling) -> list[Rollout]:
        """A graded rollout from each start, by its own seed."""
        began = time.perf_counter()
        sample = self._sample if self.tooled is None else self._play
        with Grading(lambda i, rollout: self._graded(starts[i].problem, rollout), self.graders) as grading:
            sample(starts, seeds, sampling, grading)
            sampled = time.perf_counter()
            rollouts = grading.results(len(starts))
        self._seconds["rollout"] += sampled - began
        self._seconds["reward"] += time.perf_counter() - sampled
        return rollouts

    def _sample(self, starts: Sequence[Start], seeds: Sequence[int], sampling: Sampling, grading: Grading) -> None:
        prompts = [self.prompt_ids(start.problem) + start.prefix_ids for start in starts]
        requests = [Request(prompt, seed) for prompt, seed in zip(prompts, seeds, strict=True)]

        def ended(i: int, done: Completion) -> None:
            grading.put(i, self._rollout(starts[i], prompts[i], done))

        if self.graders and requests:
            self.engine.serve(Passing(requests, sampling, ended), sampling)
        else:
            for i, done in enumerate(self.engine.generate(requests, sampling)):
                ended(i, done)

    def _rollout(self, start: Start, prompt_ids: tuple[int, ...], done: Completion) -> Rollout:
        return Rollout(
            prompt_ids=prompt_ids,
            ids=done.ids,
            sampled=(True,) * len(done.ids),
            logprobs=done.logprobs,
            finish_reason=done.finish_reason,
            text=start.problem.prefill + self._text(start.prefix_ids + done.ids),
            reward=None,
            error=done.error,
            trunk=done.trunk,
        )

    def _play(self, starts: Sequence[Start], seeds: Sequence[int], sampling: Sampling, grading: Grading) -> None:
        """Episodes. What the model wrote is graded, and what tools said is not."""
        assert self.tooled is not None
        openings = [
            Opening(
                self.prompt_ids(start.problem),
                start.prefix_ids,
                start.prefix_sampled or (True,) * len(start.prefix_ids),
                seed,
            )
            for start, seed in zip(starts, seeds, strict=True)
        ]
        tokens = sampling.max_new_tokens + max(start.written for start in starts)

        def ended(i: int, episode: Episode) -> None:
            grading.put(i, _played(starts[i].problem, openings[i], episode))

        self.tooled.run(self.engine, openings, sampling, tokens, ended)

    def _graded(self, problem: Problem, rollout: Rollout) -> Rollout:
        failed = rollout.finish_reason == "error"
        ungraded = Grade(None, {}, rollout.error or NOT_FINITE, None)
        earned = ungraded if failed else grade(self.task, problem, rollout.text)
        return replace(rollout, **earned._asdict())

    def _text(self, ids: tuple[int, ...]) -> str:
        tokenizer: Any = self.policy.tokenizer
        return str(tokenizer.decode([i for i in ids if i not in self.policy.eos_ids], skip_special_tokens=True))


def _played(problem: Problem, opening: Opening, episode: Episode) -> Rollout:
    cut = len(opening.prefix_ids)
    return Rollout(
        prompt_ids=opening.prompt_ids + opening.prefix_ids,
        ids=tuple(episode.ids[cut:]),
        sampled=tuple(episode.sampled[cut:]),
        logprobs=tuple(episode.logprobs[cut:]),
        finish_reason=episode.finish_reason or "error",
        text=problem.prefill + episode.text,
        reward=None,
        error=episode.error,
        turns=tuple(replace(turn, start=turn.start - cut, end=turn.end - cut) for turn in episode.turns),
    )
