"""Whole runs of two processes end as a run of one, whatever they are of: full weights, a harvest, tools, puzzles."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import scripted
from processes import together
from runs import TEST, TRAIN, VALIDATION, check_close, completions_of, groups_of, rl, rows_of, run, sft
from scripted import Scripted
from tessera.core.types import Problem
from tessera.policy.load import Policy
from tessera.rollout.engine import Request
from tessera.tasks.registry import load_task
from tiny import tiny_model, tiny_policy, tiny_tokenizer

UNTOLD = {"mismatch": 1e9, "truncation_rate": 1.0}  # a script's log-probs are nobody's
SAID = ("aa <echo>b{n}</echo>", "<echo></echo>", "<echo>x</echo> <echo>y</echo>", "just {n}")


def vowel(problem: Problem, text: str) -> float:
    """1 for a text that begins with a vowel: some groups have no spread."""
    return float(text[:1].lower() in "aeiou")


def calls(request: Request, prompt: str) -> str:
    """Calls of the tool, good and empty ones; after a result the end."""
    if "</information>" in prompt:
        return "done" if request.seed % 2 else "done it is"
    return SAID[request.seed % len(SAID)].format(n=request.seed % 3)


def expressions(request: Request, prompt: str) -> str:
    """Something in the numbers that follow the target, or the first of them alone, or no answer."""
    numbers = re.findall(r"\d+", prompt)[1:4]
    said = (" + ".join(numbers), " * ".join(numbers), " - ".join(numbers), numbers[0], None)[request.seed % 5]
    return "what?" if said is None else f"<answer>{said}</answer>"


def full(folder: Path) -> dict[str, Any]:
    policy = Policy.from_objects(tiny_model(dtype=torch.float64), tiny_tokenizer(), full=True)
    stages = [sft(steps=2), rl({"name": "grpo", "beta": 0.1}, steps=2, prompts_per_step=2)]
    return run(folder, *stages, policy=policy, model={"name": "tiny", "lora": None, "full": True})


def harvest(folder: Path) -> dict[str, Any]:
    """Replays are harvested too; what is learnt is a random choice; the moments are carried over it."""
    learn = {
        "kind": "sft",
        "epochs": 2,
        "batch_size": 3,
        "harvest": {"threshold": 0.4, "most": 2, "pick": "random"},
        "optimizer": {"lr": 2e-3},
    }
    stages = [
        rl("t_spmo", name="explore", max_new_tokens=20, replay={"successes": 1, "capacity": 20}),
        learn,
        {"kind": "eval", "split": "validation", "max_new_tokens": 3},
        rl(
            {"name": "s_grpo", "beta": 0.2},
            name="consolidate",
            reference="initial",
            optimizer={"lr": 1e-3, "carry": True},
        ),
    ]
    policy = tiny_policy(dtype=torch.float64)
    return run(folder, *stages, policy=policy, rows=(TRAIN, VALIDATION, TEST), evaluation={"success": 0.5})


def tools(folder: Path) -> dict[str, Any]:
    policy = tiny_policy(dtype=torch.float64)
    own = {f"{scripted.__file__}:Echo": {}}
    environment = {"tools": {"own": own}, "turns": 2, "result_tokens": 12, "introduce": False}
    stage = rl("tr_grpo", steps=2, prompts_per_step=2, max_new_tokens=40, sentinels=UNTOLD)
    return run(folder, stage, policy=policy, engine=Scripted(policy, calls), environment=environment)


def countdown(folder: Path) -> dict[str, Any]:
    policy = tiny_policy(dtype=torch.float64)
    task = load_task({"name": "countdown", "train_size": 6, "validation_size": 2, "test_size": 2, "near_limit": 1})
    stage = rl("cw_grpo", steps=2, prompts_per_step=2, max_new_tokens=50, sentinels=UNTOLD)
    given = {"policy": policy, "engine": Scripted(policy, expressions), "task": task}
    return run(folder, stage, **given, evaluation={"max_new_tokens": 50}, run={"graders": 2})


def dapo(folder: Path) -> dict[str, Any]:
    stage = rl(
        "dapo",
        prompts_per_step=3,
        updates_per_rollout=2,
        rollouts={"max_rounds": 3, "overlong_buffer": 2, "overlong_penalty": 0.5},
    )
    report = {"groups": 3}
    return run(folder, stage, policy=tiny_policy(dtype=torch.float64), reward=vowel, report=report)


RUNS: dict[str, Callable[[Path], Any]] = {own.__name__: own for own in (full, harvest, tools, countdown, dapo)}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every run by one process, and by two of which the second sees no run folder."""
    folder = tmp_path_factory.mktemp("runs")

    def work(size: int) -> Callable[[int], Any]:
        return lambda rank: [own(folder / f"{name}-{size}{'-other' * rank}") for name, own in RUNS.items()]

    (alone,) = together(work(1), 1)
    first, second = together(work(2), 2)
    for one, two, other in zip(alone, first, second, strict=True):
        assert two == other
        assert one["seconds"] != two["seconds"]
    return folder


@pytest.mark.parametrize("name", RUNS)
def test_two_processes_end_as_one(folders: Path, name: str) -> None:
    check_close(folders / f"{name}-2", folders / f"{name}-1")
    assert groups_of(folders / f"{name}-2")
    assert not (folders / f"{name}-2-other").exists()


def test_the_runs_have_something_to_speak_of(folders: Path) -> None:
    def steps(name: str) -> list[dict[str, Any]]:
        return rows_of(folders / f"{name}-1", "rl")

    assert all(row["grad_norm"] for name in RUNS for row in steps(name))
    assert steps("full")[1]["kl"] > 0
    learnt = json.loads((folders / "harvest-1" / "summary.json").read_text())["stages"][1]
    assert learnt["harvest"]["distinct"] > learnt["harvest"]["kept"] >= 4
    assert all(row["tools/calls"] > 0 for row in steps("tools"))
    earned = [row["reward"] for row in completions_of(folders / "countdown-1")]
    assert {0.0, 0.1} < set(earned)
    assert any(row["groups/dropped"] > 0 for row in steps("dapo"))
