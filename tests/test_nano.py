"""Every method trains: the RL stage of its nano recipe, for three steps on the tiny model."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from runs import letters, rows_of, run
from tessera.algorithms import build, registered
from tessera.recipe import read_recipe
from tessera.training.settings import RLStage


def rl_stage(name: str) -> dict[str, Any]:
    """The recipe's stage, small: a reward that spreads is what the tiny model can offer in place of right answers."""
    (stage,) = [s for s in read_recipe(f"nano/{name}_arithmetic_smollm2").stages if isinstance(s, RLStage)]
    assert stage.algorithm["name"] == name
    assert stage.steps == 20
    small = {"steps": 3, "prompts_per_step": 2, "group_size": 6, "optimizer": {"lr": 1e-3}}
    return {**stage.model_dump(exclude_defaults=True), "kind": "rl", **small, "sentinels": {"truncation_rate": 1.0}}


@pytest.mark.parametrize("name", registered())
def test_its_nano_recipe_trains(tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture) -> None:
    stage = rl_stage(name)
    with caplog.at_level(logging.WARNING, "tessera"):
        summary = run(tmp_path, stage, reward=letters)
    assert (summary["status"], summary["algorithm"]) == ("finished", name)
    assert caplog.records == []  # the sentinels are quiet
    rows = rows_of(tmp_path, "rl")
    assert len(rows) == 3
    assert all(row["updates"] >= stage.get("updates_per_rollout", 1) for row in rows)
    assert all(row["tokens/contributing"] > 0 and row["grad_norm"] > 0 for row in rows)
    assert all((row["kl"] is None) == ("ref_logp" not in build(stage["algorithm"]).needs) for row in rows)
