"""Every method trains on the embedded model: its nano recipe, as shipped, for its twenty steps."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from tessera import launch
from tessera.algorithms import registered
from tessera.policy.embedded import is_installed
from tessera.recipe import read_recipe

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not is_installed("smollm2-135m-instruct"), reason="the embedded model's wheel is not installed"),
]
LOGGED = {
    *("reward/mean", "reward/std", "accuracy", "truncation_rate", "completion_length/mean", "completion_length/max"),
    *("groups/zero_spread", "tokens/generated", "tokens/contributing_per_example", "tokens/scored", "kl", "entropy"),
    *("grad_norm", "clip_fraction/low", "clip_fraction/high", "weight/min", "weight/mean", "weight/max"),
    *("advantage/mean", "advantage/std", "time/rollout", "time/reward", "time/scoring", "time/backward", "time/sync"),
    *("speed/rollout", "memory/peak_bytes", "learning_rate"),
}


@pytest.mark.parametrize("name", registered())
def test_its_nano_recipe_trains_for_twenty_steps(tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "tessera"):
        recipe = read_recipe(f"nano/{name}_arithmetic_smollm2", [f"run.dir={tmp_path / 'run'}"])
        summary = launch.start(launch.prepare(recipe))
    assert summary["status"] == "finished"
    assert caplog.records == []  # the sentinels are quiet
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    rows = [row for row in rows if row["kind"] == "rl"]
    assert len(rows) == 20
    assert all(row.keys() >= LOGGED for row in rows)
    moved = [row["grad_norm"] for row in rows if row["grad_norm"] is not None]
    assert len(moved) >= 15
    assert min(moved) > 0
    assert all(row["mismatch/mean"] is None or row["mismatch/mean"] < 0.01 for row in rows)
