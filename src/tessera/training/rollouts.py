"""The rollouts of the steps of an RL stage: which problems are asked, and when they are sampled.

A step samples its own; with `rollouts.ahead` the engine samples those of the next step, by the weights that this one
begins with, while this one updates.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from tessera.core.types import Group, Problem
from tessera.rollout.collect import Start
from tessera.rollout.engine import Sampling
from tessera.rollout.shaping import overlong
from tessera.training.ahead import Ahead, Sampled
from tessera.training.context import RunContext
from tessera.training.curriculum import make_sampler
from tessera.training.sentinels import Sentinels
from tessera.training.settings import RLStage


class Rollouts:
    """Draws the problems of each step, and samples and grades completions of them."""

    def __init__(self, run: RunContext, settings: RLStage, sentinels: Sentinels) -> None:
        self.run, self.settings, self.sentinels = run, settings, sentinels
        self.problems: dict[str, Problem] = {p.id: p for p in run.task.train}
        task, seed = run.task, run.stage_seed("problems")
        self.sampler = make_sampler(task.train, seed, task.part_weights, settings.rollouts.curriculum, settings.steps)
        self._ahead = Ahead()
        self._before: dict[str, Any] = {}  # the sampler's state before what is under way

    def of_step(self, sync: Callable[[], None]) -> Sampled:
        """The rollouts of the present step; `sync` gives the engine the present weights.

        Those of the next begin to be sampled. Interrupted may be raised until then.
        """
        step = self.run.state.stage_step
        with self.run.interrupt.immediate():
            began = time.perf_counter()
            sampled = self._ahead.take()
            waited = time.perf_counter() - began
        sync()
        with self.run.interrupt.immediate():
            sampled = self._sample(step, step) if sampled is None else replace(sampled, waited=waited)
            for groups in sampled.rounds:
                self._note(groups)
            self.sentinels.spread(sampled.groups)
        if self.settings.rollouts.ahead and step < self.settings.steps:
            self._before = self.sampler.state()
            self._ahead.begin(partial(self._sample, step + 1, step))
        return sampled

    def trained(self, sampled: Sampled) -> list[Group]:
        """The groups that are trained on: with dynamic sampling those with a spread of rewards."""
        return [group for group in sampled.groups if self._teaches(group)]

    def restart(self, start: Start, *names: str | int) -> list[Group]:
        """A group from inside an earlier completion, by the engine's present weights."""
        groups = self._groups([start], self.run.seed_of(*names))
        self._note(groups)
        return groups

    def wait(self) -> None:
        """Until the engine is idle."""
        self._ahead.wait()

    def state(self) -> dict[str, Any]:
        """Where the order of problems stands, and what was sampled ahead; waits for it.

        Where sampling ahead failed, the problems are those that have to be drawn again.
        """
        done = self._ahead.wait()
        failed = self._ahead.begun and done is None
        return {
            "sampler": self._before if failed else self.sampler.state(),
            "ahead": None if done is None else done.to_plain(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over what `state` returned."""
        told = state["ahead"]
        self._ahead.put(None if told is None else Sampled.from_plain(told, self.problems))
        self.sampler.restore(state["sampler"])

    def _sample(self, step: int, by: int) -> Sampled:
        """Draw the problems of `step` and sample them by the weights of step `by`; nothing is written down."""
        self.run.collector.take_times()
        wanted, most = self.settings.prompts_per_step, self.settings.rollouts.max_rounds
        rounds: list[list[Group]] = []
        kept = 0
        while len(rounds) < most and kept < wanted:
            n = len(rounds)
            problems = [self.run.task.train[i] for i in self.sampler.take(wanted - kept, step)]
            seed = self.run.seed_at(step, "rollout", *([n] if n else []))
            rounds.append(self._groups([Start(problem) for problem in problems], seed))
            kept += sum(map(self._teaches, rounds[-1]))
        return Sampled(tuple(rounds), by, self.run.collector.take_times())

    def _teaches(self, group: Group) -> bool:
        return self.settings.rollouts.max_rounds == 1 or len(set(group.rewards)) > 1

    def _groups(self, starts: Sequence[Start], seed: int) -> list[Group]:
        # A restarted completion may grow as long as any other, not longer: the context was checked for that length.
        left = self.settings.max_new_tokens - max(start.written for start in starts)
        shaping = self.settings.rollouts
        sampling = Sampling(
            max_new_tokens=left,
            temperature=self.settings.temperature,
            keep_trunk=shaping.keep_trunk and not shaping.ahead,  # which no checkpoint keeps
            **shaping.model_dump(include={"stop", "top_k", "top_p", "min_p"}),
        )
        groups = self.run.collector.collect(starts, self.settings.group_size, sampling, seed)
        if not shaping.overlong_buffer:
            return groups
        rule = (self.settings.max_new_tokens, shaping.overlong_buffer, shaping.overlong_penalty)
        return [overlong(g, s.written, *rule) for g, s in zip(groups, starts, strict=True)]

    def _note(self, groups: Sequence[Group]) -> None:
        self.run.log_groups(groups)  # before anything can stop the run over them
        self.sentinels.rewards(groups)
        self.sentinels.tools(groups)
