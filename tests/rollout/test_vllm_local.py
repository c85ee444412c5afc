"""vLLM in the trainer's process. Without a GPU, over an imitation of its Python interface (tests/fake_vllm.py)."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

import fake_vllm
from runs import completions_of, rl, rows_of, run
from tessera.core.errors import RunStopped, UserError
from tessera.policy.load import ModelConfig, load_policy
from tessera.rollout.engine import Request, Sampling
from tessera.rollout.engines import VLLMSettings, open_engine
from tessera.rollout.hf import HFEngine
from tessera.rollout.vllm_local import VLLMLocal, _allowed
from tiny import tiny_policy
from tiny_vllm import ALWAYS, TinyVLLM

REQUESTS = [Request((1, *range(20, 20 + n)), n) for n in range(3, 7)]
SAMPLING = Sampling(max_new_tokens=8, temperature=0.7)


@pytest.fixture
def tiny() -> TinyVLLM:
    return TinyVLLM()


@pytest.fixture
def calls(tiny: TinyVLLM, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    made: list[Any] = []
    for name, module in fake_vllm.module(tiny, made).items():
        monkeypatch.setitem(sys.modules, name, module)
    return made


@contextmanager
def engine_on(folder: Path, policy: Any, **settings: Any) -> Iterator[Any]:
    made = VLLMSettings(kind="vllm", **settings)
    with open_engine(made, policy, ModelConfig(name=str(folder)), 16) as engine:
        yield engine


def test_vllm_is_started_for_adapters_and_for_log_probs_at_the_temperature(calls: list[Any], tiny_folder: Path) -> None:
    with engine_on(tiny_folder, tiny_policy(), sleep=None, max_model_len=256):
        pass
    assert calls == [
        {
            "model": str(tiny_folder),
            "revision": None,
            "trust_remote_code": False,
            "dtype": "float32",
            "enable_lora": True,
            "max_loras": 1,
            "max_lora_rank": 8,
            "max_num_seqs": 16,
            "max_model_len": 256,
            "gpu_memory_utilization": 0.3,
            "enable_sleep_mode": False,
            "logprobs_mode": "processed_logprobs",
            "generation_config": "vllm",
        }
    ]


@pytest.mark.parametrize(
    ("level", "waking"),
    [
        (1, [("wake_up", None)]),
        (2, [("wake_up", ["weights"]), "reload_weights", ("wake_up", ["kv_cache"])]),
    ],
)
def test_each_level_of_sleep_has_its_calls_and_keeps_what_is_served(
    calls: list[Any], tiny: TinyVLLM, tiny_folder: Path, level: Any, waking: list[Any]
) -> None:
    policy = tiny_policy()
    with engine_on(tiny_folder, policy, sleep=level) as engine:
        done = engine.generate(REQUESTS, SAMPLING)
        assert calls[1:] == [*waking, ("sleep", level)] * 2
        assert [c.ids for c in done] == [c.ids for c in HFEngine(policy).generate(REQUESTS, SAMPLING)]
        assert tiny.sleeping == level
        assert engine.fingerprint() == policy.fingerprint()


def test_a_run_with_vllm_is_the_run_in_process(
    calls: list[Any], tiny: TinyVLLM, tmp_path: Path, tiny_folder: Path
) -> None:
    model = {"name": str(tiny_folder), "lora": {"rank": 4, "alpha": 8, "last_fraction": "1/2"}}
    run(tmp_path / "own", rl(steps=2), model=model)
    run(tmp_path / "vllm", rl(steps=2), model=model, engine={"kind": "vllm"})
    assert completions_of(tmp_path / "vllm") == completions_of(tmp_path / "own")
    assert [row["kind"] for row in rows_of(tmp_path / "vllm")] == ["rl", "rl"]
    assert tiny.paths == {}


def test_a_stale_adapter_is_caught(calls: list[Any], tiny: TinyVLLM, tiny_folder: Path) -> None:
    policy = tiny_policy()
    with engine_on(tiny_folder, policy) as engine:
        tiny.faults["stale adapter"] = ALWAYS
        with torch.no_grad():
            for p in policy.trainable_parameters():
                p.add_(1e-3 * torch.randn(p.shape, generator=torch.Generator().manual_seed(0)))
        with pytest.raises(RunStopped, match="vLLM samples from an earlier adapter"):
            engine.sync()


def test_log_probs_that_vllm_leaves_out_fail_their_row(
    calls: list[Any], tiny: TinyVLLM, tiny_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with engine_on(tiny_folder, tiny_policy(), sleep=None) as engine:
        tiny.faults["other ids"] = 1  # its log-probs are under the ids of other tokens
        done = engine.generate(REQUESTS, SAMPLING)
        assert [c.finish_reason == "error" for c in done] == [True, False, False, False]


def test_what_vllm_refuses_is_one_line(calls: list[Any], tiny_folder: Path) -> None:
    with (
        pytest.raises(UserError, match="vLLM does not start: Free memory on device is less than desired GPU"),
        engine_on(tiny_folder, tiny_policy(), gpu_memory_utilization=0.95),
    ):
        pass


def test_ranks_are_those_that_vllm_takes() -> None:
    assert [_allowed(rank) for rank in (1, 8, 9, 64, 65, 512)] == [8, 8, 16, 64, 128, 512]
    with pytest.raises(UserError, match=r"rank 512 at most, model\.lora\.rank is 600"):
        _allowed(600)


@pytest.mark.gpu
@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="needs the vllm package")
@pytest.mark.parametrize("level", [None, 1, 2])
def test_real_vllm_follows_the_trainer(level: Any) -> None:
    config = ModelConfig()
    policy = load_policy(config)
    with engine_on_real(config, policy, level) as engine:
        for step in range(2):
            with torch.no_grad():
                for p in policy.trainable_parameters():
                    noise = torch.randn(p.shape, generator=torch.Generator().manual_seed(step)) * 1e-3
                    p.add_(noise.to(p.device))
            engine.sync()
            assert engine.fingerprint() == policy.fingerprint()
            prompt = tuple(policy.tokenizer("The sum of two and three is")["input_ids"])
            (done,) = engine.generate([Request(prompt, 1)], Sampling(max_new_tokens=16, temperature=0.7))
            own = engine.probe.score((*prompt, *done.ids), 0.7)[-len(done.ids) :]
            assert list(done.logprobs) == pytest.approx(own.tolist(), abs=0.02)


@contextmanager
def engine_on_real(config: ModelConfig, policy: Any, level: Any) -> Iterator[Any]:
    settings = VLLMSettings(kind="vllm", sleep=level, max_model_len=1024)
    with open_engine(settings, policy, config, 16) as engine:
        assert isinstance(engine.backend, VLLMLocal)
        yield engine
