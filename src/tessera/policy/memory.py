"""What a run will need in memory, estimated from the model's shape before anything is loaded.

Weights, adapter, key-value cache and kept trunk outputs are counted exactly. Activations follow the tensors that
autograd keeps in a Llama-like layer of a packed forest, and the rest the largest buffers that exist beside them. The
framework itself and the allocator's fragments are left out.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn

from tessera.policy import quantized
from tessera.policy.adapters import adapter_matrices, attach_lora, attach_saved, decoder_layers, frozen_layers
from tessera.policy.head import CHUNK_BYTES
from tessera.policy.load import DTYPES, ModelConfig
from tessera.policy.quantized import Bits
from tessera.policy.sources import load_config

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

FLOAT32 = 4  # bytes


@dataclass(frozen=True)
class Workload:
    """The sizes of one step. Rows are completions; a micro-batch of an update is `update_rows` of them.

    `prompt_tokens` and `completion_tokens` are the longest expected. `planned_tokens` is how many tokens of a row
    get a log-probability, None for all; `update_prompts` how many different prompts a micro-batch holds. Of
    `kept_rows` completions the frozen layers' output is kept from sampling (0: none), of `kept_prompts` prompts.
    `recompute`, `offload` and `eight_bit` are gradient checkpointing, activation offload and 8-bit AdamW; `references`
    how many copies of all weights are kept for reference policies, where all learn. With `model.shard` over several
    processes each keeps one of so many `parts` of the weights, and the estimate is of one process. `sampler` are the
    bytes of a number in the copy of the model that samples (0: the model itself does).
    """

    rollout_rows: int
    update_rows: int
    prompt_tokens: int
    completion_tokens: int
    planned_tokens: int | None = None
    update_prompts: int = 1
    kept_rows: int = 0
    kept_prompts: int = 0
    recompute: bool = False
    offload: bool = False
    eight_bit: bool = False
    references: int = 0
    parts: int = 1
    sampler: int = 0

    @property
    def nodes(self) -> int:
        """Tokens of a micro-batch: each prompt once, and what is fed of each row."""
        return self.update_prompts * self.prompt_tokens + self.update_rows * (self.completion_tokens - 1)

    @property
    def planned(self) -> int:
        """Planned tokens of a micro-batch."""
        return self.update_rows * (self.completion_tokens if self.planned_tokens is None else self.planned_tokens)


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
    model.requires_grad_(config.full)
    if config.adapter is not None:
        return attach_saved(model, config.adapter)
    return model if config.lora is None else attach_lora(model, config.lora, seed=0)


def estimate(model: nn.Module, work: Workload, quantize: Bits | None = None) -> list[Part]:
    """The plan for one step of `work` with `model` (real, or a `skeleton`); its last part is the peak.

    The peak is what stays for the whole run plus the larger of the two phases, sampling and update. The maps of a
    skeleton's layers will be loaded in the bits of `quantize`.
    """
    always = [_weights(model, work, quantize), _adapter(model, work), _sampler(model, work), _trunk(model, work)]
    sampling = [_cache(model, work), _sampling_logits(model, work), _dora_cache(model), _all_of_them(model, work)]
    update = [
        _activations(model, work),
        _passing(model, work),
        _whole_maps(model, quantize),
        _gradient(model, work),
        _at_work(model, work),
    ]
    step = [Part("the optimiser's step", _step(model, work), "gradients, and their float32 copies")]
    phase = max((sampling, update, step), key=_sum)
    most = max((*always, *phase), key=lambda part: part.bytes)
    return [*always, *sampling, *update, _peak(always, phase, most)]


def _peak(always: list[Part], phase: list[Part], most: Part) -> Part:
    size = _sum(always) + _sum(phase)
    share = most.bytes / size if size else 0
    return Part("peak", size, f"what stays + the larger phase; {share:.0%} of it: {most.what}")


def _weights(model: nn.Module, work: Workload, quantize: Bits | None) -> Part:
    size = sum(_bytes(p) + quantized.state_bytes(p) for p in model.parameters() if not p.requires_grad)
    if quantize is not None:
        maps = [module.weight for module in _frozen_maps(model) if type(module) is nn.Linear]
        size += sum(quantized.packed_bytes(weight, quantize) - _bytes(weight) for weight in maps)
    return Part("weights", size // work.parts, "parameters x bytes each" + _by(work))


def _by(work: Workload) -> str:
    return f" / {work.parts} processes" if work.parts > 1 else ""


def _all_of_them(model: nn.Module, work: Workload) -> Part:
    """The whole weights beside the part that is kept, for the trainer's own model to sample; and what arrives of them,
    a layer or the vocabulary's matrices, at a time."""
    layer, outside, every = _layers(model)
    size = every + max(layer, outside) if work.parts > 1 and work.rollout_rows else 0
    return Part("whole weights (sampling)", size, "parameters x bytes each + the larger of vocabulary and a layer")


def _at_work(model: nn.Module, work: Workload) -> Part:
    """What is whole at a time: the vocabulary's matrices, and a layer while the next one is on its way."""
    layer, outside, _ = _layers(model)
    size = (outside + 2 * layer) * (2 if _whole(model) else 1) if work.parts > 1 else 0
    return Part("weights that are at work, and their gradients (update)", size, "vocabulary and two layers")


def _layers(model: nn.Module) -> tuple[int, int, int]:
    """Bytes of the largest layer, of what is in no layer, and of all."""
    layers = [sum(_bytes(p) for p in layer.parameters()) for layer in decoder_layers(model)[1]]
    every = sum(map(_bytes, _in_parts(model)))
    return max(layers), every - sum(layers), every


def _in_parts(model: nn.Module) -> list[nn.Parameter]:
    """What `model.shard` would divide: all but adapters."""
    return _whole(model) or [p for p in model.parameters() if not p.requires_grad]


def _sampler(model: nn.Module, work: Workload) -> Part:
    frozen = sum(p.numel() for p in model.parameters() if not p.requires_grad)
    learning = sum(_bytes(p) for p in model.parameters() if p.requires_grad)
    size = work.sampler * frozen + learning if work.sampler else 0
    return Part("copy of the model that samples", size, "frozen parameters x bytes each + adapter")


def _frozen_maps(model: nn.Module) -> list[nn.Linear]:
    """The linear maps of the layers, without those of adapters."""
    maps = (m for layer in decoder_layers(model)[1] for m in layer.modules() if isinstance(m, nn.Linear))
    return [m for m in maps if not m.weight.requires_grad]


def _bytes(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _adapter(model: nn.Module, work: Workload) -> Part:
    if whole := _whole(model):
        return _all_weights(whole, work)
    learning = sum(_bytes(p) for p in model.parameters() if p.requires_grad)
    if work.eight_bit:
        return Part("adapter, gradient, 8-bit AdamW state", learning * 5 // 2, "(2 x float32 + 2 bytes) x parameters")
    return Part("adapter, gradient, AdamW state", 4 * learning, "4 x float32 x adapter parameters")


def _whole(model: nn.Module) -> list[nn.Parameter]:
    """The weights of a model without adapter that learn."""
    return [] if adapter_matrices(model) else [p for p in model.parameters() if p.requires_grad]


def _all_weights(parameters: list[nn.Parameter], work: Workload) -> Part:
    numbers = sum(p.numel() for p in parameters)
    moments = 2 * numbers if work.eight_bit else 2 * FLOAT32 * numbers
    size = (1 + work.references) * sum(map(_bytes, parameters)) + _copies(parameters) + moments
    formula = "(1 + references) x own + moments + float32 copies"
    return Part("weights that learn, AdamW state, reference", size // work.parts, formula + _by(work))


def _copies(parameters: list[nn.Parameter]) -> int:
    """The float32 copies that AdamW moves for weights in half precision; their gradients are as large."""
    return sum(FLOAT32 * p.numel() for p in parameters if p.element_size() < FLOAT32)


def _gradient(model: nn.Module, work: Workload) -> Part:
    size = sum(map(_bytes, _whole(model))) // work.parts
    return Part("gradient of all weights (update)", size, "parameters x bytes each" + _by(work))


def _step(model: nn.Module, work: Workload) -> int:
    """When AdamW steps there are gradients in two precisions, and no activations any more."""
    return (sum(map(_bytes, _whole(model))) + _copies(_whole(model))) // work.parts


def _trunk(model: nn.Module, work: Workload) -> Part:
    tokens = work.kept_prompts * work.prompt_tokens + work.kept_rows * (work.completion_tokens - 1)
    size = tokens * _shape(model).hidden * _itemsize(model) if 0 < frozen_layers(model) < _shape(model).depth else 0
    return Part("frozen layers' output, kept from sampling", size, "(prompts + rows x length) x hidden")


def _cache(model: nn.Module, work: Workload) -> Part:
    tokens, number = work.prompt_tokens + work.completion_tokens, work.sampler or _itemsize(model)
    size = 2 * _shape(model).depth * _shape(model).kv_width * work.rollout_rows * tokens * number
    return Part("key-value cache (sampling)", size, "2 x layers x kv heads x head size x rows x tokens")


def _sampling_logits(model: nn.Module, work: Workload) -> Part:
    # logits, probabilities and these cut into spans in float32; the last in float64 too while they are summed
    size = 5 * FLOAT32 * work.rollout_rows * _shape(model).vocabulary
    return Part("logits (sampling)", size, "20 bytes x rows x vocabulary")


def _activations(model: nn.Module, work: Workload) -> Part:
    """What is kept for backward: of every layer that carries gradient, or its input alone when it is recomputed."""
    layers = _shape(model).depth - frozen_layers(model)
    if not layers:
        return Part("activations (update)", 0, "nothing learns")
    if work.offload:
        return Part("activations (update)", 0, "they are in the host's memory")
    if work.recompute:
        size = layers * work.nodes * _shape(model).hidden * _itemsize(model)
        return Part("activations (update)", size, "layers with gradient x nodes x H")
    formula = "layers with gradient x (nodes x (2 H + 2 Q + 3 I + LoRA inputs) + rows x length x 2 KV)"
    return Part("activations (update)", layers * _layer(model, work), formula)


def _layer(model: nn.Module, work: Workload) -> int:
    """What autograd keeps in one layer: two norm inputs in float32, query, attention output and its normaliser, three
    tensors of the feed-forward block, the float32 input and inner product of each adapted map (maps of one input share
    it in float32), with DoRA two of its outputs besides, and the keys and values that each row attends to."""
    shape, size = _shape(model), _itemsize(model)
    layers = max(1, shape.depth - frozen_layers(model))
    inner = sum(p.shape[0] for p in adapter_matrices(model)[::2]) // layers
    inputs = [p.shape[1] for p in adapter_matrices(model)[::2]]
    width = sum(inputs) // layers if size < FLOAT32 else sum(set(inputs))
    dora = 2 * sum(outputs for outputs, _ in _dora_maps(model)) // layers
    node = FLOAT32 * (2 * shape.hidden + shape.heads + width + inner + dora) + size * (
        2 * shape.query_width + 3 * shape.intermediate
    )
    if _whole(model):  # inputs and outputs of norms, and the input of every map
        node += size * (4 * shape.hidden + shape.intermediate)
    seen = work.update_prompts * work.prompt_tokens + work.update_rows * (work.prompt_tokens + work.completion_tokens)
    return int(work.nodes * node + seen * 2 * shape.kv_width * size)


def _dora_cache(model: nn.Module) -> Part:
    size = FLOAT32 * sum(map(prod, _dora_maps(model)))
    return Part("updates of DoRA's maps (sampling)", size, "float32 x their weights")


def _whole_maps(model: nn.Module, quantize: Bits | None) -> Part:
    """What exists of the one map that is at work: for DoRA its update, the sum with its weights and an identity matrix,
    in float32; of quantised weights a copy in the model's dtype."""
    dora = max((4 * prod(shape) + shape[1] ** 2 for shape in _dora_maps(model)), default=0)
    packed = quantize is not None or quantized.is_quantized(model)
    largest = max((m.in_features * m.out_features for m in _frozen_maps(model)), default=0) if packed else 0
    size = FLOAT32 * dora + _itemsize(model) * largest
    return Part(
        "whole maps of DoRA or out of few bits (update)", size, "4 x float32 x largest of DoRA + largest of few bits"
    )


def _dora_maps(model: nn.Module) -> list[tuple[int, int]]:
    """Outputs and inputs of every map that DoRA adapts."""
    adapted: list[Any] = [m for m in model.modules() if len(getattr(m, "lora_magnitude_vector", ()))]
    return [(m.out_features, m.in_features) for m in adapted]


def _passing(model: nn.Module, work: Workload) -> Part:
    """The larger of what the vocabulary head needs at once and the gradients inside one layer, with its activations
    where these are not kept."""
    shape = _shape(model)
    # Logits and probabilities in float32, and in half precision a copy of these for the product with the weights; for a
    # head that learns both again, and their gradients.
    copies = 8 if _whole(model) else 4 if _itemsize(model) == FLOAT32 else 5
    head = copies * min(CHUNK_BYTES, FLOAT32 * work.planned * shape.vocabulary) // 2
    inside = work.nodes * (3 * shape.intermediate + 2 * shape.hidden) * _itemsize(model)
    if work.recompute or work.offload:
        inside += _layer(model, work)
    states = 4 * work.nodes * shape.hidden * FLOAT32
    size = max(head, inside) + states if shape.depth > frozen_layers(model) else 0
    return Part(
        "head, or gradients of a layer (update)",
        size,
        "max(3 x chunk x vocabulary, nodes x (3 I + 2 H)) + 4 x nodes x H",
    )


class _Shape(NamedTuple):
    depth: int
    hidden: int
    heads: int
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
        heads=heads,
        query_width=heads * head_size,
        kv_width=kv_heads * head_size,
        intermediate=getattr(config, "intermediate_size", None) or 4 * config.hidden_size,
        vocabulary=config.vocab_size,
    )


def _itemsize(model: Any) -> int:
    return int(model.get_input_embeddings().weight.element_size())


def _sum(parts: Iterable[Part]) -> int:
    return sum(part.bytes for part in parts)
