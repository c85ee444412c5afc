"""GGUF files: transformers reads back the weights, the tokenizer and the template that were written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    LlamaConfig,
    PretrainedConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

from tessera.core.errors import UserError
from tessera.policy import gguf_export
from tessera.policy.embedded import load_gguf, quiet
from tessera.policy.gguf_export import SPLITS, check_supported, write_gguf
from tiny import CHATML, tiny_model, tiny_tokenizer

pytest.importorskip("gguf")
SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
TEXTS = ("Hello world", " 12 + 345 = 357\n", "<|im_start|>user\nhi the there<|im_end|>", "žluťoučký 日本")
SIZES = {
    "vocab_size": 272,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.3,
    "max_position_embeddings": 128,
    "rope_theta": 5000.0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
CONFIGS: dict[str, PretrainedConfig] = {
    "llama": LlamaConfig(**SIZES),
    "tied llama": LlamaConfig(**SIZES, tie_word_embeddings=True),
    "qwen2": Qwen2Config(**SIZES),
    "qwen3": Qwen3Config(**SIZES, head_dim=128),  # transformers reads no other size of its heads
}


def byte_tokenizer(split: str | None = None) -> PreTrainedTokenizerFast:
    """Byte-level BPE with a few merges, split as GPT-2 does or by the rule `split`."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("h", "e"), ("l", "l"), ("he", "ll"), ("t", "he"), ("Ġ", "the"), ("Ġ", "w")]
    tokens = [*SPECIALS, *alphabet, *("".join(pair) for pair in merges)]
    backend = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(tokens)}, merges=merges))
    backend.decoder = decoders.ByteLevel()
    bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=split is None)
    backend.pre_tokenizer = (
        bytes_ if split is None else pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(split), "isolated"), bytes_])
    )
    backend.add_special_tokens(list(SPECIALS))
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<|im_start|>", eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )
    wrapped.chat_template = CHATML
    return wrapped


def _model(config: PretrainedConfig, dtype: torch.dtype = torch.float32) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, dtype=dtype).eval()
        with torch.no_grad():
            for p in model.parameters():  # norms and biases too
                if p.ndim == 1:
                    p.add_(0.2 * torch.randn(p.shape).to(p))
    return model


def _back(file: Path, dtype: torch.dtype = torch.float32) -> tuple[Any, Any]:
    with quiet():
        model, tokenizer = load_gguf(file, dtype)
    return model.eval(), tokenizer


def _logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.tensor([[1, 20, 30, 40, 50, 60, 250]])).logits.float()


@pytest.mark.parametrize("name", CONFIGS)
def test_the_model_comes_back(tmp_path: Path, name: str) -> None:
    model, tokenizer = _model(CONFIGS[name]), byte_tokenizer()
    write_gguf(model, tokenizer, tmp_path / "m.gguf", "m")
    back, read = _back(tmp_path / "m.gguf")
    assert (_logits(back) - _logits(model)).abs().max() < 1e-4
    assert [read(text, add_special_tokens=False)["input_ids"] for text in TEXTS] == [
        tokenizer(text, add_special_tokens=False)["input_ids"] for text in TEXTS
    ]
    assert (read.chat_template, read.eos_token, read.bos_token) == (CHATML, "<|im_end|>", "<|im_start|>")
    assert back.config.max_position_embeddings == 128


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_kept_as_it_is(tmp_path: Path, dtype: torch.dtype) -> None:
    model = _model(CONFIGS["llama"], dtype)
    write_gguf(model, byte_tokenizer(), tmp_path / "m.gguf", "m")
    back, _ = _back(tmp_path / "m.gguf")
    for key, tensor in model.state_dict().items():
        assert torch.equal(back.state_dict()[key], tensor.float()), key
    size = (tmp_path / "m.gguf").stat().st_size
    assert size < 2.2 * sum(p.numel() for p in model.parameters()) + 20_000


@pytest.mark.parametrize("split", SPLITS)
def test_known_rules_of_splitting_come_back(tmp_path: Path, split: str) -> None:
    tokenizer = byte_tokenizer(split)
    write_gguf(_model(CONFIGS["llama"]), tokenizer, tmp_path / "m.gguf", "m")
    read = _back(tmp_path / "m.gguf")[1]
    for text in TEXTS:
        assert (
            read(text, add_special_tokens=False)["input_ids"] == tokenizer(text, add_special_tokens=False)["input_ids"]
        )


@pytest.mark.parametrize(
    ("config", "wrong"),
    [
        (LlamaConfig(**SIZES, attention_bias=True), "cannot write biases"),
        (LlamaConfig(**{**SIZES, "hidden_act": "gelu"}), "cannot write the activation gelu"),
        (
            LlamaConfig(**{**SIZES, "rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}}),
            "rotary angles of type linear",
        ),
        (GPT2Config(vocab_size=272, n_embd=16, n_layer=1, n_head=2), "llama, qwen2, qwen3, and this is gpt2"),
    ],
)
def test_what_a_file_could_not_say_is_refused(tmp_path: Path, config: PretrainedConfig, wrong: str) -> None:
    with pytest.raises(UserError, match=wrong) as caught:
        write_gguf(_model(config), byte_tokenizer(), tmp_path / "m.gguf", "m")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "m.gguf").exists()


def test_other_tokenizers_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for tokenizer in (tiny_tokenizer(), byte_tokenizer(r"\d+|\D+")):
        with pytest.raises(UserError, match="byte-level BPE tokenizers that split as"):
            check_supported(tiny_model(), tokenizer)
    monkeypatch.setattr(gguf_export, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="needs the gguf package: pip install gguf"):
        check_supported(tiny_model(), byte_tokenizer())
