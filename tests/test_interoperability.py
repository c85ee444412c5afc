"""What a run leaves loads in plain peft and plain transformers, and computes the same."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from command import tessera, write_recipe
from tessera.policy.load import ModelConfig, load_policy

IDS = torch.tensor([[1, *range(20, 60)]])


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> Path:
    """A run whose adapter is far from where it began."""
    folder = tmp_path_factory.mktemp("run")
    warm = {"kind": "sft", "steps": 5, "batch_size": 4, "optimizer": {"lr": 0.05}}
    recipe = write_recipe(folder / "r.yaml", tiny_folder, stages=[warm], run={"dir": str(folder / "run")})
    assert tessera("train", recipe).code == 0
    return folder / "run"


def logits(model: Any) -> Tensor:
    with torch.inference_mode():
        return model.eval()(input_ids=IDS).logits


@pytest.fixture(scope="module")
def expected(run: Path, tiny_folder: Path) -> Tensor:
    """Of the run's own policy; the adapter moved them by far more than the tolerance."""
    config = ModelConfig(name=str(tiny_folder), adapter=str(run / "adapter"), lora=None)
    found = logits(load_policy(config, seed=0).model)
    assert (found - logits(AutoModelForCausalLM.from_pretrained(tiny_folder))).abs().max() > 0.1
    return found


def test_the_adapter_loads_in_plain_peft(run: Path, tiny_folder: Path, expected: Tensor) -> None:
    base = AutoModelForCausalLM.from_pretrained(tiny_folder)
    assert torch.allclose(logits(PeftModel.from_pretrained(base, run / "adapter")), expected, rtol=0, atol=1e-5)


def test_merged_weights_load_in_plain_transformers(run: Path, tmp_path: Path, expected: Tensor) -> None:
    """As the page on evaluation says."""
    page = (Path(__file__).parents[1] / "docs" / "evaluation.md").read_text(encoding="utf-8")
    code = page.partition("```python\n")[2].partition("```")[0]
    code = code.replace("runs/NAME", str(run)).replace('"merged"', repr(str(tmp_path / "merged")))
    exec(code, {})
    moved = shutil.move(tmp_path / "merged", tmp_path / "elsewhere")
    model = AutoModelForCausalLM.from_pretrained(moved)
    assert not any("lora" in name for name, _ in model.named_parameters())
    assert torch.allclose(logits(model), expected, rtol=0, atol=1e-5)
    assert AutoTokenizer.from_pretrained(moved)("1+1=")["input_ids"][0] == 1
