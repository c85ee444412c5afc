"""Whole runs on the tiny model in this process: seconds, no network, everything real but the size."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tessera.core.types import Problem
from tessera.launch import prepare, start
from tessera.policy.load import Policy
from tessera.recipe import check_recipe
from tessera.rollout.engine import Engine
from tessera.tasks.base import LoadedTask
from tessera.tasks.in_memory import InMemoryTask
from tessera.training.context import Observer
from tiny import TINY_LORA, tiny_policy

TRAIN = [{"prompt": f"{a}+{b}=", "answer": str(a + b)} for a in range(3) for b in range(4)]
VALIDATION = [{"prompt": f"{a}-1=", "answer": str(a - 1)} for a in range(4, 8)]
TEST = [{"prompt": f"{a}*2=", "answer": str(a * 2)} for a in range(5)]
TIMES = ("seconds", "time/", "speed/", "memory/")  # keys of a row that differ from run to run


def letters(problem: Problem, text: str) -> float:
    """The share of the text that is letters: a graded reward that every group has some spread of."""
    return sum(c.isalpha() for c in text) / max(1, len(text))


def rl(algorithm: str | Mapping[str, Any] = "grpo", **changes: Any) -> dict[str, Any]:
    """An RL stage of a few tokens and steps."""
    small = {"steps": 3, "group_size": 6, "max_new_tokens": 6, "optimizer": {"lr": 1e-3}}
    return {"kind": "rl", "algorithm": algorithm, "sentinels": {"truncation_rate": 1.0}, **small, **changes}


def sft(**changes: Any) -> dict[str, Any]:
    """An SFT stage on the gold answers."""
    return {"kind": "sft", "steps": 3, "batch_size": 4, "optimizer": {"lr": 1e-3}, **changes}


def run(
    folder: Path,
    *stages: Mapping[str, Any],
    policy: Policy | None = None,
    engine: Engine | Mapping[str, Any] | None = None,
    reward: Callable[[Problem, str], Any] = letters,
    rows: Sequence[Sequence[Mapping[str, Any]]] = (TRAIN, (), ()),
    task: LoadedTask | None = None,
    observers: Sequence[Observer] = (),
    resume: bool = False,
    **recipe: Any,
) -> dict[str, Any]:
    """Train the tiny policy (`policy`, or a fresh one) and return the summary; `rows` are the three splits, where
    there is no other `task`. `engine` is one, or the recipe's key of that name."""
    data = {
        "seed": 1,
        "model": {"name": "tiny", "lora": TINY_LORA.model_dump()},
        "task": {"name": "in_memory"},
        "stages": stages or (rl(),),
        **({"engine": engine} if isinstance(engine, Mapping) else {}),
        **recipe,
        "run": {"dir": str(folder), **recipe.get("run", {})},
    }
    asked = task or LoadedTask.load("sums", InMemoryTask(*rows, reward_fn=reward))
    prepared = prepare(check_recipe(data, "of a test"), task=asked)
    given = None if isinstance(engine, Mapping) else engine
    return start(prepared, policy=policy or tiny_policy(), engine=given, observers=observers, resume=resume)


def rows_of(folder: Path, kind: str | None = None) -> list[dict[str, Any]]:
    """The rows of metrics.jsonl, of one kind if given; none where nothing was written."""
    return [row for row in _read(folder / "metrics.jsonl") if kind in (None, row["kind"])]


def completions_of(folder: Path) -> list[dict[str, Any]]:
    """The rows of completions.jsonl."""
    return _read(folder / "completions.jsonl")


def groups_of(folder: Path) -> list[dict[str, Any]]:
    """The rows of groups.jsonl."""
    return _read(folder / "groups.jsonl")


def without_times(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The rows without what is measured with a clock or on the machine's memory."""
    return [{key: value for key, value in row.items() if not key.startswith(TIMES)} for row in rows]


def check_same(run: Path, whole: Path) -> None:
    """`run` came to what `whole` came to, bit for bit."""
    adapter = "adapter/adapter_model.safetensors"
    assert (run / adapter).read_bytes() == (whole / adapter).read_bytes()
    assert without_times(rows_of(run)) == without_times(rows_of(whole))
    assert completions_of(run) == completions_of(whole)
    if (whole / "harvest.jsonl").exists():
        assert (run / "harvest.jsonl").read_bytes() == (whole / "harvest.jsonl").read_bytes()
    told, expected = (json.loads((folder / "summary.json").read_text()) for folder in (run, whole))
    assert {**told, "seconds": 0} == {**expected, "seconds": 0}


def check_close(run: Path, whole: Path) -> None:
    """`run` came to what `whole` came to, up to the order of float64 sums: completions, weights, metrics and groups."""
    assert completions_of(run) == completions_of(whole)
    (trained,) = (path.relative_to(whole) for path in whole.glob("*/*model.safetensors"))
    weights = [load_file(folder / trained) for folder in (run, whole)]
    assert weights[0].keys() == weights[1].keys()
    for key, tensor in weights[1].items():
        torch.testing.assert_close(weights[0][key], tensor, rtol=1e-9, atol=1e-9)
    for told, expected in zip(without_times(rows_of(run)), without_times(rows_of(whole)), strict=True):
        assert told.keys() == expected.keys()
        for key, value in expected.items():
            if key == "tokens/fed":  # the prompt of rows that processes share is fed by each
                assert told[key] >= value
            else:
                assert told[key] == (pytest.approx(value, abs=1e-6) if isinstance(value, float) else value), key
    for told, expected in zip(groups_of(run), groups_of(whole), strict=True):
        _check_close(told, expected, "groups.jsonl")


def _check_close(told: Any, expected: Any, where: str) -> None:
    """Numbers are rounded to five digits there, and two that are close can be rounded apart."""
    if isinstance(expected, Mapping):
        assert told.keys() == expected.keys(), where
        for key, value in expected.items():
            _check_close(told[key], value, key)
    elif isinstance(expected, list):
        assert len(told) == len(expected), where
        for one, other in zip(told, expected, strict=True):
            _check_close(one, other, where)
    else:
        close = pytest.approx(expected, rel=2e-5, abs=1e-9) if isinstance(expected, float) else expected
        assert told == close, where


def _read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
