"""Tiny random models for tests: a Llama of a few thousand weights and a real character tokenizer, built offline."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, processors
from transformers import (
    AutoModelForCausalLM,
    CohereConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GemmaConfig,
    GenerationConfig,
    GPT2Config,
    GraniteConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    PretrainedConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from tessera.policy.adapters import LoraSettings
from tessera.policy.embedded import quiet
from tessera.policy.load import Policy

SPECIALS = ("<pad>", "<bos>", "<eos>", "<|im_start|>", "<|im_end|>", "<unk>")
CHARACTERS = "\n" + "".join(chr(code) for code in range(32, 127))
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if thinking is defined and not thinking %}[no thinking]{% endif %}{% endif %}"
)
TINY_LORA = LoraSettings(last_fraction="1/2", rank=4, alpha=8)


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """One id a character (printable ASCII and newline, from id 6 on; anything else is <unk>), a <bos> before plain
    text, and a short ChatML template that also reads `thinking`."""
    vocab = {token: id_ for id_, token in enumerate((*SPECIALS, *CHARACTERS))}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[], unk_token="<unk>"))
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens(list(SPECIALS))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", pair="<bos> $A $B", special_tokens=[("<bos>", vocab["<bos>"])]
    )
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        unk_token="<unk>",
        clean_up_tokenization_spaces=False,
        model_max_length=512,
    )
    wrapped.chat_template = CHATML
    return wrapped


def tiny_model(
    seed: int = 0, *, layers: int = 4, std: float = 0.4, dtype: torch.dtype = torch.float32
) -> LlamaForCausalLM:
    """A random Llama: hidden size 32, 4 heads over 2 key-value heads, 102 tokens, 512 positions, no tied weights.

    `std` is that of every weight; at 0.4 the next-token distributions are far from flat. <eos> and <|im_end|> end a
    completion. In float64 the norms compute in float64 too (transformers' own round to float32). The global generators
    are left as they were.
    """
    config = LlamaConfig(
        vocab_size=len(SPECIALS) + len(CHARACTERS),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=False,
        initializer_range=std,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config).to(dtype)
    if dtype is torch.float64:
        _widen_norms(model)
    model.generation_config = GenerationConfig(eos_token_id=[2, 4], pad_token_id=0, bos_token_id=1)
    return model.eval()


def _widen_norms(model: LlamaForCausalLM) -> None:
    for layer in model.model.layers:
        layer.input_layernorm = _exact_norm(layer.input_layernorm)
        layer.post_attention_layernorm = _exact_norm(layer.post_attention_layernorm)
    model.model.norm = _exact_norm(model.model.norm)


def _exact_norm(norm: LlamaRMSNorm) -> torch.nn.RMSNorm:
    exact = torch.nn.RMSNorm(len(norm.weight), eps=norm.variance_epsilon, dtype=torch.float64)
    exact.weight = norm.weight
    return exact


def tiny_policy(
    seed: int = 0,
    *,
    layers: int = 4,
    std: float = 0.4,
    dtype: torch.dtype = torch.float32,
    lora: LoraSettings | None = TINY_LORA,
) -> Policy:
    """A policy over `tiny_model`; adapters on the upper half by default, none with `lora=None`."""
    model = tiny_model(seed, layers=layers, std=std, dtype=dtype)
    return Policy.from_objects(model, tiny_tokenizer(), lora=lora, seed=seed, name="tiny")


def save_tiny(folder: str | Path, seed: int = 0, *, layers: int = 4, std: float = 0.4) -> Path:
    """Write `tiny_model` and its tokenizer as a local model folder, and return it."""
    with quiet():
        tiny_model(seed, layers=layers, std=std).save_pretrained(folder)
        tiny_tokenizer().save_pretrained(folder)
    return Path(folder)


_SIZES = {
    "vocab_size": 102,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "initializer_range": 0.4,
    "pad_token_id": 0,
}
_GROUPED = {**_SIZES, "intermediate_size": 64, "num_key_value_heads": 2}
_TWO_KINDS = ["full_attention", "sliding_attention", "full_attention"]
# By model type: what runs on packed forests, and GPT-2, Granite and Cohere, which do not.
TINY_FAMILIES: dict[str, PretrainedConfig] = {
    "llama": LlamaConfig(**_GROUPED),
    "mistral": MistralConfig(**_GROUPED, sliding_window=5),
    "qwen2": Qwen2Config(**_GROUPED, use_sliding_window=True, sliding_window=5, layer_types=_TWO_KINDS),
    "qwen3": Qwen3Config(**_GROUPED, head_dim=8, tie_word_embeddings=True),
    # Its embeddings are scaled up, so smaller weights: float32 has to tell 1e-5 from rounding.
    "gemma": GemmaConfig(**{**_GROUPED, "initializer_range": 0.2}, head_dim=8),
    "gemma2": Gemma2Config(
        **_GROUPED,
        head_dim=8,
        final_logit_softcapping=2.0,
        attn_logit_softcapping=3.0,
        sliding_window=5,
        layer_types=_TWO_KINDS,
        attn_implementation="eager",  # the others leave out the cap
    ),
    "gemma3_text": Gemma3TextConfig(**_GROUPED, head_dim=8, sliding_window=5, layer_types=_TWO_KINDS),
    "granite": GraniteConfig(**_GROUPED, logits_scaling=3.0, residual_multiplier=0.5),
    "cohere": CohereConfig(**_GROUPED, logit_scale=0.25),
    "gpt2": GPT2Config(vocab_size=102, n_embd=32, n_layer=3, n_head=4, initializer_range=0.4),
}


def tiny_family(name: str, dtype: torch.dtype = torch.float32) -> Policy:
    """A random three-layer policy of model type `name`, adapted in its upper two layers."""
    config = TINY_FAMILIES[name]
    targets = ("c_attn",) if name == "gpt2" else ("q_proj", "v_proj")
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="fan_in_fan_out")
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
        lora = LoraSettings(targets=targets, last_fraction="2/3", rank=4, alpha=8)
        return Policy.from_objects(model, tiny_tokenizer(), lora=lora, name=name)
