"""Quantised bases: rounded weights, exact arithmetic on them, and an adapter that stays beside them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from tessera.core.errors import UserError
from tessera.policy import quantized
from tessera.policy.adapters import LoraSettings, adapter_matrices, save_adapter
from tessera.policy.forest import Row
from tessera.policy.load import ModelConfig, Policy, load_policy
from tessera.policy.logprobs import score
from tessera.policy.memory import Workload, estimate, skeleton
from tessera.policy.prefix import causal_lm
from tessera.policy.reference import Reference
from tessera.rollout.engine import Request, Sampling
from tessera.rollout.hf import HFEngine
from tiny import save_tiny, tiny_policy

pytest.importorskip("bitsandbytes")
BITS = ("8bit", "4bit")
ROWS = [Row((1, 30, 31), (60, 61, 62), (0, 1, 2)), Row((1, 30, 31), (60, 70), (0, 1))]


def _policy(folder: Path, bits: str | None, **lora: object) -> Policy:
    settings = LoraSettings(last_fraction="1/2", rank=4, alpha=8, **lora)
    policy = load_policy(ModelConfig(name=str(folder), device="cpu", quantize=bits, lora=settings))
    noise = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in adapter_matrices(policy.model):
            p.copy_(0.3 * torch.randn(p.shape, generator=noise))
    return policy


def _rounded(policy: Policy, folder: Path, **lora: object) -> Policy:
    """The slow twin: a plain model whose weights are what the integers of `policy` stand for."""
    from peft.utils.integrations import dequantize_module_weight

    twin = _policy(folder, None, **lora)
    plain = dict(causal_lm(twin.model).named_modules())
    for name, module in causal_lm(policy.model).named_modules():
        if type(module).__name__ in ("Linear8bitLt", "Linear4bit") and "lora" not in type(module).__module__:
            with torch.no_grad():
                plain[name].weight.copy_(dequantize_module_weight(module))
    return twin


@pytest.mark.parametrize("dora", [False, True])
@pytest.mark.parametrize("bits", BITS)
def test_log_probs_and_gradients_are_those_of_the_rounded_weights(tiny_folder: Path, bits: str, dora: bool) -> None:
    policy = _policy(tiny_folder, bits, dora=dora)
    twin = _rounded(policy, tiny_folder, dora=dora)
    if dora:  # lengths are learnt from those of each base's own rows
        lengths = [p for name, p in policy.model.named_parameters() if "magnitude" in name]
        for own, other in zip(lengths, [p for n, p in twin.model.named_parameters() if "magnitude" in n], strict=True):
            other.data.copy_(own.data)
    found, expected = (score(p.model, ROWS).logp_N for p in (policy, twin))
    assert torch.allclose(found, expected, atol=1e-4)
    assert not torch.allclose(found, score(_policy(tiny_folder, None, dora=dora).model, ROWS).logp_N, atol=1e-2)
    found.sum().backward()
    expected.sum().backward()
    for own, other in zip(policy.trainable_parameters(), twin.trainable_parameters(), strict=True):
        assert own.grad is not None and other.grad is not None
        assert torch.allclose(own.grad, other.grad, atol=2e-3, rtol=1e-3)


@pytest.mark.parametrize("bits", BITS)
def test_a_row_depends_on_itself_alone(tiny_folder: Path, bits: str) -> None:
    """Also after products without gradient, at which bitsandbytes may repack."""
    policy = _policy(tiny_folder, bits)
    with torch.no_grad():
        alone = torch.cat([score(policy.model, [row]).logp_N for row in ROWS])
    assert torch.allclose(score(policy.model, ROWS).logp_N, alone, atol=2e-4)


@pytest.mark.parametrize("bits", BITS)
def test_sampler_and_trainer_agree(tiny_folder: Path, bits: str) -> None:
    policy = _policy(tiny_folder, bits)
    requests = [Request((1, 30, 31), 0), Request((1, 40), 1)]
    found = HFEngine(policy).generate(requests, Sampling(max_new_tokens=6))
    rows = [Row(r.prompt_ids, c.ids, tuple(range(len(c.ids)))) for r, c in zip(requests, found, strict=True)]
    sampled = torch.tensor([x for c in found for x in c.logprobs])
    assert torch.allclose(score(policy.model, rows).logp_N.detach(), sampled, atol=2e-4)


@pytest.mark.parametrize("bits", BITS)
def test_the_initial_reference_is_the_quantised_base(tiny_folder: Path, bits: str) -> None:
    base = load_policy(ModelConfig(name=str(tiny_folder), device="cpu", quantize=bits, lora=None))
    policy = _policy(tiny_folder, bits)
    with Reference(policy.model, "initial").active():
        inside = score(policy.model, ROWS).logp_N
    assert torch.equal(inside, score(base.model, ROWS).logp_N)


@pytest.mark.parametrize("bits", BITS)
def test_the_memory_plan_counts_the_bits_with_their_scales(tmp_path: Path, bits: str) -> None:
    """Of a real model every quantised tensor, of a skeleton a formula; bitsandbytes' code tables are left out."""
    config = ModelConfig(name=str(save_tiny(tmp_path / "m")), device="cpu", quantize=bits)
    work = Workload(rollout_rows=6, update_rows=3, prompt_tokens=40, completion_tokens=30)
    assert estimate(skeleton(config), work, bits) == estimate(load_policy(config).model, work)
    # a layer's maps: q and o 32 x 32, k and v 16 x 32, gate, up and down 64 x 32: 9216 weights
    shapes = [(32, 32), (32, 32), (16, 32), (16, 32), (64, 32), (64, 32), (32, 64)]
    if bits == "8bit":  # a byte each, and a float32 scale for every row
        layer = 9216 + 4 * (32 + 32 + 16 + 16 + 64 + 64 + 32)
    else:  # half a byte each, a byte for 64 of them, and a float32 for up to 256 such bytes of a map
        layer = 9216 // 2 + 9216 // 64 + 4 * len(shapes)
    # embeddings and head 102 x 32, two norms a layer and the last one, in float32
    assert estimate(skeleton(config), work, bits)[0].bytes == 4 * layer + 4 * (2 * 102 * 32 + 9 * 32)


@pytest.mark.parametrize("bits", BITS)
def test_a_model_knows_that_it_is_quantised(tiny_folder: Path, bits: str) -> None:
    assert quantized.is_quantized(_policy(tiny_folder, bits).model)
    assert not quantized.is_quantized(tiny_policy().model)
    text = str(quantized.no_merging("m"))
    assert "weights of m are quantised" in text and "model.quantize=null" in text and "\n" not in text


def test_a_saved_adapter_goes_onto_either_base(tiny_folder: Path, tmp_path: Path) -> None:
    policy = _policy(tiny_folder, "4bit")
    save_adapter(policy.model, tmp_path)
    for bits in (None, "4bit", "8bit"):
        back = load_policy(ModelConfig(name=str(tiny_folder), device="cpu", quantize=bits, adapter=str(tmp_path)))
        assert back.fingerprint() == policy.fingerprint()


def test_what_cannot_be_quantised_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "m.gguf"
    file.touch()
    with pytest.raises(UserError, match=r"takes safetensors, and .* is a GGUF file"):
        load_policy(ModelConfig(name=str(file), quantize="4bit"))
    monkeypatch.setattr(quantized, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"4bit needs bitsandbytes: pip install 'tessera-rl\[quantized\]'$"):
        quantized.loading("4bit", torch.float32)


def test_other_maps_keep_their_forward() -> None:
    model = nn.Sequential(nn.Linear(2, 2))
    quantized.even(model)
    assert "forward" not in model[0].__dict__
