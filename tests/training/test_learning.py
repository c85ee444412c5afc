"""Does it learn? What is rewarded becomes likely; with the same rewards dealt out at random it does not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from runs import TRAIN, rl, run
from tessera.core.types import Group
from tessera.policy.load import Policy
from tessera.rollout.collect import Collector
from tiny import tiny_policy

# Over parameters, Adam turns any penalty into steps of the learning rate's size: at this rate it would be all there is.
ALGORITHMS = {"grpo": "grpo", "s_grpo": "s_grpo", "t_spmo": {"name": "t_spmo", "l2": 0.0}}


def capital(text: str) -> bool:
    return text[:1].isupper()


def share_of_capitals(policy: Policy) -> float:
    """The probability that a completion begins with a capital letter, exactly, as a mean over all prompts."""
    texts = [policy.tokenizer.decode([i]) for i in range(policy.model.config.vocab_size)]
    wanted = [i for i, text in enumerate(texts) if capital(text) and len(text) == 1]
    assert len(wanted) == 26
    prompts = [[1, *policy.tokenizer(row["prompt"], add_special_tokens=False)["input_ids"]] for row in TRAIN]
    with torch.no_grad():
        probability_PV = torch.softmax(policy.model(torch.tensor(prompts)).logits[:, -1], dim=-1)
    return float(probability_PV[:, wanted].sum(dim=1).mean())


def train(folder: Path, algorithm: Any) -> tuple[float, float]:
    policy = tiny_policy(seed=1)
    before = share_of_capitals(policy)
    stage = rl(
        algorithm,
        steps=30,
        group_size=12,
        prompts_per_step=2,
        max_new_tokens=2,
        optimizer={"lr": 4e-2},
        sentinels={"truncation_rate": 1.0},
    )
    run(folder, stage, policy=policy, reward=lambda problem, text: float(capital(text)))
    return before, share_of_capitals(policy)


@pytest.mark.parametrize("algorithm", ALGORITHMS.values(), ids=ALGORITHMS.keys())
def test_what_is_rewarded_becomes_likely(tmp_path: Path, algorithm: Any) -> None:
    before, after = train(tmp_path, algorithm)
    assert before < 0.35
    assert after > 0.85


@pytest.mark.parametrize("algorithm", ALGORITHMS.values(), ids=ALGORITHMS.keys())
def test_rewards_dealt_out_at_random_teach_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, algorithm: Any
) -> None:
    """Every group keeps its rewards, and none belongs to the completion that earned it."""
    deal = torch.Generator().manual_seed(0)
    collect = Collector.collect

    def shuffled(self: Collector, *given: Any) -> list[Group]:
        return [
            _dealt(group, torch.randperm(len(group.rollouts), generator=deal).tolist())
            for group in collect(self, *given)
        ]

    monkeypatch.setattr(Collector, "collect", shuffled)
    before, after = train(tmp_path, algorithm)
    assert before < 0.35
    assert after < 0.6


def _dealt(group: Group, order: Sequence[int]) -> Group:
    pairs = zip(group.rollouts, order, strict=True)
    return replace(group, rollouts=tuple(replace(r, reward=group.rollouts[i].reward) for r, i in pairs))
