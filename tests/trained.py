"""What a finished run leaves for those who use its model: the recipe and an adapter that is not zero."""

from __future__ import annotations

from pathlib import Path

import torch

from command import write_recipe
from tessera.policy.adapters import LoraSettings, save_adapter
from tessera.policy.load import ModelConfig, Policy, load_policy
from tessera.recipe import read_recipe


def trained(folder: Path, model: Path, *overrides: str) -> Policy:
    """Write such a run over the tiny model into `folder`, and return its policy on unquantised weights."""
    recipe = read_recipe(str(write_recipe(folder.with_suffix(".yaml"), model)), overrides)
    lora = LoraSettings(rank=4, alpha=8, last_fraction="1/2")
    policy = load_policy(ModelConfig(name=str(model), device="cpu", lora=lora))
    with torch.no_grad():
        for p in policy.trainable_parameters():
            p.add_(0.05)
    save_adapter(policy.model, folder / "adapter")
    (folder / "recipe.yaml").write_text(recipe.text(), encoding="utf-8")
    return policy
