"""SCORE against its slow twin: every row alone, all positions, all of the vocabulary, one log_softmax."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd.graph import save_on_cpu

from tessera.core.errors import UserError
from tessera.policy import head, logprobs
from tessera.policy.adapters import LoraSettings, adapter_matrices, decoder_layers, frozen_layers
from tessera.policy.forest import Row
from tessera.policy.load import Policy
from tessera.policy.logprobs import check_saving, score
from tiny import TINY_FAMILIES, TINY_LORA, tiny_family, tiny_policy

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
@pytest.mark.parametrize("learns", [False, True], ids=["frozen head", "head that learns"])
@pytest.mark.parametrize("nodes", [3, 512], ids=["chunks of 3", "one chunk"])
@pytest.mark.parametrize(("dtype", "relative"), [(torch.float32, 1e-5), (torch.float64, 1e-9)])
def test_values_and_gradients_are_those_of_the_slow_twin(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, relative: float, nodes: int, learns: bool, rows: list[Row]
) -> None:
    monkeypatch.setattr(head, "CHUNK_BYTES", 4 * 102 * nodes)
    policy = stirred(tiny_policy(dtype=dtype))
    assert head.chunk(policy.model.get_base_model()) == nodes
    policy.model.get_output_embeddings().requires_grad_(learns)
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
    assert len(got) == len(expected_gradients) == 8 + learns  # A and B of q and v in two layers
    for mine, theirs in zip(got, expected_gradients, strict=True):
        assert float(theirs.abs().max()) > 0.01  # or there would be nothing to compare
        assert_close(mine, theirs, relative)


@pytest.mark.parametrize("extra", [{"dora": True}, {"rslora": True}], ids=["dora", "rslora"])
@pytest.mark.parametrize(("dtype", "relative"), [(torch.float32, 2e-5), (torch.float64, 1e-9)])
def test_other_kinds_of_adapter_are_scored_exactly(dtype: torch.dtype, relative: float, extra: dict[str, bool]) -> None:
    lora = LoraSettings(**{**TINY_LORA.model_dump(), **extra})
    policy = stirred(tiny_policy(dtype=dtype, lora=lora))
    model, found = policy.model, score(policy.model, ROWS, temperature=0.8).logp_N
    own = gradients(model, found)
    expected = twin(model, ROWS, 0.8)[0]
    assert_close(found, expected.to(found.dtype), relative)
    for got, wanted in zip(own, gradients(model, expected), strict=True):
        assert_close(got, wanted, 10 * relative)


@pytest.mark.parametrize("learns", [False, True])
def test_nothing_as_wide_as_the_vocabulary_is_kept_for_backward(learns: bool) -> None:
    policy = tiny_policy()
    policy.model.get_output_embeddings().requires_grad_(learns)
    kept: list[tuple[int, ...]] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(tuple(x.shape)) or x, lambda x: x):
        scores = score(policy.model, ROWS)
    vocabulary = policy.model.config.vocab_size
    assert len(scores.logp_N) == 13
    assert kept
    assert [shape for shape in kept if vocabulary in shape and shape[0] <= 13] == []


def test_only_planned_positions_reach_the_vocabulary_head() -> None:
    policy = tiny_policy()
    seen: list[int] = []
    handle = policy.model.get_output_embeddings().register_forward_hook(
        lambda module, inputs, output: seen.append(output.numel() // output.shape[-1])
    )
    score(policy.model, ROWS)
    handle.remove()
    assert seen == [10]  # 3 + 4 + 1 + 1 + 1 + 0: rows that share a prefix share its distribution


def test_each_prefix_is_computed_once_and_rows_end_at_their_last_planned_token() -> None:
    policy = tiny_policy()
    fed: list[tuple[int, int]] = []
    layer = decoder_layers(policy.model)[1][0]
    handle = layer.register_forward_hook(lambda module, inputs, output: fed.append(tuple(inputs[0].shape[:2])))
    score(policy.model, [Row(SHORT, tuple(range(20, 60)), (0, 3)), Row(SHORT, tuple(range(30, 70)), (2, 5))])
    handle.remove()
    # One prompt of 3 tokens; then the rows up to positions 3 and 5, whose own tokens are not fed.
    assert fed == [(1, 3 + 3 + 5)]


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
    assert frozen_layers(policy.model) == 3
    assert carries == [False, False, False, True]


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


@pytest.mark.parametrize("name", sorted(TINY_FAMILIES))
def test_families_scale_cap_and_window_as_their_own_forward_does(name: str) -> None:
    """The rows have between 4 and 12 tokens, so windows of 5 slide in some of them, from different points on."""
    policy = stirred(tiny_family(name))
    expected, entropy, _ = twin(policy.model, ROWS, 0.8)
    expected_gradients = gradients(policy.model, expected)
    scores = score(policy.model, ROWS, temperature=0.8)
    assert_close(scores.logp_N, expected, 1e-5)
    assert_close(scores.entropy_N, entropy.detach(), 1e-5)
    for mine, theirs in zip(gradients(policy.model, scores.logp_N), expected_gradients, strict=True):
        assert_close(mine, theirs, 2e-5)  # float32 through weights this large


@pytest.mark.parametrize("name", ["llama", "gemma3_text"])
def test_recomputed_layers_keep_less_and_give_the_same_gradient(name: str) -> None:
    policy, kept = stirred(tiny_family(name)), {}
    found = {}
    for recompute in (False, True):
        sizes: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x, sizes=sizes: sizes.append(x.numel()) or x, lambda x: x):
            scores = score(policy.model, ROWS, recompute=recompute)
        kept[recompute] = sum(sizes)
        found[recompute] = gradients(policy.model, scores.logp_N)
    assert kept[True] < kept[False] / 3
    for mine, theirs in zip(found[True], found[False], strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_what_is_offloaded_are_no_weights_and_changes_no_gradient(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A product keeps its weight for backward too; to send it away and back in each micro-batch would serve nothing."""
    policy, away = stirred(tiny_family(name)), []

    class Watched(save_on_cpu):
        def __init__(self, **given: Any) -> None:
            super().__init__(**given)
            pack = self.pack_hook
            self.pack_hook = lambda tensor: away.append(tensor.untyped_storage().data_ptr()) or pack(tensor)

    here = gradients(policy.model, score(policy.model, ROWS).logp_N)
    monkeypatch.setattr(logprobs, "save_on_cpu", Watched)
    there = gradients(policy.model, score(policy.model, ROWS, offload=True).logp_N)
    assert all(map(torch.equal, here, there))
    assert away and {p.untyped_storage().data_ptr() for p in policy.model.parameters()}.isdisjoint(away)


def test_what_cannot_be_saved_is_refused() -> None:
    with pytest.raises(UserError, match="gradient_checkpointing does not work for models of type gpt2 yet"):
        check_saving(tiny_family("gpt2").model, recompute=True, offload=False)
    with pytest.raises(UserError, match="offload_activations needs a CUDA device, and the policy is on cpu"):
        check_saving(tiny_family("llama").model, recompute=False, offload=True)
