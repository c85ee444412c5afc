"""Rejection sampling: completions of an RL stage that were good enough, kept for a supervised stage after it.

They are written to harvest.jsonl while they are sampled, as rows that a checkpoint knows the end of, and chosen from
when the supervised stage begins: what is learnt after a resumption is what was learnt before.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from tessera.core.errors import RunStopped
from tessera.core.seeding import derive
from tessera.core.types import Group, Problem, Rollout
from tessera.training.settings import HarvestSettings

Trace = Mapping[str, Any]  # a row of harvest.jsonl


class Harvest(NamedTuple):
    """The traces that were chosen, and how many there were to choose from; `sha256` names the choice."""

    traces: list[Trace]
    good: int
    cut: int
    distinct: int
    problems: int

    @property
    def sha256(self) -> str:
        """A hash of problems and ids, in order."""
        told = json.dumps([[trace["problem_id"], trace["ids"]] for trace in self.traces])
        return hashlib.sha256(told.encode()).hexdigest()[:16]

    def record(self, stage: str) -> dict[str, Any]:
        """For summary.json."""
        counts = {"good": self.good, "cut": self.cut, "distinct": self.distinct, "problems": self.problems}
        return {"stage": stage, **counts, "kept": len(self.traces), "sha256": self.sha256}


def traces(
    group: Group, wanted: Sequence[HarvestSettings], prompt_length: int, success: float | None = None
) -> Iterator[dict[str, Any]]:
    """Rows for the completions of `group` that one of `wanted` may learn.

    `prompt_length` is that of the problem's prompt: what a replay was given of an earlier completion is learnt too.
    `prompt` and `completion` are such that another run can read the file as its `data`.
    """
    given = group.prompt_ids[prompt_length:]
    given_sampled = group.prefix_sampled or (True,) * len(given)
    for rollout in group.rollouts:
        if any(_good(rollout, settings, success) for settings in wanted):
            yield {
                "problem_id": group.problem.id,
                "prompt": _prompt(group.problem),
                "completion": rollout.text.removeprefix(group.problem.prefill),
                "ids": [*given, *rollout.ids],
                "sampled": [*given_sampled, *rollout.sampled],
                "reward": rollout.earned,
                "solved": rollout.solved(success),
                "finish_reason": rollout.finish_reason,
            }


def choose(rows: Iterable[Trace], settings: HarvestSettings, seed: int) -> Harvest:
    """The traces that `settings` admits, of distinct texts, at most so many of a problem; problems in their order.

    Raises RunStopped where nothing is left.
    """
    good = [row for row in rows if row["stage"] == settings.stage and _admits(row["reward"], row["solved"], settings)]
    whole = [row for row in good if row["finish_reason"] == "stop"]
    found: dict[str, dict[str, Trace]] = {}
    for row in whole:
        found.setdefault(row["problem_id"], {}).setdefault(row["completion"], row)
    kept = [row for texts in found.values() for row in _picked(list(texts.values()), settings, seed)]
    harvest = Harvest(kept, len(good), len(good) - len(whole), sum(map(len, found.values())), len(found))
    if not kept:
        wanted = "solved its problem" if settings.threshold is None else f"earned {settings.threshold:g}"
        raise RunStopped(
            f"nothing to learn from stage {settings.stage}: {harvest.good} completions {wanted}, and {harvest.cut} of "
            "them were cut at max_new_tokens; more steps there, a lower harvest.threshold or `data` would change that"
        )
    return harvest


def _good(rollout: Rollout, settings: HarvestSettings, success: float | None) -> bool:
    return rollout.earned is not None and _admits(rollout.earned, rollout.solved(success), settings)


def _admits(reward: float, solved: bool, settings: HarvestSettings) -> bool:
    return solved if settings.threshold is None else reward >= settings.threshold


def _picked(texts: list[Trace], settings: HarvestSettings, seed: int) -> list[Trace]:
    """Some traces of one problem, given in the order they were sampled in."""
    if settings.pick == "shortest":
        texts = sorted(texts, key=lambda row: len(row["ids"]))
    elif settings.pick == "random":
        drawn = {i: derive(seed, row["problem_id"], i) for i, row in enumerate(texts)}
        texts = [texts[i] for i in sorted(drawn, key=drawn.__getitem__)]
    return texts[: settings.most]


def _prompt(problem: Problem) -> str | list[dict[str, str]]:
    """The prompt as a row of data holds it, its prefill included."""
    if isinstance(problem.prompt, str):
        return problem.prompt + problem.prefill
    turns = [{"role": m.role, "content": m.content} for m in problem.prompt]
    return [*turns, {"role": "assistant", "content": problem.prefill}] if problem.prefill else turns
