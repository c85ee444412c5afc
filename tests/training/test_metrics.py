"""The numbers of a step, by hand."""

from __future__ import annotations

import math
import resource

import pytest
import torch

from tessera.core.importance import Importance
from tessera.core.types import Group, Problem, Rollout
from tessera.training import metrics
from tessera.training.context import peak_memory
from tessera.training.step import TokenStats, Update


def rollout(length: int, reward: float | None, reason: str = "stop", tool: int = 0, **components: float) -> Rollout:
    own = (True,) * (length - tool) + (False,) * tool
    ids, logprobs = tuple(range(length)), tuple(-1.0 if mine else None for mine in own)
    return Rollout((1,), ids, own, logprobs, reason, "", reward, components, None if reward is not None else "failed")


def group(*rollouts: Rollout) -> Group:
    return Group(Problem("p", "?", None), (1,), rollouts)


GROUPS = [
    group(rollout(4, 1.0, right=1.0, short=0.5), rollout(10, 0.0, "length", right=0.0, short=0.0)),
    group(rollout(6, 0.5, right=0.5), rollout(8, None, "length")),
]


def test_rewards_of_a_step() -> None:
    assert metrics.of_rewards(GROUPS, success=0.5) == {
        "reward/mean": 0.5,
        "reward/std": math.sqrt(1 / 6),  # 0.5^2 twice and 0, over the three that have a reward
        "reward/right": 0.5,
        "reward/short": 0.25,  # over the two that have this component
        "accuracy": 0.5,  # two of all four: one that failed is not solved
        "truncation_rate": 0.5,
        "completion_length/mean": 7.0,
        "completion_length/max": 10,
        "groups/total": 2,
        "groups/zero_spread": 1,  # the second has a single reward
        "rollouts/failed": 1,
    }


def test_rewards_that_all_failed_have_no_mean() -> None:
    row = metrics.of_rewards([group(rollout(3, None), rollout(5, None))], success=1.0)
    assert (row["reward/mean"], row["reward/std"]) == (None, None)
    assert (row["accuracy"], row["rollouts/failed"], row["groups/zero_spread"]) == (0.0, 2, 1)


def test_rewards_of_any_size_have_a_mean() -> None:
    row = metrics.of_rewards([group(*[rollout(3, reward) for reward in (1.5e308, 1.5e308, 0.0)])], success=1.0)
    assert (row["reward/mean"], row["reward/std"]) == (1e308, pytest.approx(1e308 * math.sqrt(0.5)))


def test_a_component_cannot_take_the_place_of_the_total() -> None:
    row = metrics.of_rewards([group(rollout(3, 1.0, mean=7.0, std=8.0))], success=1.0)
    assert (row["reward/mean"], row["reward/std"]) == (1.0, 0.0)


def test_tokens_of_a_step_count_replays() -> None:
    replayed = [group(rollout(5, 1.0, tool=2), rollout(1, 0.0))]
    updates = [
        Update(contributing=20, scored=22, fed=50, grad_norm=1.0),
        Update(contributing=4, scored=4, fed=7, padding=3),
    ]
    assert metrics.of_tokens(GROUPS, replayed, updates) == {
        "tokens/generated": 28 + 4,  # a tool's tokens are not generated
        "tokens/contributing": 24,
        "tokens/contributing_per_example": 12.0,  # the replay's count for the two prompts of the step
        "tokens/scored": 26,
        "tokens/fed": 57,
        "tokens/padding": 3,
    }


def vectors(*values: list[float]) -> list[torch.Tensor]:
    return [torch.tensor(value) for value in values]


def test_updates_of_a_step() -> None:
    first = TokenStats(
        kl=vectors([0.1, 0.3], [0.2]),
        entropy=vectors([1.0, 2.0], [3.0]),
        advantage=vectors([1.0, -1.0], [3.0]),
        weight=vectors([1.0, 1.0], [0.5]),
        mismatch=vectors([0.1, -0.2], [0.0, math.nan]),  # a log-prob that the sampler did not know is left out
        clipped_low=1,
        bounded=3,
    )
    second = TokenStats(vectors([0.6]), vectors([4.0]), vectors([0.0]), vectors([1.5]), vectors([0.3]), clipped_high=2)
    updates = [
        Update(loss=0.5, grad_norm=2.0, contributing=3, scored=9, tokens=first),
        Update(loss=-0.1, grad_norm=1.0, contributing=1, scored=1, tokens=second),
        Update(),  # a replay in which nothing carried credit
    ]
    row = metrics.of_updates(updates)
    k3 = [math.exp(-d) - 1 + d for d in (0.1, -0.2, 0.0, 0.3)]  # d = sampler - trainer
    assert row == pytest.approx(
        {
            "updates": 2,
            "loss": 0.2,
            "grad_norm": 1.5,
            "kl": 0.3,
            "entropy": 2.5,
            "clip_fraction/low": 0.25,
            "clip_fraction/high": 0.5,
            "exponent_bounded": 0.75,
            "weight/min": 0.5,
            "weight/mean": 1.0,
            "weight/max": 1.5,
            "advantage/mean": 0.75,
            "advantage/std": math.sqrt((0.0625 + 3.0625 + 5.0625 + 0.5625) / 4),
            "mismatch/mean": 0.15,
            "mismatch/max": 0.3,
            "mismatch/unknown": 1,
            "mismatch/kl": sum(k3) / 4,
        },
        rel=1e-5,
    )


def test_what_was_corrected_for_the_sampler_is_taken_over_all_updates() -> None:
    parts = [Importance(torch.tensor([1.0, 4.0]), torch.tensor([1.0, 2.0])), Importance(*vectors([0.5], [0.5]))]
    updates = [Update(loss=0.0, grad_norm=1.0, tokens=TokenStats(importance=[part])) for part in parts]
    row = metrics.of_updates(updates)
    assert (row["importance/mean"], row["importance/max"]) == (pytest.approx(5.5 / 3), 4.0)
    assert row["importance/ess"] == pytest.approx(3.5**2 / (3 * 5.25))
    assert (row["importance/truncated"], row["importance/kept"]) == (pytest.approx(1 / 3), 1.0)


def test_a_step_without_updates_has_no_values() -> None:
    row = metrics.of_updates([Update(), Update()])
    assert row.pop("updates") == 0
    assert set(row.values()) == {None}


def test_without_a_reference_there_is_no_kl() -> None:
    seen = TokenStats(entropy=vectors([1.0]), advantage=vectors([1.0]), weight=vectors([1.0]), mismatch=vectors([0.0]))
    row = metrics.of_updates([Update(loss=0.1, grad_norm=1.0, contributing=1, scored=1, tokens=seen)])
    assert (row["kl"], row["entropy"]) == (None, 1.0)


def test_time_of_a_step() -> None:
    updates = [Update(seconds={"scoring": 1.0, "backward": 2.0}), Update(seconds={"scoring": 0.5, "backward": 0.25})]
    row = metrics.of_time({"rollout": 4.0, "reward": 0.1, "sync": 0.2}, updates, GROUPS, [], 9.0, 2**21)
    assert row.pop("memory/peak_bytes") == 2**21
    assert row == {
        "time/rollout": 4.0,
        "time/reward": 0.1,
        "time/sync": 0.2,
        "time/scoring": 1.5,
        "time/backward": 2.25,
        "time/step": 9.0,
        "speed/rollout": 7.0,  # 28 tokens in 4 s
    }
    assert metrics.of_time({"rollout": 0.0}, [], GROUPS, [], 1.0, 1)["speed/rollout"] is None


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device counts its own memory")
def test_peak_memory_is_in_bytes() -> None:
    # Linux reports kibibytes: this process has loaded torch, so it holds between 100 MB and what a machine has.
    assert peak_memory() == resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    assert 1e8 < peak_memory() < 1e12
