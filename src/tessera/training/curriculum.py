"""From a task and a stage's settings to the order in which its problems are met: mixtures and difficulty."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from numbers import Real

from tessera.core.errors import UserError
from tessera.core.seeding import derive
from tessera.core.types import Problem
from tessera.tasks.mixture import part_of
from tessera.training.sampler import ProblemSampler, Sampler, WeightedSampler
from tessera.training.settings import CurriculumSettings


def make_sampler(
    problems: Sequence[Problem],
    seed: int,
    weights: Mapping[str, float],
    curriculum: CurriculumSettings | None = None,
    steps: int = 1,
) -> Sampler:
    """A sampler over the positions of `problems`, for a stage of `steps`.

    The parts of a mixture, where there are `weights`, take turns by weight; the curriculum orders the problems of each.
    """

    def of(indices: Sequence[int], own_seed: int) -> Sampler:
        if curriculum is None:
            return ProblemSampler(indices, own_seed)
        return _ordered({i: difficulty(problems[i], curriculum) for i in indices}, own_seed, curriculum, steps)

    if not weights:
        return of(range(len(problems)), seed)
    parts: dict[str, list[int]] = {name: [] for name in weights}
    for i, problem in enumerate(problems):
        parts[part_of(problem)].append(i)
    return WeightedSampler({name: of(own, derive(seed, "part", name)) for name, own in parts.items()}, weights)


def difficulty(problem: Problem, curriculum: CurriculumSettings) -> float:
    """The number in the problem's column, or what the curriculum gives to a problem without one."""
    value = problem.metadata.get(curriculum.by)
    if value is None and curriculum.missing is not None:
        return curriculum.missing
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
        columns = ", ".join(map(repr, problem.metadata)) or "none"
        has = f"{curriculum.by} = {value!r:.60}" if curriculum.by in problem.metadata else f"the columns {columns}"
        hint = "; curriculum.missing can stand for one that is not there" if value is None else ""
        raise UserError(f"problem {problem.id!r} has {has}; a curriculum by {curriculum.by} needs a number{hint}")
    return float(value)


def _ordered(known: Mapping[int, float], seed: int, curriculum: CurriculumSettings, steps: int) -> Sampler:
    """A sampler of problems whose difficulty is known."""
    if curriculum.order == "uniform":
        return _uniform(known, seed, curriculum.bins)
    if curriculum.order == "growing":
        return _growing(known, seed, curriculum, steps)
    sign = 1 if curriculum.order == "easiest_first" else -1
    return ProblemSampler(list(known), seed, rank=lambda i: sign * known[i])


def _uniform(known: Mapping[int, float], seed: int, bins: int | None) -> Sampler:
    """Every difficulty, or every bin of equal width that holds one, as often as every other."""
    low, high = min(known.values()), max(known.values())

    def level(value: float) -> str:
        if bins is None or low == high:
            return repr(value)
        return f"bin {min(bins, 1 + int(bins * (value - low) / (high - low)))}"

    levels: dict[str, list[int]] = {}
    for i in sorted(known, key=known.__getitem__):
        levels.setdefault(level(known[i]), []).append(i)
    samplers = {name: ProblemSampler(own, derive(seed, "level", name)) for name, own in levels.items()}
    return WeightedSampler(samplers, dict.fromkeys(samplers, 1.0))


def _growing(known: Mapping[int, float], seed: int, curriculum: CurriculumSettings, stage_steps: int) -> Sampler:
    """What is no harder than a bound, which rises in a line from `start` at the first step to `end` after `steps`."""
    easiest, hardest = min(known.values()), max(known.values())
    low = easiest if curriculum.start is None else curriculum.start
    high = hardest if curriculum.end is None else curriculum.end
    if low < easiest or high < low:
        raise UserError(
            f"a curriculum from {low:g} to {high:g} does not fit problems of {curriculum.by} {easiest:g} to "
            f"{hardest:g}: it has to begin with one of them, and to rise"
        )
    steps = curriculum.steps or stage_steps

    def admits(index: int, step: int) -> bool:
        bound = high if step >= steps else low + (high - low) * (step - 1) / (steps - 1)
        return known[index] <= bound

    return ProblemSampler(list(known), seed, admits=admits)
