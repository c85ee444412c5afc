"""LoRA adapters: which layers and maps, how they start, and that their state survives every trip."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig, PeftModel, PrefixTuningConfig, get_peft_model
from pydantic import ValidationError
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

from tessera.core.errors import UserError
from tessera.policy.adapters import (
    LoraSettings,
    adapter_matrices,
    adapter_state,
    attach_lora,
    attach_saved,
    decoder_layers,
    frozen_layers,
    load_adapter_state,
    save_adapter,
    set_adapter_state,
    unchanging,
)
from tiny import tiny_model

TOKENS = torch.tensor([[1, 20, 30, 40, 50, 60]])


def _adapted(seed: int = 0, **settings: object) -> PeftModel:
    return attach_lora(tiny_model(), LoraSettings(rank=4, alpha=8, **settings), seed)


def _stir(model: nn.Module, seed: int = 1) -> None:
    """Give every adapter matrix (B starts at zero) a random value."""
    noise = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for matrix in adapter_matrices(model):
            matrix.copy_(torch.randn(matrix.shape, generator=noise))


def _logits(model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(TOKENS).logits


@pytest.mark.parametrize(
    ("fraction", "depth", "expected"),
    [
        ("1/3", 30, range(20, 30)),
        ("1/3", 28, range(19, 28)),  # 9.33 -> 9
        ("1/2", 5, range(2, 5)),  # 2.5 -> 3
        ("2/3", 4, range(1, 4)),  # 2.67 -> 3
        (0.25, 24, range(18, 24)),
        (1, 4, range(4)),
        ("1/100", 4, range(3, 4)),  # 0.04 -> 0, but never none
    ],
)
def test_the_share_is_counted_from_the_top_and_rounded(fraction: float | str, depth: int, expected: range) -> None:
    assert LoraSettings(last_fraction=fraction).adapted_layers(depth) == expected


@given(st.integers(1, 100), st.integers(1, 100), st.integers(1, 200))
def test_the_adapted_layers_are_the_last_ones(a: int, b: int, depth: int) -> None:
    low, high = sorted((a, b))
    layers = LoraSettings(last_fraction=f"{low}/{high}").adapted_layers(depth)
    assert layers.stop == depth
    assert 1 <= len(layers) <= depth
    assert abs(len(layers) - depth * low / high) <= 0.5 or len(layers) == 1


@pytest.mark.parametrize("fraction", ["0", "4/3", "1/0", "third", -0.5, float("nan")])
def test_a_share_that_is_none_is_refused(fraction: float | str) -> None:
    with pytest.raises(ValidationError, match="last_fraction"):
        LoraSettings(last_fraction=fraction)


def test_settings_that_mean_nothing_are_refused() -> None:
    for wrong in ({"rank": 0}, {"dropout": 1.0}, {"targets": ()}, {"layers": 3}):
        with pytest.raises(ValidationError):
            LoraSettings(**wrong)


def test_only_the_chosen_maps_of_the_last_layers_learn() -> None:
    model = _adapted(last_fraction="1/2")
    found = {name.split("model.layers.")[1] for name, p in model.named_parameters() if p.requires_grad}
    assert found == {
        f"{layer}.self_attn.{target}.lora_{ab}.default.weight"
        for layer in (2, 3)
        for target in ("q_proj", "v_proj")
        for ab in "AB"
    }
    assert frozen_layers(model) == 2
    # hidden 32, 2 key-value heads of size 8, rank 4: q is 32 -> 32, v is 32 -> 16
    assert [tuple(m.shape) for m in adapter_matrices(model)] == 2 * [(4, 32), (32, 4), (4, 32), (16, 4)]


def test_all_linear_takes_every_map_of_the_layers_and_not_the_head() -> None:
    model = _adapted(targets="all-linear", last_fraction="1/4")
    adapted = {name.split(".lora_A")[0].split("layers.")[1] for name in adapter_state(model) if "lora_A" in name}
    attention = {f"3.self_attn.{x}_proj" for x in "qkvo"}
    assert adapted == attention | {f"3.mlp.{x}_proj" for x in ("gate", "up", "down")}


def test_a_model_with_other_names_gets_its_adapters_too() -> None:
    gpt = GPT2LMHeadModel(GPT2Config(n_layer=3, n_embd=16, n_head=2, vocab_size=40, n_positions=32))
    assert decoder_layers(gpt)[0] == "transformer.h"
    model = attach_lora(gpt, LoraSettings(targets=("c_attn",), last_fraction="2/3"), seed=0)
    assert frozen_layers(model) == 1
    assert {name.split("h.")[1][0] for name in adapter_state(model)} == {"1", "2"}


def test_targets_that_are_not_there_are_named_with_those_that_are() -> None:
    with pytest.raises(UserError, match=r"\['q_prj'\].*self_attn\.q_proj") as caught:
        _adapted(targets=("v_proj", "q_prj"))
    assert "\n" not in str(caught.value)


def test_a_model_without_stacked_layers_is_refused() -> None:
    model = tiny_model()
    model.config.num_hidden_layers = 7
    with pytest.raises(UserError, match="no list of 7 layers"):
        attach_lora(model, LoraSettings(), seed=0)


def test_the_policy_starts_as_its_base() -> None:
    assert torch.equal(_logits(_adapted()), _logits(tiny_model()))


def test_the_seed_alone_decides_the_start() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first = adapter_state(_adapted(seed=7))
    assert torch.equal(torch.rand(3), expected)  # the global generator was left as it was
    second, other = adapter_state(_adapted(seed=7)), adapter_state(_adapted(seed=8))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in first if "lora_A" in name)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_adapters_are_float32_over_a_half_precision_base(dtype: torch.dtype) -> None:
    model = attach_lora(tiny_model(dtype=dtype), LoraSettings(rank=2), seed=0)
    assert {p.dtype for p in adapter_matrices(model)} == {torch.float32}
    assert {p.dtype for p in model.parameters() if not p.requires_grad} == {dtype}


def test_no_gradient_flows_below_the_lowest_adapter() -> None:
    model = _adapted(last_fraction="1/2")  # layers 2 and 3 of 0..3
    entering = {}
    for index, layer in enumerate(decoder_layers(model)[1]):
        layer.register_forward_pre_hook(lambda _, args, i=index: entering.__setitem__(i, args[0].requires_grad))
    out = model(TOKENS).logits
    assert entering == {0: False, 1: False, 2: False, 3: True}
    out.sum().backward()
    assert {name for name, p in model.named_parameters() if p.grad is not None} == {
        name for name, _ in model.named_parameters() if "lora_" in name
    }


def _dora_twin(model: PeftModel, name: str) -> torch.Tensor:
    """m (W + s B A) / |W + s B A|, row by row (arXiv:2402.09353, Eq. 5): the weight that DoRA stands for."""
    layer = model.get_submodule(name)
    moved = layer.base_layer.weight + 2.0 * layer.lora_B.default.weight @ layer.lora_A.default.weight  # 8 / 4
    return layer.lora_magnitude_vector.default.weight[:, None] * moved / moved.norm(dim=1, keepdim=True)


def test_dora_learns_lengths_apart_from_directions() -> None:
    model = _adapted(last_fraction="1/2", dora=True)
    assert (_logits(model) - _logits(tiny_model())).abs().max() < 1e-5  # it starts as its base
    noise = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p.add_(0.2 * torch.randn(p.shape, generator=noise))
    plain, learning = tiny_model(), [name for name, p in model.named_parameters() if p.requires_grad]
    assert len(learning) == 4 * 3  # A, B and the lengths of two maps in two layers
    assert frozen_layers(model) == 2
    with torch.no_grad():
        for layer in (2, 3):
            for map_ in ("q_proj", "v_proj"):
                name = f"model.layers.{layer}.self_attn.{map_}"
                plain.get_submodule(name).weight.copy_(_dora_twin(model, f"base_model.model.{name}"))
    assert torch.allclose(_logits(model), _logits(plain), atol=1e-4)
    assert not torch.allclose(_logits(model), _logits(tiny_model()), atol=1e-1)


def test_rslora_scales_by_the_root_of_the_rank() -> None:
    plain, root = _adapted(), _adapted(rslora=True)
    name = "base_model.model.model.layers.3.self_attn.q_proj"
    assert plain.get_submodule(name).scaling == {"default": 2.0}  # 8 / 4
    assert root.get_submodule(name).scaling == {"default": 4.0}  # 8 / 2


@pytest.mark.parametrize("settings", [{"dora": True}, {"rslora": True}])
def test_dora_and_rslora_come_back_from_a_folder(tmp_path: Path, settings: dict[str, bool]) -> None:
    model = _adapted(last_fraction="1/2", **settings)
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p.add_(0.1)
    save_adapter(model, tmp_path)
    assert torch.equal(_logits(attach_saved(tiny_model(), tmp_path)), _logits(model))
    assert torch.equal(_logits(PeftModel.from_pretrained(tiny_model(), tmp_path)), _logits(model))


def test_what_dora_keeps_while_nothing_changes_is_gone_afterwards() -> None:
    model = _adapted(last_fraction="1/2", dora=True)
    _stir(model, 1)
    before = _logits(model)
    with unchanging(model), torch.inference_mode():
        for _ in range(2):
            assert torch.equal(_logits(model), before)
    _stir(model, 2)
    after = _logits(model)
    assert not torch.equal(after, before)
    with unchanging(model), torch.inference_mode():
        assert torch.equal(_logits(model), after)  # not of the norms that were kept the last time
    model(TOKENS).logits.sum().backward()  # nothing that inference mode made is in the way
    with unchanging(tiny_model()):
        pass


class Router(nn.Linear):
    """As the routers of some families: it returns more than a product."""


Router.__module__ = "transformers.models.some.modeling_some"


def test_a_router_is_no_linear_map() -> None:
    model = tiny_model()
    model.model.layers[3].mlp.router = Router(32, 2)
    model = attach_lora(model, LoraSettings(targets="all-linear", last_fraction="1/4"), seed=0)
    assert not any("router" in name for name in adapter_state(model))
    assert len(adapter_state(model)) == 2 * 7


def test_dropout_is_allowed_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="tessera"):
        _adapted(dropout=0.1)
    assert "dropout 0.1" in caplog.text


def test_state_goes_round_bit_for_bit() -> None:
    model, other = _adapted(seed=0), _adapted(seed=1)
    _stir(model)
    state = adapter_state(model)
    set_adapter_state(other, state)
    assert torch.equal(_logits(model), _logits(other))
    with torch.no_grad():
        adapter_matrices(model)[0].add_(1.0)
    key = next(iter(state))
    assert torch.equal(state[key], adapter_state(other)[key])  # copies: the source may move on


def test_a_saved_adapter_loads_in_plain_peft(tmp_path: Path) -> None:
    model = _adapted(last_fraction="1/2")
    _stir(model)
    save_adapter(model, tmp_path / "adapter")
    plain = PeftModel.from_pretrained(tiny_model(), tmp_path / "adapter")
    assert torch.equal(_logits(plain), _logits(model))
    assert not torch.equal(_logits(model), _logits(tiny_model()))
    saved = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert (saved["r"], saved["lora_alpha"], saved["layers_to_transform"]) == (4, 8, [2, 3])
    assert model.active_peft_config.inference_mode is False  # saving leaves the policy trainable


def test_a_saved_adapter_comes_back_trainable(tmp_path: Path) -> None:
    model = _adapted(last_fraction="1/2")
    _stir(model)
    save_adapter(model, tmp_path)
    back = attach_saved(tiny_model(), tmp_path)
    assert torch.equal(_logits(back), _logits(model))
    assert all(p.requires_grad for p in adapter_matrices(back))
    fresh = _adapted(seed=9, last_fraction="1/2")
    load_adapter_state(fresh, tmp_path)
    assert torch.equal(_logits(fresh), _logits(model))


def test_an_adapter_of_peft_itself_is_accepted(tmp_path: Path) -> None:
    model = get_peft_model(tiny_model(), LoraConfig(r=2, target_modules=["k_proj", "down_proj"]))
    _stir(model)
    model.save_pretrained(tmp_path)
    assert torch.equal(_logits(attach_saved(tiny_model(), tmp_path)), _logits(model))


def test_adapters_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    save_adapter(_adapted(last_fraction="1/2"), tmp_path)
    with pytest.raises(UserError, match="4 differ"):  # layer 1 has q and v, A and B, that the file has not
        load_adapter_state(_adapted(last_fraction="3/4"), tmp_path)
    narrow = attach_lora(tiny_model(), LoraSettings(rank=2, last_fraction="1/2"), seed=0)
    with pytest.raises(UserError, match=r"shape \(4, 32\), the model's has \(2, 32\)"):
        load_adapter_state(narrow, tmp_path)
    with pytest.raises(UserError, match="does not fit LlamaForCausalLM"):
        attach_saved(tiny_model(layers=2), tmp_path)


def test_a_state_that_does_not_fit_changes_nothing() -> None:
    model = _adapted()
    before = adapter_state(model)
    wrong = dict(before)
    last = list(wrong)[-1]
    wrong = {name: torch.ones_like(tensor) for name, tensor in wrong.items()} | {last: torch.ones(1)}
    with pytest.raises(UserError, match="shape"):
        set_adapter_state(model, wrong)
    assert all(torch.equal(before[name], tensor) for name, tensor in adapter_state(model).items())


def test_folders_that_hold_no_lora_adapter_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="it has no adapter_config"):
        attach_saved(tiny_model(), tmp_path)
    PrefixTuningConfig(num_virtual_tokens=2, task_type="CAUSAL_LM").save_pretrained(str(tmp_path))
    with pytest.raises(UserError, match="PREFIX_TUNING"):
        attach_saved(tiny_model(), tmp_path)
    with pytest.raises(UserError, match="carries no adapter"):
        adapter_state(tiny_model().requires_grad_(False))
    assert frozen_layers(tiny_model()) == 0  # everything learns
    assert frozen_layers(tiny_model().requires_grad_(False)) == 4
