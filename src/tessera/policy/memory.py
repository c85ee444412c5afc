"""What a run will need in memory, estimated from the model's shape before anything is loaded.

Weights, adapter and key-value caches are counted exactly. Activations and logits are estimates: they follow the
tensors that autograd keeps in a Llama-like layer, and leave out the allocator's fragments, the framework itself and
short-lived buffers. Expect the real peak to lie within about a third of the estimate.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn

from tessera.policy.adapters import adapter_matrices, attach_lora, attach_saved, frozen_layers
from tessera.policy.head import CHUNK_BYTES
from tessera.policy.load import DTYPES, ModelConfig
from tessera.policy.sources import load_config

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

FLOAT32 = 4  # bytes


@dataclass(frozen=True)
class Workload:
    """The sizes of one step. Rows are completions; a micro-batch of an update is `update_rows` of them.

    `prompt_tokens` and `completion_tokens` are the longest expected. `planned_tokens` is how many tokens of a row
    get a log-probability, None for all; `update_prompts` how many different prompts a micro-batch holds.
    """

    rollout_rows: int
    update_rows: int
    prompt_tokens: int
    completion_tokens: int
    planned_tokens: int | None = None
    update_prompts: int = 1


class Part(NamedTuple):
    """One line of the plan: what, how many bytes, and the formula behind the number."""

    what: str
    bytes: int
    formula: str


def skeleton(config: ModelConfig) -> PreTrainedModel | PeftModel:
    """The configured model with its adapter on the meta device: every shape, no weights. Errors as in `load_policy`."""
    from transformers import AutoModelForCausalLM

    base = load_config(config.name, revision=config.revision, trust_remote_code=config.trust_remote_code)
    dtype = DTYPES.get(config.dtype) or base.dtype or torch.float32
    from_config: Any = AutoModelForCausalLM.from_config
    with torch.device("meta"):
        model = from_config(base, dtype=dtype, trust_remote_code=config.trust_remote_code)
    model.requires_grad_(False)
    if config.adapter is not None:
        return attach_saved(model, config.adapter)
    return model if config.lora is None else attach_lora(model, config.lora, seed=0)


def estimate(model: nn.Module, work: Workload) -> list[Part]:
    """The plan for one step of `work` with `model` (real, or a `skeleton`); its last part is the peak.

    The peak is what stays for the whole run plus the larger of the two phases, sampling and update.
    """
    always = [_weights(model), _adapter(model)]
    sampling = [_cache(model, "sampling", work.rollout_rows, work), _sampling_logits(model, work)]
    update = [_cache(model, "update", work.update_rows, work), _activations(model, work), _head(model, work)]
    peak = _sum(always) + max(_sum(sampling), _sum(update))
    return [*always, *sampling, *update, Part("peak", peak, "weights + adapter + max(sampling, update)")]


def _weights(model: nn.Module) -> Part:
    frozen = (p for p in model.parameters() if not p.requires_grad)
    return Part("weights", sum(p.numel() * p.element_size() for p in frozen), "parameters x bytes each")


def _adapter(model: nn.Module) -> Part:
    learning = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    return Part("adapter, gradient, AdamW state", 4 * learning, "4 x float32 x adapter parameters")


def _cache(model: nn.Module, phase: str, rows: int, work: Workload) -> Part:
    tokens = work.prompt_tokens + work.completion_tokens
    size = 2 * _shape(model).depth * _shape(model).kv_width * rows * tokens * _itemsize(model)
    return Part(f"key-value cache ({phase})", size, "2 x layers x kv heads x head size x rows x tokens")


def _sampling_logits(model: nn.Module, work: Workload) -> Part:
    # float32 logits and log-softmax, float64 cumulative sum and the exponentials it is made of
    size = 6 * FLOAT32 * work.rollout_rows * _shape(model).vocabulary
    return Part("logits (sampling)", size, "24 bytes x rows x vocabulary")


def _activations(model: nn.Module, work: Workload) -> Part:
    """What autograd keeps of a token in a layer that carries gradient.

    Two norm inputs in float32, query and attention output, three tensors of the feed-forward block, the float32
    input and inner product of each adapted map; and each row's keys and values, repeated for every query head.
    """
    shape, lowest = _shape(model), frozen_layers(model)
    tokens = work.update_prompts * work.prompt_tokens + work.update_rows * work.completion_tokens
    layer = 2 * FLOAT32 * shape.hidden + (2 * shape.query_width + 3 * shape.intermediate) * _itemsize(model)
    maps = FLOAT32 * sum(p.shape[0] + p.shape[1] for p in adapter_matrices(model)[::2])
    repeated = work.update_rows * (work.prompt_tokens + work.completion_tokens) * 2 * shape.query_width
    size = tokens * maps + (shape.depth - lowest) * (tokens * layer + repeated * _itemsize(model))
    formula = "layers with gradient x (tokens x (2 H + 2 Q + 3 I) + rows x length x 2 Q) + LoRA inputs"
    return Part("activations (update)", size, formula)


def _head(model: nn.Module, work: Workload) -> Part:
    planned = work.completion_tokens if work.planned_tokens is None else work.planned_tokens
    vocabulary = _shape(model).vocabulary
    size = min(CHUNK_BYTES, FLOAT32 * work.update_rows * planned * vocabulary)
    return Part("head (update)", 3 * size, "3 x float32 x min(chunk, planned tokens) x vocabulary")


class _Shape(NamedTuple):
    depth: int
    hidden: int
    query_width: int
    kv_width: int
    intermediate: int
    vocabulary: int


def _shape(model: Any) -> _Shape:
    config = model.config.get_text_config()
    heads = config.num_attention_heads
    head_size = getattr(config, "head_dim", None) or config.hidden_size // heads
    kv_heads = getattr(config, "num_key_value_heads", None) or heads
    return _Shape(
        depth=config.num_hidden_layers,
        hidden=config.hidden_size,
        query_width=heads * head_size,
        kv_width=kv_heads * head_size,
        intermediate=getattr(config, "intermediate_size", None) or 4 * config.hidden_size,
        vocabulary=config.vocab_size,
    )


def _itemsize(model: Any) -> int:
    return int(model.get_input_embeddings().weight.element_size())


def _sum(parts: Iterable[Part]) -> int:
    return sum(part.bytes for part in parts)
