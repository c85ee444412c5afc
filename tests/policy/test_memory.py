"""The memory plan: exact where it counts, near where it estimates."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import DynamicCache

from tessera.core.errors import UserError
from tessera.policy.adapters import LoraSettings, attach_lora, save_adapter
from tessera.policy.forest import Row
from tessera.policy.load import ModelConfig, load_policy
from tessera.policy.logprobs import score
from tessera.policy.memory import Workload, estimate, skeleton
from tiny import tiny_model, tiny_policy

WORK = Workload(rollout_rows=6, update_rows=3, prompt_tokens=40, completion_tokens=30)


def _plan(model: nn.Module, work: Workload = WORK) -> dict[str, int]:
    return {part.what: part.bytes for part in estimate(model, work)}


def test_weights_and_adapter_are_the_real_ones() -> None:
    policy = tiny_policy()
    plan = _plan(policy.model)
    assert plan["weights"] == sum(p.nbytes for p in tiny_model().parameters())
    # rank 4 on q (32 -> 32) and v (32 -> 16) of two layers: 2 x 4 x (64 + 48) = 896 weights of 4 bytes, and the same
    # again for the gradient and each of AdamW's two moments
    assert plan["adapter, gradient, AdamW state"] == 4 * 896 * 4


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_cache_is_the_real_one(dtype: torch.dtype) -> None:
    model = tiny_model(dtype=dtype)
    plan = _plan(model)
    cache = DynamicCache(config=model.config)
    with torch.no_grad():
        model(torch.ones(6, 70, dtype=torch.long), past_key_values=cache)  # 6 rows of 40 + 30 tokens
    assert plan["key-value cache (sampling)"] == sum(x.keys.nbytes + x.values.nbytes for x in cache.layers)
    assert plan["key-value cache (update)"] * 2 == plan["key-value cache (sampling)"]  # 3 rows


@pytest.mark.parametrize("fraction", ["1/4", 1])
def test_activations_are_near_what_autograd_keeps(fraction: float | str) -> None:
    model = attach_lora(tiny_model(), LoraSettings(last_fraction=fraction, rank=4), seed=0)
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, tuple[int, torch.Tensor]] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights and tensor.shape[-1:] != (102,):  # the head is another part
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    prompt = tuple(range(10, 50))
    rows = [Row(prompt, tuple(range(20 + i, 50 + i)), tuple(range(30))) for i in range(3)]
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        score(model, rows)
    measured = sum(size for size, _ in kept.values())
    assert 0.8 < _plan(model)["activations (update)"] / measured < 1.2


def test_the_peak_is_the_larger_phase() -> None:
    plan = _plan(tiny_policy().model)
    always = plan["weights"] + plan["adapter, gradient, AdamW state"]
    sampling = plan["key-value cache (sampling)"] + plan["logits (sampling)"]
    update = plan["key-value cache (update)"] + plan["activations (update)"] + plan["head (update)"]
    assert plan["peak"] == always + max(sampling, update)


def test_planned_tokens_bound_the_head() -> None:
    def head(**sizes: int) -> int:
        return _plan(tiny_model(), Workload(rollout_rows=1, prompt_tokens=1, **sizes))["head (update)"]

    # 4 float32 tensors of [planned tokens, 102]
    assert head(update_rows=3, completion_tokens=30, planned_tokens=5) == 4 * 4 * 15 * 102
    assert head(update_rows=3, completion_tokens=30) == 4 * 4 * 90 * 102
    assert head(update_rows=64, completion_tokens=500) == 4 * 4 * 512 * 102  # one chunk at a time


def test_without_an_adapter_nothing_is_kept() -> None:
    plan = _plan(tiny_model().requires_grad_(False))
    assert plan["activations (update)"] == plan["adapter, gradient, AdamW state"] == 0


@pytest.mark.parametrize("settings", [{}, {"dtype": "bfloat16"}, {"lora": None}, {"dtype": "auto"}])
def test_the_skeleton_plans_what_the_real_model_does(tiny_folder: Path, settings: dict[str, object]) -> None:
    config = ModelConfig(name=str(tiny_folder), device="cpu", **settings)
    model = skeleton(config)
    assert {p.device.type for p in model.parameters()} == {"meta"}
    assert estimate(model, WORK) == estimate(load_policy(config).model, WORK)


def test_the_skeleton_takes_a_saved_adapter_and_checks_it(tiny_folder: Path, tmp_path: Path) -> None:
    save_adapter(tiny_policy().model, tmp_path)
    plan = _plan(skeleton(ModelConfig(name=str(tiny_folder), adapter=str(tmp_path))))
    assert plan == _plan(tiny_policy().model)
    with pytest.raises(UserError, match="match no linear module"):
        skeleton(ModelConfig(name=str(tiny_folder), lora=LoraSettings(targets=("query",))))
