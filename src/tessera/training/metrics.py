"""The row of metrics of an RL step. docs/metrics.md gives each key's formula and unit."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from tessera.core.importance import summary
from tessera.core.types import Group
from tessera.tasks.mixture import part_of
from tessera.training.curriculum import difficulty
from tessera.training.settings import CurriculumSettings
from tessera.training.step import Update

Row = dict[str, float | None]

PART_KEYS = {"reward": "reward/mean", "accuracy": "accuracy"}


def of_rewards(groups: Sequence[Group], success: float | None) -> Row:
    """What the step's own rollouts earned (replays left out); for `success` see `Rollout.solved`."""
    rollouts = [r for group in groups for r in group.rollouts]
    rewards = [r.reward for r in rollouts if r.reward is not None]
    lengths = [r.written for r in rollouts]
    names = sorted({name for r in rollouts for name in r.components})
    return {
        **{f"reward/{name}": _mean([r.components[name] for r in rollouts if name in r.components]) for name in names},
        "reward/mean": _mean(rewards),
        "reward/std": statistics.pstdev(rewards) if rewards else None,
        "accuracy": sum(r.solved(success) for r in rollouts) / len(rollouts),
        "truncation_rate": sum(r.finish_reason == "length" for r in rollouts) / len(rollouts),
        "completion_length/mean": statistics.fmean(lengths),
        "completion_length/max": max(lengths),
        "groups/total": len(groups),
        "groups/zero_spread": sum(len(set(group.rewards)) < 2 for group in groups),
        "rollouts/failed": len(rollouts) - len(rewards),
    }


def of_parts(groups: Sequence[Group], success: float | None, parts: Iterable[str]) -> Row:
    """What the step's rollouts earned in each part of a mixture; nothing but their number where a part had none."""
    row: Row = {}
    for part in parts:
        own = [group for group in groups if part_of(group.problem) == part]
        told = of_rewards(own, success) if own else {}
        row[f"part/{part}/groups"] = len(own)
        row.update({f"part/{part}/{name}": told[key] for name, key in PART_KEYS.items() if told})
    return row


def of_difficulty(groups: Sequence[Group], curriculum: CurriculumSettings | None) -> Row:
    """How hard the step's own problems were, where the stage has a curriculum."""
    if curriculum is None:
        return {}
    known = [difficulty(group.problem, curriculum) for group in groups]
    return {"difficulty/mean": _mean(known), "difficulty/min": min(known), "difficulty/max": max(known)}


def of_tokens(groups: Sequence[Group], replayed: Sequence[Group], updates: Sequence[Update]) -> Row:
    """Tokens generated, trained on and scored in the step, replays included."""
    contributing = sum(update.contributing for update in updates)
    return {
        "tokens/generated": generated(groups, replayed),
        "tokens/contributing": contributing,
        "tokens/contributing_per_example": contributing / len(groups),
        "tokens/scored": sum(update.scored for update in updates),
        "tokens/fed": sum(update.fed for update in updates),
        "tokens/padding": sum(update.padding for update in updates),
    }


def of_updates(updates: Sequence[Update]) -> Row:
    """Loss, gradient and what was seen at the scored tokens. None where nothing was scored."""
    made = [update for update in updates if update.grad_norm is not None]
    weight, advantage = _joined(u.tokens.weight for u in made), _joined(u.tokens.advantage for u in made)
    scored = len(weight)  # tokens with gradient; Update.scored also counts passes without
    told = _joined(u.tokens.mismatch for u in made)
    mismatch = told[told.isfinite()]  # a sampler may not know the log-prob of a token
    low, high, bounded = (
        sum(getattr(u.tokens, name) for u in made) for name in ("clipped_low", "clipped_high", "bounded")
    )
    return {
        "updates": len(made),
        "loss": _mean([update.loss for update in made]),
        "grad_norm": _mean([update.grad_norm for update in made if update.grad_norm is not None]),
        "kl": _tensor_mean(_joined(u.tokens.kl for u in made)),
        "entropy": _tensor_mean(_joined(u.tokens.entropy for u in made)),
        "clip_fraction/low": low / scored if scored else None,
        "clip_fraction/high": high / scored if scored else None,
        "exponent_bounded": bounded / scored if scored else None,
        "weight/min": float(weight.min()) if scored else None,
        "weight/mean": _tensor_mean(weight),
        "weight/max": float(weight.max()) if scored else None,
        "advantage/mean": _tensor_mean(advantage),
        "advantage/std": float(advantage.std(correction=0)) if scored else None,
        "mismatch/mean": _tensor_mean(mismatch.abs()),
        "mismatch/max": float(mismatch.abs().max()) if len(mismatch) else None,
        # k3 of KL(sampler || trainer) at the sampler's tokens, d = trainer - sampler
        "mismatch/kl": _tensor_mean(torch.expm1(-mismatch) + mismatch),
        "mismatch/unknown": len(told) - len(mismatch) if scored else None,
        **summary([part for u in made for part in u.tokens.importance]),
    }


def of_tools(groups: Sequence[Group]) -> Row:
    """What the tools of an environment were asked, and what they gave."""
    rollouts = [r for group in groups for r in group.rollouts]
    calls = [call for r in rollouts for turn in r.turns for call in turn.calls]
    return {
        "tools/calls": _mean([sum(len(turn.calls) for turn in r.turns) for r in rollouts]),
        "tools/users": _mean([bool(r.turns) for r in rollouts]),
        "tools/failed": _mean([call.failure is not None for call in calls]),
        "tools/empty": _mean([call.empty for call in calls]),
        "tools/tokens": _mean([len(r.ids) - r.written for r in rollouts]),
    }


def of_time(
    times: Mapping[str, float],
    updates: Sequence[Update],
    groups: Sequence[Group],
    replayed: Sequence[Group],
    seconds: float,
    peak_bytes: int,
) -> Row:
    """Seconds by what they were spent on, speed, and the peak of memory."""
    sampling = times.get("ahead", times["rollout"])
    return {
        **{f"time/{name}": value for name, value in times.items()},
        **{f"time/{name}": sum(u.seconds[name] for u in updates) for name in ("scoring", "backward")},
        "time/step": seconds,
        "speed/rollout": generated(groups, replayed) / sampling if sampling else None,
        "memory/peak_bytes": peak_bytes,
    }


def generated(*groups: Sequence[Group]) -> int:
    """Tokens the policy wrote."""
    return sum(sum(r.sampled) for part in groups for group in part for r in group.rollouts)


def _joined(parts: Iterable[list[Tensor]]) -> Tensor:
    flat = [vector for part in parts for vector in part]
    return torch.cat(flat) if flat else torch.zeros(0)


def _tensor_mean(x: Tensor) -> float | None:
    return float(x.mean()) if x.numel() else None


def _mean(values: Sequence[float]) -> float | None:
    return statistics.mean(map(float, values)) if values else None  # exact: a sum of large floats can overflow
