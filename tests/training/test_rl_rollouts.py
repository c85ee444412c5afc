"""Dynamic sampling, shaped rewards, inner updates and diagnostics in whole runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from runs import completions_of, letters, rl, rows_of, run, without_times
from tessera.core.types import Problem
from tiny import TINY_LORA


def only_even(problem: Problem, text: str) -> float:
    """Problems whose first number is odd have no spread."""
    return letters(problem, text) if str(problem.prompt)[0] in "02" else 0.0


def groups_of(folder: Path, step: int) -> list[str]:
    found = [row for row in completions_of(folder) if row["step"] == step]
    return [row["prompt"] for row in found[::6]]


def test_groups_without_spread_are_replaced_up_to_the_cap(tmp_path: Path) -> None:
    run(tmp_path, rl(steps=6, prompts_per_step=2, rollouts={"max_rounds": 3}), reward=only_even)
    dropped = []
    for row in rows_of(tmp_path, "rl"):
        prompts = groups_of(tmp_path, row["step"])
        flat = [prompt for prompt in prompts if "1+" in prompt]
        assert row["groups/total"] == len(prompts)
        assert row["groups/zero_spread"] == row["groups/dropped"] == len(flat)
        kept = len(prompts) - len(flat)
        assert kept == 2 or len(prompts) >= 4  # the cap: each round asks for what is missing
        dropped.append(row["groups/dropped"])
    assert sum(dropped) > 0


def test_at_the_cap_a_step_trains_on_what_it_has(tmp_path: Path) -> None:
    run(tmp_path, rl(steps=2, rollouts={"max_rounds": 3}), reward=lambda problem, text: 1.0)
    for row in rows_of(tmp_path, "rl"):
        assert (row["groups/total"], row["groups/dropped"], row["updates"]) == (3, 3, 0)
        assert row["tokens/contributing"] == 0


def test_dynamic_sampling_resumes_where_the_order_of_problems_was(tmp_path: Path) -> None:
    stage = rl(steps=4, prompts_per_step=2, rollouts={"max_rounds": 3})
    whole = run(tmp_path / "whole", stage, reward=only_even)
    again = run(tmp_path / "again", stage, reward=only_even)
    assert whole["status"] == again["status"] == "finished"
    assert completions_of(tmp_path / "whole") == completions_of(tmp_path / "again")


def test_a_long_completion_loses_reward_and_not_its_success(tmp_path: Path) -> None:
    stage = rl(steps=2, rollouts={"overlong_buffer": 6, "overlong_penalty": 0.5})
    run(tmp_path, stage, reward=lambda problem, text: 1.0, evaluation={"success": 1.0})
    for row, found in zip(
        rows_of(tmp_path, "rl"), [completions_of(tmp_path)[:6], completions_of(tmp_path)[6:]], strict=True
    ):
        lost = [0.5 * c["tokens"] / 6 for c in found]  # the buffer is the whole limit of 6 tokens
        assert [c["reward"] for c in found] == pytest.approx([1 - x for x in lost])
        assert row["reward/overlong"] == pytest.approx(-sum(lost) / 6)
        assert row["accuracy"] == 1.0


def test_inner_updates_move_the_ratio(tmp_path: Path) -> None:
    algorithm = {"name": "grpo", "clip_low": 1e-4, "clip_high": 1e-4}
    run(tmp_path / "one", rl(algorithm, steps=1))
    run(tmp_path / "three", rl(algorithm, steps=1, updates_per_rollout=3))
    (one,), (three,) = (rows_of(tmp_path / name, "rl") for name in ("one", "three"))
    assert (one["updates"], three["updates"]) == (1, 3)
    assert one["clip_fraction/low"] == one["clip_fraction/high"] == 0.0
    assert three["clip_fraction/low"] + three["clip_fraction/high"] > 0.1
    assert one["tokens/contributing"] == three["tokens/contributing"]  # a token counts once a rollout
    assert completions_of(tmp_path / "one") == completions_of(tmp_path / "three")
    saved = [(tmp_path / name / "adapter" / "adapter_model.safetensors").read_bytes() for name in ("one", "three")]
    assert saved[0] != saved[1]


@pytest.mark.parametrize("algorithm", ["clip_cov", {"name": "grpo_lambda", "value_bound": True}, "tr_grpo"])
def test_inner_updates_are_decided_by_the_seed(tmp_path: Path, algorithm: Any) -> None:
    for name in "ab":
        run(tmp_path / name, rl(algorithm, steps=2, updates_per_rollout=2, prompts_per_step=2))
    assert without_times(rows_of(tmp_path / "a")) == without_times(rows_of(tmp_path / "b"))


def test_diagnostics_are_written_and_change_nothing(tmp_path: Path) -> None:
    stage = rl("tr_grpo", steps=4)
    run(tmp_path / "plain", stage)
    run(tmp_path / "looked", stage, run={"diagnostics_every": 2})
    rows = [json.loads(line) for line in (tmp_path / "looked" / "diagnostics.jsonl").read_text().splitlines()]
    assert [(row["step"], row["stage"]) for row in rows] == [(2, "rl"), (4, "rl")]
    for row, step in zip(rows, rows_of(tmp_path / "looked", "rl")[1::2], strict=True):
        assert row["tokens"] == step["tokens/contributing"]
        assert row["entropy"] == pytest.approx(step["entropy"], rel=1e-4)
        assert sum(part["tokens"] for part in row["by_probability"]) == row["tokens"]
    assert without_times(rows_of(tmp_path / "plain")) == without_times(rows_of(tmp_path / "looked"))
    assert not (tmp_path / "plain" / "diagnostics.jsonl").exists()


@pytest.mark.parametrize(
    ("stage", "lora", "says"),
    [
        (rl("s_grpo", updates_per_rollout=2), {}, "surrogate detached_ratio takes the policy for the one that sampled"),
        (rl(updates_per_rollout=2), {"dropout": 0.1}, "two dropout masks"),
        (rl({"name": "grpo_lambda", "soft_clamp": "tanh"}), {}, "soft_clamp would do nothing"),
        (rl({"name": "gspo", "selection": "random_fraction"}), {}, "sums over every token of a completion"),
        (rl(rollouts={"overlong_buffer": 7}), {}, "rollouts.overlong_buffer = 7 must not be above max_new_tokens = 6"),
        (rl(rollouts={"overlong_penalty": 0.5}), {}, "would do nothing without it"),
        (rl(rollouts={"top_p": 0.9}), {}, "top_p cuts the distribution that is sampled from"),
        (rl(rollouts={"allow_truncated": True}), {}, "would do nothing without"),
    ],
)
def test_what_would_mislead_is_refused_before_anything_is_written(
    tmp_path: Path, stage: dict[str, Any], lora: dict[str, Any], says: str
) -> None:
    from tessera.core.errors import UserError

    with pytest.raises(UserError, match=says):
        run(tmp_path / "run", stage, model={"name": "tiny", "lora": {**TINY_LORA.model_dump(), **lora}})
    assert not (tmp_path / "run").exists()
