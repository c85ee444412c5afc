"""Runs of the tiny model on engines by name."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from runs import TEST, TRAIN, completions_of, rl, rows_of, run, sft, without_times
from tessera.core.errors import RunStopped, UserError
from tessera.policy.load import ModelConfig
from tessera.recipe import check_recipe
from tessera.rollout import vllm_server
from tessera.rollout.engines import InProcess, open_engine
from tessera.rollout.hf import HFEngine
from tessera.training.context import Observer
from tiny import tiny_policy
from tiny_vllm import ALWAYS, TinyVLLM, serving


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm_server, "PAUSE", 0.001)


class At(Observer):
    """Does `what` once the row of a training step is written."""

    def __init__(self, step: int, what: Any) -> None:
        self.step, self.what = step, what

    def row(self, row: Mapping[str, Any]) -> None:
        if row["kind"] == "rl" and row["step"] == self.step:
            self.what()


def on(url: str, **changes: Any) -> dict[str, Any]:
    return {"kind": "vllm_server", "url": url, "timeout": 60, "retries": 0, **changes}


def test_a_run_through_a_server_is_the_run_in_process(tmp_path: Path) -> None:
    stages = [sft(steps=2), rl(steps=2, temperature=0.8, evaluate_every=1)]
    splits = (TRAIN, TEST[:2], TEST[2:])
    run(tmp_path / "own", *stages, rows=splits)
    tiny = TinyVLLM()
    with serving(tiny) as url:
        run(tmp_path / "served", *stages, rows=splits, engine=on(url))
    rows = rows_of(tmp_path / "served")
    assert completions_of(tmp_path / "served") == completions_of(tmp_path / "own")
    for row, own in zip(without_times(rows), without_times(rows_of(tmp_path / "own")), strict=True):
        assert {k: v for k, v in row.items() if isinstance(v, float)} == pytest.approx(
            {k: v for k, v in own.items() if isinstance(v, float)}, abs=1e-4
        )
    mismatch = [v for row in rows for key, v in row.items() if key.startswith("mismatch/") and "mean" in key]
    assert mismatch and max(map(abs, mismatch)) < 1e-5
    assert tiny.paths == {}


@pytest.mark.parametrize("sleep", [1, 2])
def test_a_run_through_a_server_that_sleeps(tmp_path: Path, sleep: int) -> None:
    tiny = TinyVLLM()
    with serving(tiny) as url:
        run(tmp_path, rl(steps=2), engine=on(url, sleep=sleep))
    assert [row["kind"] for row in rows_of(tmp_path)] == ["rl", "rl"]
    assert tiny.sleeping == sleep
    assert sum(call.startswith("/sleep") for call in tiny.calls) == 3  # tried out, and after each step's rollouts


def test_a_server_that_goes_stale_in_mid_run_stops_it_and_the_run_goes_on_with_a_right_one(tmp_path: Path) -> None:
    run(tmp_path / "own", rl(steps=4), run={"save_every": 1})
    tiny = TinyVLLM()

    def spoil() -> None:
        tiny.faults["stale adapter"] = ALWAYS

    with serving(tiny) as url, pytest.raises(RunStopped, match="samples from an earlier adapter"):
        run(tmp_path / "x", rl(steps=4), engine=on(url), run={"save_every": 1}, observers=[At(2, spoil)])
    assert [row["step"] for row in rows_of(tmp_path / "x", "rl")] == [1, 2]
    with serving(TinyVLLM()) as url:  # at another address
        run(tmp_path / "x", rl(steps=4), engine=on(url), run={"save_every": 1}, resume=True)
    assert completions_of(tmp_path / "x") == completions_of(tmp_path / "own")


def test_a_server_that_dies_in_mid_run_stops_it_in_one_line_and_the_run_goes_on_with_another(tmp_path: Path) -> None:
    run(tmp_path / "own", rl(steps=3), run={"save_every": 1})
    tiny = TinyVLLM()

    def die() -> None:
        tiny.faults["dead"] = ALWAYS

    with serving(tiny) as url, pytest.raises(RunStopped, match="does not answer") as told:
        run(tmp_path / "x", rl(steps=3), engine=on(url), run={"save_every": 1}, observers=[At(1, die)])
    assert "\n" not in str(told.value)
    with serving(TinyVLLM()) as url:
        run(tmp_path / "x", rl(steps=3), engine=on(url), run={"save_every": 1}, resume=True)
    assert completions_of(tmp_path / "x") == completions_of(tmp_path / "own")


def test_requests_that_fail_are_errors_of_their_rows_and_the_step_goes_on(tmp_path: Path) -> None:
    tiny = TinyVLLM()

    def break_two() -> None:
        tiny.faults["HTTP 500"] = 2

    with serving(tiny) as url:
        run(tmp_path, rl(steps=2), engine=on(url), observers=[At(1, break_two)])
    found = completions_of(tmp_path)
    failed = [row for row in found if row["finish_reason"] == "error"]
    assert len(found) == 12 and len(failed) == 2
    assert all("EngineDeadError" in row["error"] and row["reward"] is None and row["step"] == 2 for row in failed)


@pytest.mark.parametrize(
    ("changes", "tiny", "message"),
    [
        ({"adapter_dir": "/nowhere"}, TinyVLLM(), r"engine\.adapter_dir '/nowhere' is no folder"),
        ({}, TinyVLLM(seed=3), "serves another model than tiny"),
        ({}, TinyVLLM(max_rank=2), "rank 4 is greater than max_lora_rank 2"),
        ({}, TinyVLLM(context=135), "exceed the model's 135"),
        ({}, TinyVLLM(context=100), "exceed the model's 100"),
    ],
)
def test_a_server_that_does_not_fit_is_one_line_and_nothing_is_written(
    tmp_path: Path, changes: dict[str, Any], tiny: TinyVLLM, message: str
) -> None:
    with serving(tiny) as url, pytest.raises(UserError, match=message):
        run(tmp_path / "x", rl(max_new_tokens=132), engine=on(url, **changes))
    assert not (tmp_path / "x").exists()
    assert tiny.paths == {}


def test_nobody_at_the_address(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"the vLLM server at http://127.0.0.1:9 does not answer"):
        run(tmp_path / "x", engine=on("http://127.0.0.1:9"))
    assert not (tmp_path / "x").exists()


def test_packages_that_are_missing_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(UserError, match=r"engine\.kind vllm needs the vllm package .*pip install 'tessera-rl\[vllm\]'"):
        run(tmp_path / "x", engine={"kind": "vllm"})
    monkeypatch.setitem(sys.modules, "httpx", None)
    with pytest.raises(UserError, match="vllm_server needs the httpx package: pip install httpx"):
        run(tmp_path / "x", engine=on("http://127.0.0.1:9"))
    assert not (tmp_path / "x").exists()


def test_without_a_word_the_trainers_model_samples() -> None:
    policy = tiny_policy()
    with open_engine(InProcess(), policy, ModelConfig(), 7) as engine:
        assert isinstance(engine, HFEngine)
        assert (engine.policy, engine.max_rows, engine.context_length) == (policy, 7, 512)


def recipe(engine: Any) -> Any:
    data = {"task": "arithmetic", "stages": [rl()], "run": {"dir": "x"}, "engine": engine}
    return check_recipe(data, "x")


@pytest.mark.parametrize(
    ("engine", "message"),
    [
        ({"kind": "vlm"}, "engine"),
        ({"url": "http://x"}, "engine.*kind"),
        ({"kind": "vllm_server", "url": "localhost:8000"}, "url"),
        ({"kind": "vllm_server", "adress": "x"}, "adress"),
        ({"kind": "in_process", "url": "http://x"}, "url"),
        ({"kind": "vllm_server", "tolerance": 0}, "tolerance"),
        ({"kind": "vllm", "sleep": 3}, "sleep"),
    ],
)
def test_keys_are_read_strictly(engine: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        recipe(engine)


def test_options_without_a_kind_are_of_the_trainers_own_model() -> None:
    assert recipe({"dtype": "bfloat16"}).engine == InProcess(dtype="bfloat16")
    assert recipe({}).engine == InProcess()


def test_where_a_server_is_decides_nothing_of_a_run() -> None:
    plain = recipe({"kind": "vllm_server"}).fingerprint()
    moved = {"url": "http://elsewhere:1", "adapter_dir": "/x", "timeout": 1, "retries": 9, "tolerance": 0.5}
    assert recipe({"kind": "vllm_server", **moved}).fingerprint() == plain
    assert recipe({"kind": "in_process"}).fingerprint() != plain
