"""A trained adapter added into the weights of its base: a plain model that needs neither peft nor Tessera."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch

from tessera.core.errors import UserError
from tessera.policy import quantized
from tessera.policy.embedded import quiet
from tessera.policy.folders import whole_folder
from tessera.policy.load import ModelConfig, Policy, load_adapted

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def load_merged(config: ModelConfig) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model of `config` on the CPU, its adapter, where one is named, in its weights; and its tokenizer.

    In half precision the sums are rounded to it. Raises UserError for quantised weights and for values that are not
    finite, and as `load_policy` does.
    """
    if config.quantize is not None:
        raise quantized.no_merging(config.name)
    model, tokenizer = load_adapted(config, torch.device("cpu"))
    if quantized.is_quantized(model):
        raise quantized.no_merging(config.name)
    return _merged(model, config), tokenizer


def save_model(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path, weights: dict[str, Any] | None = None
) -> None:
    """Write safetensors, of `weights` where they are not the model's, configurations, tokenizer and chat template."""
    with quiet():
        model.save_pretrained(folder, state_dict=weights)
        tokenizer.save_pretrained(folder)


def save_trained(policy: Policy, folder: Path, weights: dict[str, Any] | None = None) -> None:
    """Write all weights of a policy without an adapter (`weights`, where they are not its model's), and its tokenizer.
    Replaces `folder` whole."""
    with whole_folder(folder, replace=True) as aside:
        save_model(cast("PreTrainedModel", policy.model), policy.tokenizer, aside, weights)


def _merged(model: Any, config: ModelConfig) -> PreTrainedModel:
    if config.adapter is None:
        return model  # type: ignore[no-any-return]
    try:
        merged: PreTrainedModel = model.merge_and_unload(safe_merge=True)
    except ValueError as error:
        raise UserError(f"the adapter {config.adapter} cannot be merged: {' '.join(str(error).split())}") from error
    return merged
