"""The shared-prefix forward against plain forwards of whole sequences."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, MistralConfig

from tessera.core.errors import TesseraError
from tessera.policy.prefix import backbone, causal_lm, extend, prefill
from tiny import tiny_model, tiny_policy

PROMPTS = [(1, 40, 41, 42, 43, 44, 45), (1, 30), (1, 50, 51, 52)]


def final_hidden(causal: Any, ids: tuple[int, ...]) -> Tensor:
    """[T,H] of one sequence, computed alone and without a cache."""
    return backbone(causal)(input_ids=torch.tensor([ids]), use_cache=False).last_hidden_state[0]


def assert_close(got: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


def test_the_model_inside_an_adapter_is_found() -> None:
    policy = tiny_policy()
    assert causal_lm(policy.model) is policy.model.get_base_model()
    plain = tiny_model()
    assert causal_lm(plain) is plain
    assert backbone(plain) is plain.model


@torch.no_grad()
def test_the_newest_hidden_state_of_each_prompt_is_its_own() -> None:
    causal = tiny_model()
    prefix = prefill(causal, PROMPTS)
    assert (prefix.width, prefix.lengths_B.tolist(), prefix.ragged) == (7, [7, 2, 4], True)
    for hidden_H, prompt in zip(prefix.hidden_BH, PROMPTS, strict=True):
        assert_close(hidden_H, final_hidden(causal, prompt)[-1])


@torch.no_grad()
def test_prompts_of_one_length_need_no_mask() -> None:
    assert not prefill(tiny_model(), [(1, 30, 31), (1, 40, 41)]).ragged


@torch.no_grad()
def test_rows_are_repeated_dropped_and_continued_in_pieces() -> None:
    causal = tiny_model()
    prefix = prefill(causal, PROMPTS)
    prefix.select(torch.tensor([1, 0, 1, 2]))
    assert prefix.lengths_B.tolist() == [2, 7, 2, 4]
    first_BTH = extend(causal, prefix, torch.tensor([[60, 61], [62, 63], [64, 65], [66, 67]]))
    prefix.select(torch.tensor([3, 0]))
    second_BTH = extend(causal, prefix, torch.tensor([[70], [71]]))
    assert prefix.seen == 3
    assert_close(first_BTH[1], final_hidden(causal, (*PROMPTS[0], 62, 63))[-2:])
    assert_close(first_BTH[2], final_hidden(causal, (*PROMPTS[1], 64, 65))[-2:])
    assert_close(second_BTH[0, 0], final_hidden(causal, (*PROMPTS[2], 66, 67, 70))[-1])
    assert_close(second_BTH[1, 0], final_hidden(causal, (*PROMPTS[1], 60, 61, 71))[-1])
    assert_close(prefix.hidden_BH, second_BTH[:, -1])


@torch.no_grad()
def test_what_pads_a_row_on_the_right_changes_nothing_before_it() -> None:
    causal = tiny_model()
    hidden = []
    for padding in (0, 99):
        prefix = prefill(causal, PROMPTS[:2])
        hidden.append(extend(causal, prefix, torch.tensor([[60, 61, 62], [70, padding, padding]]))[1, 0])
    assert torch.equal(*hidden)


@torch.no_grad()
def test_a_sliding_window_is_kept_token_by_token() -> None:
    """Windows of 3: the short prompt fits into one, the long one has left it before its last token."""
    config = MistralConfig(
        vocab_size=102,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        sliding_window=3,
        initializer_range=0.4,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        causal = AutoModelForCausalLM.from_config(config).eval()
    prefix = prefill(causal, PROMPTS)
    rows = [list(prompt) for prompt in PROMPTS]
    for t in range(5):
        token_B = torch.tensor([60 + t, 70 + t, 80 + t])
        hidden_BTH = extend(causal, prefix, token_B[:, None])
        for row, token, hidden_TH in zip(rows, token_B.tolist(), hidden_BTH, strict=True):
            row.append(token)
            assert_close(hidden_TH[0], final_hidden(causal, tuple(row))[-1])


def test_keys_and_values_stay_in_the_graph() -> None:
    """A later token's state depends on the adapter through the prompt's keys and values too."""
    causal = causal_lm(tiny_policy().model)
    (b,) = [p for name, p in causal.named_parameters() if "layers.3" in name and "v_proj.lora_B" in name]

    def gradient(hidden: Tensor) -> Tensor:
        return torch.autograd.grad(hidden.sum(), b)[0]

    prefix = prefill(causal, PROMPTS)
    shared = gradient(extend(causal, prefix, torch.tensor([[60], [61], [62]]))[0, 0])
    assert_close(shared, gradient(final_hidden(causal, (*PROMPTS[0], 60))[-1]))
    assert float(shared.abs().max()) > 0.1


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing_enable:FutureWarning")
def test_a_dead_cache_is_refused() -> None:
    """Gradient checkpointing in training mode makes transformers drop the cache and warn at most."""
    causal = tiny_model()
    causal.gradient_checkpointing_enable()
    causal.train()
    with pytest.raises(TesseraError, match="key-value cache is not live: switch gradient checkpointing off"):
        prefill(causal, PROMPTS)
