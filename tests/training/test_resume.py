"""A run that was killed or interrupted anywhere and gone on with ends bit for bit like one that was not; so does one of
two processes, of which one was."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from runs import check_same, rows_of

CODES = {"SIGKILL": -9, "SIGINT": 130, "SIGTERM": 130}

TASK = '''
from tessera.core.types import Problem


class Letters:
    """Sums that nobody solves; the reward is the share of letters, a vowel in front makes it 1."""

    def problems(self, split):
        first = {"train": 0, "validation": 5, "test": 7}[split]
        count = {"train": 5, "validation": 2, "test": 2}[split]
        pairs = [(a, b) for a in range(first, first + count) for b in (1, 2)]
        return [Problem(f"{split}-{a}-{b}", f"{a}+{b}=", "aeiou"[a % 5]) for a, b in pairs]

    def reward(self, problem, text):
        if text[:1].lower() in "aeiou":
            return {"letters": 1.0, "vowel": 0.0}
        return {"letters": sum(c.isalpha() for c in text) / max(1, len(text)), "vowel": 0.0}
'''

SFT = {"kind": "sft", "steps": 3, "batch_size": 4, "optimizer": {"lr": 2e-3, "warmup_steps": 1}}
SMALL = {"kind": "rl", "steps": 5, "max_new_tokens": 7, "sentinels": {"truncation_rate": 1.0}}
PENALISED = {"name": "s_grpo", "beta": 0.2, "cutoff": 1, "max_selected": 4, "probability": 0.5}
STAGES: dict[str, list[dict[str, Any]]] = {
    # Replays from a buffer, the best adapter by validation, a falling rate.
    "replay": [
        SFT,
        {
            **SMALL,
            "algorithm": "t_spmo",
            "group_size": 6,
            "replay": {"successes": 1, "failures": 1, "capacity": 20},
            "evaluate_every": 2,
            "keep_best": True,
            "optimizer": {"lr": 5e-3, "schedule": "linear"},
        },
    ],
    # A penalty against the policy that the first stage left, taken anew on the way; dropout; two prompts a step.
    "reference": [
        SFT,
        {
            **SMALL,
            "algorithm": PENALISED,
            "group_size": 4,
            "prompts_per_step": 2,
            "refresh_reference": 3,
            "compute": {"tokens_per_microbatch": 40},
            "optimizer": {"lr": 5e-3},
        },
    ],
    # Replays that are harvested too, a supervised stage on a random choice of the harvest, an evaluation, and moments
    # carried over both into a stage with a penalty against the model as it was.
    "harvest": [
        {
            **SMALL,
            "name": "explore",
            "algorithm": "t_spmo",
            "group_size": 6,
            "max_new_tokens": 20,
            "replay": {"successes": 1, "capacity": 20},
            "optimizer": {"lr": 5e-3},
        },
        {
            "kind": "sft",
            "epochs": 2,
            "batch_size": 3,
            "harvest": {"threshold": 0.4, "most": 2, "pick": "random"},
            "optimizer": {"lr": 2e-3},
        },
        {"kind": "eval", "split": "validation", "max_new_tokens": 3},
        {
            **SMALL,
            "name": "consolidate",
            "steps": 3,
            "algorithm": PENALISED,
            "group_size": 4,
            "reference": "initial",
            "optimizer": {"lr": 5e-3, "carry": True},
        },
    ],
}
DROPOUT = {"replay": 0.0, "reference": 0.1, "harvest": 0.0}

# Where a run stops, each time: [where, how often there (a share of the whole run's number, or a number), signal].
Stops = list[list[Any] | None]
STOPS: dict[str, Stops] = {
    "while it samples": [["token", 0.3, "SIGKILL"], ["token", 0.4, "SIGKILL"]],
    "while it updates": [["update", 0.2, "SIGKILL"], ["update", 3, "SIGKILL"]],
    "while it saves": [["half", 0.5, "SIGKILL"], ["sync", 0.4, "SIGKILL"], ["half", 1, "SIGKILL"]],
    "interrupted while it samples": [["token", 0.6, "SIGINT"], ["token", 10, "SIGINT"]],
    "interrupted while it updates": [["update", 0.5, "SIGINT"], ["update", 1, "SIGTERM"]],
}
HARVESTING: dict[str, Stops] = {
    "while each stage works": [["update", n, "SIGKILL"] for n in (4, 5, 4, 8)],
    "interrupted in the last": [["token", 0.8, "SIGTERM"]],
    "while it saves": [["half", n, "SIGKILL"] for n in (2, 4)],
}
AT_THE_ENDS: dict[str, Stops] = {
    "which had already finished": [None],
    "before its first checkpoint": [["token", 1, "SIGKILL"], ["half", 1, "SIGKILL"]],
}
RARE: dict[str, Stops] = {
    "interrupted before its first checkpoint": [["token", 2, "SIGINT"]],
    "in its last evaluation": [["token", 0.99, "SIGTERM"], ["token", 2, "SIGKILL"]],
    "while it gives a checkpoint its name": [
        ["sync", 0.55, "SIGKILL"],
        ["sync", 7, "SIGKILL"],
        ["sync", 14, "SIGKILL"],
    ],
}


# Of two processes, where the second is stopped; the first writes the folder, and hears of it.
IN_ONE: dict[str, Stops] = {
    "killed while it samples": [["token", 0.3, "SIGKILL"]],
    "killed while it updates": [["update", 0.4, "SIGKILL"]],
    "asked while it samples": [["token", 0.6, "SIGTERM"]],
    "asked while it scores": [["score", 0.5, "SIGTERM"], ["score", 2, "SIGINT"]],
    "asked while it updates": [["update", 0.5, "SIGTERM"]],
}


def recipe(path: Path, model: Path, variant: str) -> Path:
    task = path.with_name("letters.py")
    task.write_text(TASK)
    content = {
        "seed": 3,
        "model": {
            "name": str(model),
            "device": "cpu",
            "lora": {"rank": 4, "alpha": 8, "last_fraction": "1/2", "dropout": DROPOUT[variant]},
        },
        "task": {"name": f"{task}:Letters"},
        "stages": STAGES[variant],
        "evaluation": {"success": 0.5, "max_new_tokens": 4},
        "run": {"save_every": 2, "max_rows": 5},
    }
    path.write_text(yaml.safe_dump(content))
    return path


def drive(folder: Path, model: Path, variant: str, stops: dict[str, Any], size: int = 1) -> dict[str, Any]:
    made = recipe(folder / "recipe.yaml", model, variant)
    plan = {"recipe": str(made), "model": str(model), "runs": stops, "size": size}
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("resume_driver.py")), str(folder)],
        input=json.dumps(plan),
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"},
    )
    assert done.returncode == 0, done.stderr
    return {"folder": folder, **json.loads(done.stdout)}


@pytest.fixture(scope="module")
def replay(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> dict[str, Any]:
    return drive(tmp_path_factory.mktemp("replay"), tiny_folder, "replay", {**STOPS, **AT_THE_ENDS})


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> dict[str, Any]:
    return drive(tmp_path_factory.mktemp("reference"), tiny_folder, "reference", STOPS)


@pytest.fixture(scope="module")
def harvest(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> dict[str, Any]:
    return drive(tmp_path_factory.mktemp("harvest"), tiny_folder, "harvest", HARVESTING)


def check(driven: dict[str, Any], name: str, stops: Stops) -> None:
    outcomes, run, whole = driven["outcomes"][name], driven["folder"] / name, driven["folder"] / "whole"
    signals = [stop[2] if stop else None for stop in stops]
    assert [code for code, _ in outcomes] == [*(CODES.get(signal, 0) for signal in signals), 0], outcomes
    for (_, text), signal in zip(outcomes, signals, strict=False):
        assert "Traceback" not in text
        if CODES.get(signal) == 130:
            assert f"go on with: tessera train --resume {run}" in text
    check_same(run, whole)
    # Nothing that a killed writer left behind is still there.
    assert [path.name for path in (run / "checkpoints").iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize("name", [*STOPS, *AT_THE_ENDS])
def test_a_run_with_replays_ends_the_same(replay: dict[str, Any], name: str) -> None:
    check(replay, name, {**STOPS, **AT_THE_ENDS}[name])


@pytest.mark.slow
@pytest.mark.parametrize("variant", STAGES)
def test_stops_at_rarer_places_change_nothing_either(tmp_path: Path, tiny_folder: Path, variant: str) -> None:
    driven = drive(tmp_path, tiny_folder, variant, RARE)
    for name, stops in RARE.items():
        check(driven, name, stops)


@pytest.mark.parametrize("name", STOPS)
def test_a_run_with_a_reference_ends_the_same(reference: dict[str, Any], name: str) -> None:
    check(reference, name, STOPS[name])


@pytest.mark.parametrize("name", HARVESTING)
def test_a_run_with_a_harvest_ends_the_same(harvest: dict[str, Any], name: str) -> None:
    check(harvest, name, HARVESTING[name])


def test_the_run_with_a_harvest_has_one_to_speak_of(harvest: dict[str, Any]) -> None:
    whole = harvest["folder"] / "whole"
    learnt = json.loads((whole / "summary.json").read_text())["stages"][1]
    assert learnt["harvest"]["distinct"] > learnt["harvest"]["kept"] > 4
    assert learnt["steps"] == len(rows_of(whole, "sft")) >= 3
    assert sum(row["replay/success"] for row in rows_of(whole, "rl")) >= 2


@pytest.mark.parametrize("variant", ["replay", "reference"])
def test_the_runs_are_worth_resuming(request: pytest.FixtureRequest, variant: str) -> None:
    """Everything that a checkpoint has to carry is at work in them: otherwise the comparison above says little."""
    folder = request.getfixturevalue(variant)["folder"] / "whole"
    steps = rows_of(folder, "rl")
    assert len(steps) == 5
    assert len(rows_of(folder, "sft")) == 3
    assert all(row["grad_norm"] for row in steps)
    if variant == "replay":
        assert sum(row["replay/success"] for row in steps) >= 3
        assert sum(row["replay/failure"] for row in steps) >= 3
    else:
        assert all(row["kl"] > 0 for row in steps[1:3])
        assert any(row["truncation_rate"] < 1 for row in steps)


@pytest.fixture(
    scope="module", params=[pytest.param(name, marks=pytest.mark.slow if name != "replay" else ()) for name in STAGES]
)
def of_two(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> Any:
    return drive(tmp_path_factory.mktemp("processes"), tiny_folder, request.param, IN_ONE, size=2)


@pytest.mark.parametrize("name", IN_ONE)
def test_a_run_of_two_processes_ends_the_same(of_two: dict[str, Any], name: str) -> None:
    run = of_two["folder"] / name
    *stopped, last = of_two["outcomes"][name]
    assert [code for code, _ in last] == [0, 0], last
    for (first, second), (_, _, signal) in zip(stopped, IN_ONE[name], strict=True):
        assert "Traceback" not in first[1] + second[1]
        if signal == "SIGKILL":
            assert (first[0], second[0]) == (1, -9)
            assert "process 0 of 2: run stopped: another process of the run ended or cannot be reached" in first[1]
        else:
            assert (first[0], second[0]) == (130, 130), (first, second)
            assert f"stopped and saved; go on with: tessera train --resume {run}" in first[1]
            assert second[1] == ""  # the first speaks for both
    check_same(run, of_two["folder"] / "whole")
