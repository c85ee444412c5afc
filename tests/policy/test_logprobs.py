"""SCORE against its slow twin: every row alone, all positions, all of the vocabulary, one log_softmax."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    CohereConfig,
    Gemma2Config,
    GPT2Config,
    GraniteConfig,
    MistralConfig,
    PretrainedConfig,
    Qwen3Config,
)

from tessera.policy import logprobs
from tessera.policy.adapters import LoraSettings, adapter_matrices, decoder_layers, lowest_adapted_layer
from tessera.policy.load import Policy
from tessera.policy.logprobs import Row, score
from tiny import TINY_LORA, tiny_policy, tiny_tokenizer

SHORT, LONG, OTHER = (1, 30, 31), (1, 40, 41, 42, 43, 44, 45, 46), (1, 40, 41, 42, 50)
ROWS = [
    Row(LONG, (20, 21, 22, 23, 24, 25), (1, 2, 4)),
    Row(SHORT, (60, 61, 62, 2), (0, 1, 2, 3)),
    Row(OTHER, (7,), (0,)),  # the first token only: nothing but the prompt is fed
    Row(SHORT, (60, 61, 90, 91, 92, 93, 94, 95, 96), (8,)),
    Row(LONG, (20, 21, 80), (0, 2)),
    Row(SHORT, (60, 61, 62, 2), (1, 3)),  # the same completion again, other positions
]
FIRST_ONLY = [Row(LONG, (20, 21), (0,)), Row(SHORT, (60,), (0,)), Row(SHORT, (61, 62), (0,))]


def twin(model: Any, rows: list[Row], temperature: float) -> tuple[Tensor, Tensor, Tensor]:
    logp, entropy, likeliest = [], [], []
    for row in rows:
        logits_TV = model(torch.tensor([[*row.prompt_ids, *row.ids]])).logits[0]
        every_TV = torch.log_softmax(logits_TV / temperature, dim=-1)
        for t in row.positions:
            at_V = every_TV[len(row.prompt_ids) + t - 1]
            logp.append(at_V[row.ids[t]])
            entropy.append(-(at_V.exp() * at_V).sum())
            likeliest.append(at_V.argmax() == row.ids[t])
    return torch.stack(logp), torch.stack(entropy), torch.stack(likeliest)


def stirred(policy: Policy, seed: int = 1) -> Policy:
    """Give every adapter matrix a random value, so that both factors of each update carry gradient."""
    noise = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in adapter_matrices(policy.model):
            p.copy_(0.1 * torch.randn(p.shape, generator=noise, dtype=p.dtype))
    return policy


def gradients(model: Any, logp_N: Tensor) -> list[Tensor]:
    """Of a sum with a different factor for every token, so that no two could be exchanged unnoticed."""
    model.zero_grad()
    (logp_N * torch.linspace(0.5, 2.0, len(logp_N), dtype=logp_N.dtype)).sum().backward()
    return [p.grad.clone() for p in model.parameters() if p.requires_grad]


def assert_close(got: Tensor, expected: Tensor, relative: float) -> None:
    assert float((got - expected).detach().norm()) <= relative * float(expected.detach().norm())


@pytest.mark.parametrize("rows", [ROWS, FIRST_ONLY, ROWS[1:2]], ids=["mixed", "first tokens", "one row"])
@pytest.mark.parametrize("chunk", [3, 512], ids=["chunks of 3", "one chunk"])
@pytest.mark.parametrize(("dtype", "relative"), [(torch.float32, 1e-5), (torch.float64, 1e-9)])
def test_values_and_gradients_are_those_of_the_slow_twin(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, relative: float, chunk: int, rows: list[Row]
) -> None:
    monkeypatch.setattr(logprobs, "HEAD_CHUNK", chunk)
    policy = stirred(tiny_policy(dtype=dtype))
    assert {p.dtype for p in policy.trainable_parameters()} == {dtype}
    expected, entropy, likeliest = twin(policy.model, rows, 0.7)
    expected_gradients = gradients(policy.model, expected)
    scores = score(policy.model, rows, temperature=0.7)
    assert scores.logp_N.dtype == dtype
    assert_close(scores.logp_N, expected, relative)
    assert_close(scores.entropy_N, entropy.detach(), relative)
    assert scores.likeliest_N.tolist() == likeliest.tolist()
    assert not scores.entropy_N.requires_grad
    got = gradients(policy.model, scores.logp_N)
    assert len(got) == len(expected_gradients) == 8  # A and B of q and v in two layers
    for mine, theirs in zip(got, expected_gradients, strict=True):
        assert float(theirs.abs().max()) > 0.01  # or there would be nothing to compare
        assert_close(mine, theirs, relative)


def test_several_chunks_keep_no_logits_for_backward(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logprobs, "HEAD_CHUNK", 4)
    policy = tiny_policy()
    kept: list[tuple[int, ...]] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(tuple(x.shape)) or x, lambda x: x):
        scores = score(policy.model, ROWS)
    vocabulary = policy.model.config.vocab_size
    assert len(scores.logp_N) == 13
    assert [shape for shape in kept if vocabulary in shape and len(shape) == 2 and shape[0] <= 13] == []


def test_only_planned_positions_reach_the_vocabulary_head() -> None:
    policy = tiny_policy()
    seen: list[int] = []
    head = policy.model.get_output_embeddings()
    handle = head.register_forward_hook(lambda module, inputs, output: seen.append(output.numel() // output.shape[-1]))
    score(policy.model, ROWS)
    handle.remove()
    assert seen == [13]  # 3 + 4 + 1 + 1 + 2 + 2


def test_each_prompt_is_computed_once_and_rows_end_at_their_last_planned_token() -> None:
    policy = tiny_policy()
    fed: list[tuple[int, int]] = []
    layer = decoder_layers(policy.model)[1][0]
    handle = layer.register_forward_hook(lambda module, inputs, output: fed.append(tuple(inputs[0].shape[:2])))
    score(policy.model, [Row(SHORT, tuple(range(20, 60)), (0, 3)), Row(SHORT, tuple(range(30, 70)), (2, 5))])
    handle.remove()
    # One prompt of 3 tokens; then two rows up to position 5, whose own token is not fed.
    assert fed == [(1, 3), (2, 5)]


def test_no_gradient_reaches_the_layers_below_the_lowest_adapter() -> None:
    policy = tiny_policy(lora=TINY_LORA.model_copy(update={"last_fraction": "1/4"}))
    layers = decoder_layers(policy.model)[1]
    carries: list[bool] = []
    handles = [
        layer.register_forward_hook(
            lambda module, inputs, output: carries.append(
                (output[0] if isinstance(output, tuple) else output).requires_grad
            )
        )
        for layer in layers
    ]
    score(policy.model, ROWS)
    for handle in handles:
        handle.remove()
    assert lowest_adapted_layer(policy.model) == 3
    assert carries == [False, False, False, True] * 2  # the prompts, then the completions


def test_no_gradient_is_kept_where_the_caller_wants_none() -> None:
    policy = tiny_policy()
    with torch.no_grad():
        assert not score(policy.model, ROWS).logp_N.requires_grad


def test_temperature_divides_the_logits() -> None:
    """A hotter distribution is flatter: its entropy is larger, and the entropy at 1e4 is that of the uniform one."""
    policy = tiny_policy()
    with torch.no_grad():
        cold, plain, hot = (score(policy.model, ROWS, temperature=t) for t in (0.5, 1.0, 1e4))
    assert bool((cold.entropy_N < plain.entropy_N).all())
    uniform = torch.tensor(policy.model.config.vocab_size).float().log()
    torch.testing.assert_close(hot.entropy_N, uniform.expand(13), rtol=1e-5, atol=0)
    torch.testing.assert_close(hot.logp_N, -uniform.expand(13), rtol=1e-3, atol=0)


SIZES = {"vocab_size": 102, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
FAMILIES: list[PretrainedConfig] = [
    Qwen3Config(**SIZES, intermediate_size=64, num_key_value_heads=2, head_dim=8, tie_word_embeddings=True),
    GraniteConfig(**SIZES, intermediate_size=64, num_key_value_heads=2, logits_scaling=3.0, residual_multiplier=0.5),
    CohereConfig(**SIZES, intermediate_size=64, num_key_value_heads=2, logit_scale=0.25),
    Gemma2Config(
        **SIZES, intermediate_size=64, num_key_value_heads=2, head_dim=8, final_logit_softcapping=2.0, sliding_window=64
    ),
    GPT2Config(vocab_size=102, n_embd=32, n_layer=2, n_head=4),
]


def family(config: PretrainedConfig, attention: str | None = None) -> Policy:
    config.initializer_range = 0.4
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="fan_in_fan_out")
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, attn_implementation=attention)
        targets = ("c_attn",) if config.model_type == "gpt2" else ("q_proj", "v_proj")
        lora = LoraSettings(targets=targets, last_fraction=1, rank=4, alpha=8)
        return stirred(Policy.from_objects(model, tiny_tokenizer(), lora=lora))


@pytest.mark.parametrize("config", FAMILIES, ids=lambda config: config.model_type)
def test_other_families_scale_and_cap_their_logits(config: PretrainedConfig) -> None:
    policy = family(config)
    expected, _, _ = twin(policy.model, ROWS, 0.8)
    expected_gradients = gradients(policy.model, expected)
    scores = score(policy.model, ROWS, temperature=0.8)
    assert_close(scores.logp_N, expected, 1e-5)
    for mine, theirs in zip(gradients(policy.model, scores.logp_N), expected_gradients, strict=True):
        assert_close(mine, theirs, 1e-4)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("window", [4, 8])
def test_a_sliding_window_counts_tokens_and_not_padding(window: int, attention: str) -> None:
    """The rows have between 4 and 12 tokens, so the window slides in some of them, from different points on."""
    policy = family(
        MistralConfig(**SIZES, intermediate_size=64, num_key_value_heads=2, sliding_window=window), attention
    )
    expected, _, _ = twin(policy.model, ROWS, 1.0)
    expected_gradients = gradients(policy.model, expected)
    scores = score(policy.model, ROWS)
    assert_close(scores.logp_N, expected, 1e-5)
    for mine, theirs in zip(gradients(policy.model, scores.logp_N), expected_gradients, strict=True):
        assert_close(mine, theirs, 1e-4)
