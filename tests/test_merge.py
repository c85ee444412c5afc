"""`tessera merge`: whole or not at all, the same model as the run's, and one line where it cannot be."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from tessera.core.errors import UserError
from tessera.merge import merge
from tessera.policy.load import ModelConfig, load_policy
from trained import trained

TOKENS = torch.tensor([[1, 20, 30, 40, 50, 60]])


def _logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(TOKENS).logits


def test_a_run_becomes_a_model_folder(tiny_folder: Path, tmp_path: Path) -> None:
    policy = trained(tmp_path / "run", tiny_folder)
    out = merge(str(tmp_path / "run"), [], tmp_path / "merged")
    back = AutoModelForCausalLM.from_pretrained(out)
    assert (_logits(back) - _logits(policy.model)).abs().max() < 1e-4
    assert torch.equal(_logits(load_policy(ModelConfig(name=str(out), device="cpu")).model), _logits(back))
    assert not list(tmp_path.glob(".merged*"))


def test_overrides_choose_precision_and_adapter(tiny_folder: Path, tmp_path: Path) -> None:
    trained(tmp_path / "run", tiny_folder)
    half = merge(str(tmp_path / "run"), ["model.dtype=bfloat16"], tmp_path / "half")
    assert AutoModelForCausalLM.from_pretrained(half, dtype="auto").dtype is torch.bfloat16
    named = merge(str(tiny_folder), [f"model.adapter={tmp_path / 'run' / 'adapter'}"], tmp_path / "named")
    assert torch.equal(
        _logits(AutoModelForCausalLM.from_pretrained(named)),
        _logits(AutoModelForCausalLM.from_pretrained(merge(str(tmp_path / "run"), [], tmp_path / "own"))),
    )


def test_a_run_on_few_bits_is_refused_with_the_way_out(tiny_folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    policy = trained(tmp_path / "run", tiny_folder, "model.quantize=4bit")
    out = tmp_path / "merged"
    with pytest.raises(UserError, match=r"quantised.*tessera export without --merged.*model\.quantize=null") as caught:
        merge(str(tmp_path / "run"), [], out)
    assert "\n" not in str(caught.value)
    assert not out.exists()
    merge(str(tmp_path / "run"), ["model.quantize=null"], out)  # into the weights that were not rounded
    assert (_logits(AutoModelForCausalLM.from_pretrained(out)) - _logits(policy.model)).abs().max() < 1e-4


def test_what_is_there_stays_unless_it_may_go(tiny_folder: Path, tmp_path: Path) -> None:
    trained(tmp_path / "run", tiny_folder)
    merge(str(tmp_path / "run"), [], tmp_path / "merged")
    (tmp_path / "merged" / "mine").touch()
    with pytest.raises(UserError, match="is there already: give another --out, or --force"):
        merge(str(tmp_path / "run"), [], tmp_path / "merged")
    assert (tmp_path / "merged" / "mine").exists()
    merge(str(tmp_path / "run"), [], tmp_path / "merged", force=True)
    assert not (tmp_path / "merged" / "mine").exists()
    (tmp_path / "other").mkdir()
    with pytest.raises(UserError, match=r"replaces the folder of a model or an adapter, and .*other is none"):
        merge(str(tmp_path / "run"), [], tmp_path / "other", force=True)


def test_without_an_adapter_there_is_nothing_to_merge(tiny_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no adapter to merge"):
        merge(str(tiny_folder), [], tmp_path / "merged")
    trained(tmp_path / "run", tiny_folder)
    (tmp_path / "run" / "adapter" / "adapter_model.safetensors").unlink()
    with pytest.raises(UserError, match="the run is not finished"):
        merge(str(tmp_path / "run"), [], tmp_path / "merged")
