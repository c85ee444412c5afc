"""Full fine-tuning: every weight learns, a run resumes bit for bit, and what it leaves is a plain model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from command import rl_stage, tessera, write_recipe
from tessera.core.errors import UserError
from tessera.launch import prepare, start
from tessera.policy.adapters import adapter_state, frozen_layers
from tessera.policy.forest import Row
from tessera.policy.load import ModelConfig, Policy, load_policy
from tessera.policy.logprobs import score
from tessera.policy.reference import Reference
from tessera.recipe import read_recipe
from tiny import tiny_model, tiny_tokenizer

ROWS = [Row((1, 30, 31), (60, 61, 62), (0, 1, 2)), Row((1, 30, 31), (60, 70), (0, 1))]


def _recipe(path: Path, model: Path, *, dtype: str = "float32", **stage: Any) -> Path:
    keys = {"name": str(model), "device": "cpu", "full": True, "dtype": dtype}
    taught = {"kind": "sft", "steps": 2, "batch_size": 2, "optimizer": {"lr": 1e-3}}  # random weights earn no reward
    recipe = write_recipe(path, model, stages=[taught, rl_stage(**{"steps": 2, **stage})])
    text = read_recipe(
        str(recipe), ["model.lora=null", *(f"model.{k}={json.dumps(v)}" for k, v in keys.items())]
    ).text()
    path.write_text(text)
    return path


def test_gradients_of_every_weight_are_those_of_plain_autograd() -> None:
    policy = Policy.from_objects(tiny_model(dtype=torch.float64), tiny_tokenizer(), full=True)
    assert frozen_layers(policy.model) == 0
    found = score(policy.model, ROWS).logp_N
    found.sum().backward()
    twin, expected = tiny_model(dtype=torch.float64), []
    for row in ROWS:
        every = torch.log_softmax(twin(torch.tensor([[*row.prompt_ids, *row.ids]])).logits[0], dim=-1)
        expected += [every[len(row.prompt_ids) + t - 1, row.ids[t]] for t in row.positions]
    torch.stack(expected).sum().backward()
    assert torch.allclose(found, torch.stack(expected), rtol=1e-9)
    for (name, own), other in zip(policy.model.named_parameters(), twin.parameters(), strict=True):
        assert own.grad is not None and other.grad is not None
        assert torch.allclose(own.grad, other.grad, rtol=1e-7, atol=1e-9), name


def test_the_reference_is_a_copy_of_all_weights() -> None:
    policy = Policy.from_objects(tiny_model(), tiny_tokenizer(), full=True)
    with torch.no_grad():
        start_N = score(policy.model, ROWS).logp_N
    reference = Reference(policy.model)
    with torch.no_grad():
        for p in policy.trainable_parameters():
            p.add_(0.01)
    with reference.active():
        assert torch.equal(score(policy.model, ROWS).logp_N, start_N)
    assert not torch.allclose(score(policy.model, ROWS).logp_N, start_N)
    assert len(adapter_state(policy.model)) == len(policy.trainable_parameters()) == 4 * 9 + 3


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_run_resumes_bit_for_bit_and_leaves_a_plain_model(tiny_folder: Path, tmp_path: Path, dtype: str) -> None:
    wish: dict[str, Any] = {"algorithm": {"name": "grpo", "beta": 0.1}, "optimizer": {"lr": 1e-3}}
    recipe = _recipe(tmp_path / "a.yaml", tiny_folder, dtype=dtype, **wish)
    often = ["run.save_every=1", "run.keep_checkpoints=9"]
    for name in ("whole", "cut"):
        start(prepare(read_recipe(str(recipe), [f"run.dir={tmp_path / name}", *often])))
    for path in (tmp_path / "cut" / "checkpoints").iterdir():
        if path.name > "step-00000001-stage-00":  # back to the middle of the first stage
            shutil.rmtree(path)
    shutil.rmtree(tmp_path / "cut" / "model")
    start(prepare(read_recipe(str(recipe), [f"run.dir={tmp_path / 'cut'}", *often])), resume=True)
    models = [
        AutoModelForCausalLM.from_pretrained(tmp_path / name / "model", dtype="auto") for name in ("whole", "cut")
    ]
    base = AutoModelForCausalLM.from_pretrained(tiny_folder)
    assert models[0].dtype is getattr(torch, dtype)
    for (name, one), two in zip(models[0].state_dict().items(), models[1].state_dict().values(), strict=True):
        assert torch.equal(one, two), name
    assert any(not torch.equal(p, q.to(p)) for p, q in zip(models[0].parameters(), base.parameters(), strict=True))
    assert not (tmp_path / "whole" / "adapter").exists()


def test_what_a_run_leaves_is_evaluated_exported_and_not_merged(tiny_folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    recipe = _recipe(tmp_path / "a.yaml", tiny_folder, steps=1)
    found = tessera("train", recipe, f"run.dir={run}")
    assert found.code == 0, found.err
    assert f"model: {run / 'model'}" in found.out and "weights learn in float32" in found.out
    assert tessera("eval", run, "--first", "2", "--out", tmp_path / "e").code == 0
    merged = tessera("merge", run, "--out", tmp_path / "m")
    assert merged.code == 2 and f"whole weights are in {run / 'model'}" in merged.err
    assert tessera("export", run, "--out", tmp_path / "out").code == 0
    assert (tmp_path / "out" / "model.safetensors").is_file()
    assert "weights that learn" in tessera("check", recipe).out


@pytest.mark.parametrize(
    ("model", "stage", "wrong"),
    [
        (
            {},
            {"algorithm": {"name": "grpo", "beta": 0.1}, "reference": "initial"},
            "reference initial needs an adapter",
        ),
        ({}, {"algorithm": "t_spmo"}, "regulariser l2 is over an adapter's matrices"),
    ],
)
def test_what_is_told_of_an_adapter_is_refused(
    tiny_folder: Path, tmp_path: Path, model: dict[str, Any], stage: dict[str, Any], wrong: str
) -> None:
    recipe = _recipe(tmp_path / "a.yaml", tiny_folder, **stage)
    with pytest.raises(UserError, match=wrong):
        prepare(read_recipe(str(recipe)))


def test_full_goes_alone(tiny_folder: Path) -> None:
    for beside in ({"lora": {"rank": 2}}, {"adapter": "a"}, {"quantize": "4bit"}):
        with pytest.raises(ValueError, match=f"leave out {next(iter(beside))}, or full"):
            ModelConfig(name="x", full=True, **beside)
    with pytest.raises(UserError, match="float16 would lose small gradients"):
        load_policy(ModelConfig(name=str(tiny_folder), device="cpu", full=True, dtype="float16"))


def test_engines_that_are_sent_adapters_are_refused(tiny_folder: Path, tmp_path: Path) -> None:
    recipe = read_recipe(str(_recipe(tmp_path / "a.yaml", tiny_folder)), ["engine={kind: vllm_server}"])
    with pytest.raises(UserError, match=r"is sent LoRA adapters, not model\.full"):
        prepare(recipe)
