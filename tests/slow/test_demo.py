"""The demo's claim, and its control: RL raises held-out accuracy, and with rewards that say nothing it does not."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tessera import launch
from tessera.core.types import Group
from tessera.policy.embedded import is_installed
from tessera.recipe import read_recipe
from tessera.rollout.collect import Collector, Start
from tessera.rollout.engine import Sampling

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not is_installed("smollm2-135m-instruct"), reason="the embedded model's wheel is not installed"),
]


class PermutedRewards(Collector):
    """Hands each group's rewards out to its rollouts in random order: the same rewards, without their meaning."""

    def collect(self, starts: Sequence[Start], size: int, sampling: Sampling, seed: int) -> list[Group]:
        order = random.Random(seed)
        return [self._permuted(group, order) for group in super().collect(starts, size, sampling, seed)]

    def _permuted(self, group: Group, order: random.Random) -> Group:
        rewards = [rollout.reward for rollout in group.rollouts]
        order.shuffle(rewards)
        paired = zip(group.rollouts, rewards, strict=True)
        return replace(group, rollouts=tuple(replace(rollout, reward=reward) for rollout, reward in paired))


@pytest.fixture(autouse=True)
def _all_cores() -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(threads)


def _demo(folder: Path) -> dict[str, Any]:
    return launch.start(launch.prepare(read_recipe("demo", [f"run.dir={folder}"])))


def test_rl_adds_five_points_and_without_meaningful_rewards_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learned = _demo(tmp_path / "demo")
    assert learned["gain"]["from"] == "sft" and learned["gain"]["to"] == "final"
    assert learned["gain"]["difference"] >= 0.05
    assert learned["gain"]["ci"][0] > 0
    assert learned["accuracy"]["final"]["n"] >= 500

    monkeypatch.setattr(launch, "Collector", PermutedRewards)
    control = _demo(tmp_path / "control")
    assert control["accuracy"]["sft"] == learned["accuracy"]["sft"]  # the same warm-up, to the last bit
    assert control["gain"]["ci"][0] <= 0
    assert control["gain"]["difference"] < learned["gain"]["difference"] / 2
