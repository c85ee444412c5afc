"""`tessera export`: adapter or weights, a card, a GGUF file, and nothing sent that was not asked for."""

from __future__ import annotations

import json
from pathlib import Path

import huggingface_hub
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

from tessera.core.errors import UserError
from tessera.export import Wanted, export
from tessera.policy.embedded import load_gguf, quiet
from tessera.policy.load import Policy
from tiny import CHATML
from trained import trained

TOKENS = torch.tensor([[1, 20, 30, 40, 50, 60]])


def _logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(TOKENS).logits


@pytest.fixture
def run(tiny_folder: Path, tmp_path: Path) -> Path:
    """A finished run without a summary."""
    _finish(tmp_path / "sums", tiny_folder)
    return tmp_path / "sums"


def _finish(run: Path, model: Path, *overrides: str) -> Policy:
    policy = trained(run, model, *overrides)
    (run / "environment.json").write_text(json.dumps({"torch": "2.0", "fingerprint": "x"}))
    return policy


def test_the_adapter_with_its_card(tiny_folder: Path, tmp_path: Path) -> None:
    policy = _finish(tmp_path / "sums", tiny_folder)
    accuracy = {"final": {"value": 0.5, "ci": [0.4, 0.6], "n": 90}}
    told = {"algorithm": "grpo", "task": "arithmetic", "steps": 2, "status": "finished", "gain": None}
    (tmp_path / "sums" / "summary.json").write_text(json.dumps({**told, "accuracy": accuracy}))
    out = tmp_path / "out"
    assert export(Wanted(str(tmp_path / "sums"), [], out)) is None
    with quiet():
        base = AutoModelForCausalLM.from_pretrained(tiny_folder)
    assert torch.equal(_logits(PeftModel.from_pretrained(base, out)), _logits(policy.model))
    assert AutoTokenizer.from_pretrained(out).chat_template == CHATML
    card = (out / "README.md").read_text()
    assert "# sums\n" in card and "| final | 50.0% | 40.0% to 60.0% | 90 |" in card and "torch 2.0" in card
    assert json.loads((out / "summary.json").read_text())["accuracy"] == accuracy
    assert json.loads((out / "adapter_config.json").read_text())["base_model_name_or_path"] == str(tiny_folder)


def test_the_weights_with_the_adapter_in_them(tiny_folder: Path, run: Path, tmp_path: Path) -> None:
    export(Wanted(str(run), [], tmp_path / "out", merged=True))
    back = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert (_logits(back) - _logits(_finish(run, tiny_folder).model)).abs().max() < 1e-4
    assert not (tmp_path / "out" / "adapter_config.json").exists()
    assert "library_name: transformers" in (tmp_path / "out" / "README.md").read_text()


def test_a_gguf_file_beside_the_adapter(tmp_path: Path) -> None:
    from policy.test_gguf_export import CONFIGS, byte_tokenizer

    with quiet():
        LlamaForCausalLM(CONFIGS["llama"]).save_pretrained(tmp_path / "base")
        byte_tokenizer().save_pretrained(tmp_path / "base")
    policy = _finish(tmp_path / "sums", tmp_path / "base")
    export(Wanted(str(tmp_path / "sums"), [], tmp_path / "out", gguf=True))
    with quiet():
        back, _ = load_gguf(tmp_path / "out" / "gguf" / "sums.gguf", torch.float32)
    assert (_logits(back) - _logits(policy.model)).abs().max() < 1e-4
    assert (tmp_path / "out" / "adapter_config.json").is_file()
    assert "Beside it: gguf/sums.gguf." in (tmp_path / "out" / "README.md").read_text()


def test_what_cannot_be_exported_leaves_nothing(tiny_folder: Path, run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(UserError, match="is no run: export takes the folder of a finished run"):
        export(Wanted(str(tiny_folder), [], out))
    with pytest.raises(UserError, match="byte-level BPE"):  # the tiny tokenizer is none
        export(Wanted(str(run), [], out, gguf=True))
    assert not out.exists() and not list(tmp_path.glob(".out*"))
    out.mkdir()
    with pytest.raises(UserError, match="is there already"):
        export(Wanted(str(run), [], out))


def test_few_bits_keep_the_adapter_beside_them(tiny_folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    _finish(tmp_path / "sums", tiny_folder, "model.quantize=8bit")
    for wish in ({"merged": True}, {"gguf": True}):
        with pytest.raises(UserError, match="quantised"):
            export(Wanted(str(tmp_path / "sums"), [], tmp_path / "out", **wish))
    export(Wanted(str(tmp_path / "sums"), [], tmp_path / "out"))
    assert (tmp_path / "out" / "adapter_model.safetensors").is_file()


def test_a_push_without_a_login_writes_nothing(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    with pytest.raises(UserError, match="--push needs a login"):
        export(Wanted(str(run), [], tmp_path / "out", push="owner/name"))
    assert not (tmp_path / "out").exists()


def test_a_push_is_of_the_written_folder(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[tuple[list[str], str, bool]] = []

    def push(folder: Path, repo: str, *, private: bool) -> str:
        sent.append((sorted(p.name for p in folder.iterdir()), repo, private))
        return "https://hub/owner/name"

    monkeypatch.setattr("tessera.hub.push", push)
    monkeypatch.setattr("tessera.hub.logged_in", lambda: "token")
    assert export(Wanted(str(run), [], tmp_path / "out", push="owner/name")) == "https://hub/owner/name"
    export(Wanted(str(run), [], tmp_path / "two", push="owner/name", public=True))
    assert [private for _, _, private in sent] == [True, False]
    assert {"README.md", "adapter_model.safetensors"} <= set(sent[0][0])
