"""Merged models: plain transformers loads them, and they say what the adapted policy said."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tessera.core.errors import UserError
from tessera.policy.adapters import LoraSettings, adapter_matrices, save_adapter
from tessera.policy.load import ModelConfig, load_policy
from tessera.policy.merging import load_merged, save_model

TOKENS = torch.tensor([[1, 20, 30, 40, 50, 60]])


def _logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(TOKENS).logits.float()


@pytest.fixture(params=[{}, {"dora": True}, {"rslora": True, "targets": "all-linear"}])
def adapter(request: pytest.FixtureRequest, tiny_folder: Path, tmp_path: Path) -> Path:
    """The folder of an adapter that moves every map it has."""
    lora = LoraSettings(last_fraction="1/2", rank=4, alpha=8, **request.param)
    policy = load_policy(ModelConfig(name=str(tiny_folder), device="cpu", lora=lora))
    noise = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for p in policy.trainable_parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=noise))
    save_adapter(policy.model, tmp_path / "adapter")
    return tmp_path / "adapter"


def test_a_merged_model_loads_in_plain_transformers(tiny_folder: Path, tmp_path: Path, adapter: Path) -> None:
    config = ModelConfig(name=str(tiny_folder), device="cpu", adapter=str(adapter))
    policy = load_policy(config)
    merged, tokenizer = load_merged(config)
    save_model(merged, tokenizer, tmp_path / "merged")
    back = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert (_logits(back) - _logits(policy.model)).abs().max() < 1e-4
    with torch.no_grad():
        for p in adapter_matrices(policy.model):
            p.zero_()
    assert (_logits(back) - _logits(policy.model)).abs().max() > 1e-2
    assert not any("lora" in name for name, _ in back.named_parameters())
    own = AutoTokenizer.from_pretrained(tmp_path / "merged")
    assert own.chat_template == policy.tokenizer.chat_template
    assert own("1 + 2")["input_ids"] == policy.tokenizer("1 + 2")["input_ids"]


def test_half_precision_is_rounded_once(tiny_folder: Path, adapter: Path) -> None:
    config = ModelConfig(name=str(tiny_folder), device="cpu", adapter=str(adapter))
    exact, _ = load_merged(config)
    half, _ = load_merged(config.model_copy(update={"dtype": "bfloat16"}))
    for wide, narrow in zip(exact.parameters(), half.parameters(), strict=True):
        assert narrow.dtype is torch.bfloat16
        # bfloat16 keeps 8 bits: the base is rounded by at most 2^-9 of a weight, the sum once more, and where the two
        # cancel that is not small beside what is left, so of the largest weight
        assert (wide - narrow.float()).abs().max() <= 2 * 2**-8 * wide.abs().max()


def test_without_an_adapter_the_base_comes_back(tiny_folder: Path) -> None:
    config = ModelConfig(name=str(tiny_folder), device="cpu", lora=None)
    assert torch.equal(_logits(load_merged(config)[0]), _logits(load_policy(config).model))


def test_nothing_is_merged_into_few_bits(tiny_folder: Path, adapter: Path) -> None:
    with pytest.raises(UserError, match=r"are quantised.*model\.quantize=null"):
        load_merged(ModelConfig(name=str(tiny_folder), adapter=str(adapter), quantize="4bit"))


def test_an_adapter_that_is_not_finite_is_refused(tiny_folder: Path, tmp_path: Path) -> None:
    policy = load_policy(ModelConfig(name=str(tiny_folder), device="cpu"))
    with torch.no_grad():
        policy.trainable_parameters()[0].fill_(float("nan"))
    save_adapter(policy.model, tmp_path / "adapter")
    with pytest.raises(UserError, match="cannot be merged"):
        load_merged(ModelConfig(name=str(tiny_folder), device="cpu", adapter=str(tmp_path / "adapter")))
