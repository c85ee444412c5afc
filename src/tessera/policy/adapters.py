"""LoRA adapters on the last part of a model: attach, save, load, copy.

All of it is peft's own LoRA (Hu et al. 2021, arXiv:2106.09685), so a saved folder loads in plain peft. Adapters sit
on the last layers only: nothing below the lowest adapter needs a gradient, so input gradients are never switched on.
"""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from pydantic import BaseModel, ConfigDict, Field, field_validator
from torch import Tensor, nn

from tessera.core.errors import UserError
from tessera.policy.folders import whole_folder
from tessera.policy.parts import in_parts, placed

if TYPE_CHECKING:
    from peft import PeftModel

log = logging.getLogger("tessera")

WEIGHTS_FILE = "adapter_model.safetensors"
CONFIG_FILE = "adapter_config.json"


class LoraSettings(BaseModel):
    """Which linear maps get a low-rank update, and its size.

    `targets` are the names of linear modules inside a decoder layer (`q_proj`, `mlp.down_proj`), or `all-linear`.
    `last_fraction` is the share of the layers that are adapted, counted from the top: a number or a text such as
    `1/3`, rounded to the nearest whole layer, never fewer than one. The update is `alpha / rank` times B A, with
    `rslora` `alpha / √rank` times (arXiv:2312.03732). With `dora` the length of each output's weights is learnt apart
    from their direction, which has the update (arXiv:2402.09353).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    targets: tuple[str, ...] | Literal["all-linear"] = ("q_proj", "v_proj")
    last_fraction: float | str = "1/3"
    rank: int = Field(default=16, ge=1)
    alpha: int = Field(default=32, ge=1)
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    dora: bool = False
    rslora: bool = False

    @field_validator("targets")
    @classmethod
    def _some_targets(cls, value: tuple[str, ...] | str) -> tuple[str, ...] | str:
        if not value:
            raise ValueError("name at least one linear module, or 'all-linear'")
        return value

    @field_validator("last_fraction")
    @classmethod
    def _a_share(cls, value: float | str) -> float | str:
        try:
            share = Fraction(value)
        except (ValueError, ZeroDivisionError):
            raise ValueError(f"got {value!r}; write a number or a fraction such as '1/3'") from None
        if not 0 < share <= 1:
            raise ValueError(f"got {value!r}; it must be above 0 and at most 1")
        return value

    def adapted_layers(self, depth: int) -> range:
        """The indices of the adapted layers of a model with `depth` layers."""
        count = int(Fraction(self.last_fraction) * depth + Fraction(1, 2))
        return range(depth - max(1, count), depth)


def attach_lora(model: nn.Module, settings: LoraSettings, seed: int) -> PeftModel:
    """Wrap `model` in fresh float32 LoRA adapters (also over a half-precision base); everything else is frozen.

    B starts at zero, so the policy starts as the base model. A depends on `seed` alone; the global generators are
    left as they were. Raises UserError when a target matches no linear module of the adapted layers.
    """
    from peft import LoraConfig, TaskType

    path, layers = decoder_layers(model)
    adapted = settings.adapted_layers(len(layers))
    if settings.dropout > 0:
        log.warning(
            "LoRA dropout %g: completions are sampled without it, so ratios differ from 1 before any update",
            settings.dropout,
        )
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        use_dora=settings.dora,
        use_rslora=settings.rslora,
        target_modules=_resolve_targets(settings.targets, (layers[i] for i in adapted)),
        layers_to_transform=list(adapted),
        layers_pattern=path.rpartition(".")[2],
        task_type=TaskType.CAUSAL_LM,
    )
    return _wrap(model, config, seed)


def decoder_layers(model: nn.Module) -> tuple[str, nn.ModuleList]:
    """The dotted name and the list of a model's transformer layers, found by `config.num_hidden_layers`."""
    depth = model.config.get_text_config().num_hidden_layers  # type: ignore[union-attr, operator]
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == depth:
            return name, module
    raise UserError(f"{type(model).__name__} has no list of {depth} layers; adapters need a decoder of stacked layers")


def frozen_layers(model: nn.Module) -> int:
    """How many layers, from the bottom, are below every adapter and everything that learns, and so are constant."""
    if any(p.requires_grad for p in model.get_input_embeddings().parameters()):  # type: ignore[operator]
        return 0
    layers = decoder_layers(model)[1]
    learning = (i for i, layer in enumerate(layers) if _has_adapter(layer) or _learns(layer))
    return next(learning, len(layers))


def adapter_matrices(model: nn.Module) -> list[nn.Parameter]:
    """The A and B matrices of every adapter, in the model's order."""
    return [p for name, p in model.named_parameters() if ".lora_A." in name or ".lora_B." in name]


@contextmanager
def unchanging(model: nn.Module) -> Iterator[None]:
    """Within the context no weight changes, so that DoRA, where there is one, takes the norms of its maps once."""
    scales: list[Any] = [m for m in model.modules() if hasattr(m, "_dora_cache")]
    if not scales:
        yield
        return
    from peft.helpers import DoraCaching

    with DoraCaching():
        try:
            yield
        finally:
            for module in scales:
                module._cache_clear()


def adapter_state(model: nn.Module) -> dict[str, Tensor]:
    """CPU copies of the adapter's tensors under the names of a saved adapter; of all weights, where these learn.

    Of weights in parts (`sharded`) the copies are too, and stay where they are.
    """
    own = {name: tensor.detach() for name, tensor in _adapter_tensors(model).items()}
    return {name: (tensor if in_parts(tensor) else tensor.cpu()).clone() for name, tensor in own.items()}


def set_adapter_state(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Copy `state` (from `adapter_state`) into the adapter in place. UserError when names or shapes differ."""
    own = _adapter_tensors(model)
    _check_same(own, state)
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(placed(state[name], like=tensor))


def save_adapter(model: PeftModel, folder: str | Path) -> None:
    """Write the adapter so that `peft.PeftModel.from_pretrained(base, folder)` loads it. Replaces `folder` whole."""
    from safetensors.torch import save_file

    config = copy.copy(model.peft_config[model.active_adapter])
    config.inference_mode = True  # peft's convention for a saved adapter
    with whole_folder(Path(folder), replace=True) as aside:
        state = {name: tensor.contiguous() for name, tensor in adapter_state(model).items()}
        save_file(state, aside / WEIGHTS_FILE, metadata={"format": "pt"})
        config.save_pretrained(str(aside))


def load_adapter_state(model: nn.Module, folder: str | Path) -> None:
    """Copy the adapter saved in `folder` into the adapter that `model` already carries."""
    from safetensors.torch import load_file

    set_adapter_state(model, load_file(_adapter_file(folder, WEIGHTS_FILE)))


def check_same_update(model: nn.Module, folder: str | Path) -> None:
    """UserError unless the adapter saved in `folder` makes the same of its tensors as the model's own does: the same
    rank, scale and form of update."""
    from peft import PeftConfig

    _adapter_file(folder, CONFIG_FILE)
    other, own = PeftConfig.from_pretrained(str(folder)), cast("PeftModel", model).active_peft_config
    for key in ("peft_type", "r", "lora_alpha", "use_rslora", "use_dora", "rank_pattern", "alpha_pattern"):
        theirs, ours = (getattr(config, key, None) for config in (other, own))
        if theirs != ours:
            raise UserError(f"the adapter in {folder} has {key} {theirs}, the model's has {ours}: they do not compare")


def attach_saved(model: nn.Module, folder: str | Path) -> PeftModel:
    """Wrap `model` in the LoRA adapter saved in `folder`, trainable and in float32.

    Raises UserError when the folder holds no LoRA adapter, or one made for a model of another shape.
    """
    from peft import LoraConfig, PeftConfig

    _adapter_file(folder, CONFIG_FILE)
    config = PeftConfig.from_pretrained(str(folder))
    if not isinstance(config, LoraConfig):
        raise UserError(f"{folder} holds a {config.peft_type} adapter; only LoRA adapters are supported")
    config.inference_mode = False
    peft_model = _wrap(model, config, seed=0)
    load_adapter_state(peft_model, folder)
    return peft_model


def _wrap(model: nn.Module, config: Any, seed: int) -> PeftModel:
    from peft import get_peft_model

    try:
        with _seeded(seed), warnings.catch_warnings():
            # peft reads an attribute that transformers is renaming; nothing a user could do about it.
            warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)
            return cast("PeftModel", get_peft_model(cast("Any", model), config, autocast_adapter_dtype=True))
    except ValueError as error:  # peft's answer to targets that are not there
        reason = " ".join(str(error).split())
        raise UserError(f"the LoRA adapter does not fit {type(model).__name__}: {reason}") from error


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    # peft draws A on the CPU and moves it, so the CPU generator is the only one that matters.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


def _resolve_targets(targets: tuple[str, ...] | str, layers: Iterable[nn.Module]) -> list[str]:
    present = sorted({name for layer in layers for name in _linear_names(layer)})
    if isinstance(targets, str):
        return present
    missing = [t for t in targets if not any(name == t or name.endswith(f".{t}") for name in present)]
    if missing:
        raise UserError(
            f"LoRA targets {missing} match no linear module of the adapted layers; there are: {', '.join(present)}"
        )
    return list(targets)


def _linear_names(layer: nn.Module) -> list[str]:
    from transformers.pytorch_utils import Conv1D

    found = [(name, module) for name, module in layer.named_modules() if isinstance(module, nn.Linear | Conv1D)]
    # A family's own kind of linear map is a router of experts, which returns more than a product.
    return [name for name, module in found if not type(module).__module__.startswith("transformers.models.")]


def _has_adapter(module: nn.Module) -> bool:
    return any(".lora_" in name for name, _ in module.named_parameters())


def _learns(module: nn.Module) -> bool:
    return any(p.requires_grad for p in module.parameters())


def _adapter_tensors(model: nn.Module) -> dict[str, Tensor]:
    """The adapter's own tensors (not copies) under peft's saved names; without an adapter, those that learn."""
    from peft import PeftModel, get_peft_model_state_dict

    if not isinstance(model, PeftModel):
        whole: dict[str, Tensor] = {name: p for name, p in model.named_parameters() if p.requires_grad}
        if not whole:
            raise UserError(f"{type(model).__name__} carries no adapter")
        return whole
    tensors: dict[str, Tensor] = get_peft_model_state_dict(
        model, adapter_name=model.active_adapter, save_embedding_layers=False
    )
    return tensors


def _check_same(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> None:
    differing = sorted(own.keys() ^ state.keys())
    if differing:
        raise UserError(
            f"the adapter has other tensors than the model's: {len(differing)} differ, first {differing[0]}"
        )
    for name, tensor in own.items():
        if tensor.shape != state[name].shape:
            got, expected = tuple(state[name].shape), tuple(tensor.shape)
            raise UserError(f"adapter tensor {name} has shape {got}, the model's has {expected}")


def _adapter_file(folder: str | Path, name: str) -> Path:
    file = Path(folder) / name
    if not file.is_file():
        raise UserError(f"{folder} is no adapter folder: it has no {name}")
    return file
