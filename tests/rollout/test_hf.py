"""The in-process engine: the same tokens as transformers' own generation, whatever else is in the batch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch

from tessera.core.errors import RunStopped
from tessera.core.types import Completion
from tessera.policy.adapters import LoraSettings, adapter_matrices, decoder_layers
from tessera.policy.forest import Row
from tessera.policy.load import Policy
from tessera.policy.logprobs import score
from tessera.rollout.engine import Request, Sampling
from tessera.rollout.hf import HFEngine
from tiny import TINY_LORA, tiny_policy

PROMPTS = [(1, 40, 41, 42, 43, 44, 45), (1, 30), (1, 50, 51, 52), (1, 30, 31)]
ENDS = frozenset(range(6, 17))  # a tenth of the vocabulary ends a completion: lengths differ much


def stirred(dtype: torch.dtype) -> Policy:
    policy = tiny_policy(dtype=dtype)
    noise = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in adapter_matrices(policy.model):
            p.copy_(0.3 * torch.randn(p.shape, generator=noise))
    return policy


@pytest.fixture(scope="module")
def policy() -> Policy:
    """In float64, so that no draw depends on how a batch of another shape rounds."""
    return stirred(torch.float64)


@pytest.fixture(scope="module")
def stopping(policy: Policy) -> Policy:
    return replace(policy, eos_ids=ENDS)


def sample(
    policy: Policy, requests: Sequence[Request], length: int = 24, temperature: float = 1.0, max_rows: int = 128
) -> list[Completion]:
    return HFEngine(policy, max_rows).generate(requests, Sampling(max_new_tokens=length, temperature=temperature))


def requests(n: int, seed: int = 0) -> list[Request]:
    return [Request(PROMPTS[i % len(PROMPTS)], seed + i) for i in range(n)]


def generate(policy: Policy, prompts: Sequence[tuple[int, ...]], ends: list[int], length: int) -> list[list[int]]:
    """transformers' own greedy completions, up to and with the end token."""
    width = max(map(len, prompts))
    padded = torch.tensor([[0] * (width - len(p)) + list(p) for p in prompts])
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
    out = policy.model.generate(
        input_ids=padded, attention_mask=mask, do_sample=False, max_new_tokens=length, eos_token_id=ends, pad_token_id=0
    )
    found = []
    for row in out[:, width:].tolist():
        end = next((t + 1 for t, token in enumerate(row) if token in ends), length)
        found.append(row[:end])
    return found


@pytest.mark.parametrize("max_rows", [128, 2])
def test_greedy_is_transformers_own(policy: Policy, max_rows: int) -> None:
    plain = generate(policy, PROMPTS, [2, 4], 16)
    # End tokens that two of the rows reach at different times, and the others never.
    ends = sorted({plain[0][3], plain[1][7]})
    expected = generate(policy, PROMPTS, ends, 16)
    assert len({len(row) for row in expected}) > 1
    found = sample(
        replace(policy, eos_ids=frozenset(ends)), [Request(p, 0) for p in PROMPTS], 16, temperature=0, max_rows=max_rows
    )
    assert [list(c.ids) for c in found] == expected
    assert [c.finish_reason for c in found] == ["stop" if row[-1] in ends else "length" for row in expected]


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.0])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 3e-4)])
def test_logprobs_are_those_of_the_distribution_sampled_from(
    dtype: torch.dtype, tolerance: float, temperature: float
) -> None:
    policy = replace(stirred(dtype), eos_ids=ENDS)
    found = sample(policy, requests(12), temperature=temperature)
    rows = [Row(r.prompt_ids, c.ids, tuple(range(len(c.ids)))) for r, c in zip(requests(12), found, strict=True)]
    with torch.no_grad():
        scored = score(policy.model, rows, temperature=temperature).logp_N
    sampled = torch.tensor([logp for c in found for logp in c.logprobs], dtype=dtype)
    torch.testing.assert_close(sampled, scored, rtol=0, atol=tolerance)


def test_greedy_logprobs_are_those_of_the_plain_distribution(policy: Policy) -> None:
    (found,) = sample(policy, [Request(PROMPTS[0], 0)], 6, temperature=0)
    with torch.no_grad():
        scores = score(policy.model, [Row(PROMPTS[0], found.ids, tuple(range(6)))])
    assert bool(scores.likeliest_N.all())
    sampled = torch.tensor(found.logprobs, dtype=torch.float64)
    torch.testing.assert_close(sampled, scores.logp_N, rtol=0, atol=1e-9)


def test_a_row_does_not_depend_on_the_batch(stopping: Policy) -> None:
    """Alone, among others, in any order, cut into other batches, and past rows that left the batch before it."""
    wanted = requests(16)
    together = sample(stopping, wanted)
    lengths = [len(c.ids) for c in together]
    assert min(lengths) < 3
    assert max(lengths) == 24  # so the batch has been compacted
    alone = [sample(stopping, [r])[0] for r in wanted]
    assert [c.ids for c in together] == [c.ids for c in alone]
    assert [c.ids for c in sample(stopping, wanted, max_rows=3)] == [c.ids for c in alone]
    assert [c.ids for c in sample(stopping, wanted[::-1])[::-1]] == [c.ids for c in alone]
    for one, other in zip(together, alone, strict=True):
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-9)
        assert one.finish_reason == other.finish_reason


def test_the_seed_of_a_row_decides_it(policy: Policy) -> None:
    same, again, other = (sample(policy, [Request(PROMPTS[0], seed)])[0] for seed in (5, 5, 6))
    assert same == again
    assert same.ids != other.ids
    # A longer limit draws the same tokens and goes on.
    assert sample(policy, [Request(PROMPTS[0], 5)], 30)[0].ids[:24] == same.ids


def test_a_low_temperature_is_greedy_in_the_limit(policy: Policy) -> None:
    wanted = [Request(p, 0) for p in PROMPTS]
    assert [c.ids for c in sample(policy, wanted, 8, temperature=1e-3)] == [
        c.ids for c in sample(policy, wanted, 8, temperature=0)
    ]


@pytest.mark.parametrize("temperature", [0.7, 1.5])
def test_first_tokens_have_the_frequencies_of_the_softmax(policy: Policy, temperature: float) -> None:
    n = 3000
    found = sample(policy, [Request(PROMPTS[2], seed) for seed in range(n)], 1, temperature, max_rows=n)
    with torch.no_grad():
        logits_V = policy.model(torch.tensor([PROMPTS[2]])).logits[0, -1]
    expected = (torch.softmax(logits_V / temperature, -1) * n).double()
    seen = torch.bincount(torch.tensor([c.ids[0] for c in found]), minlength=102).double()
    statistic, degrees = chi_square(seen, expected)
    assert degrees > 10
    # A chi-square variable has mean k and variance 2k: five deviations above would be no accident.
    assert statistic < degrees + 5 * math.sqrt(2 * degrees)
    # The test can tell: the frequencies of another temperature do not fit.
    statistic, degrees = chi_square(seen, (torch.softmax(logits_V / (1.3 * temperature), -1) * n).double())
    assert statistic > degrees + 5 * math.sqrt(2 * degrees)


def chi_square(seen: torch.Tensor, expected: torch.Tensor) -> tuple[float, int]:
    """The statistic over the cells with at least 5 expected, the rest as one cell; and its degrees of freedom."""
    usual = expected >= 5
    seen = torch.cat([seen[usual], seen[~usual].sum()[None]])
    expected = torch.cat([expected[usual], expected[~usual].sum()[None]])
    return float(((seen - expected) ** 2 / expected).sum()), len(expected) - 1


def test_the_end_token_is_part_of_the_completion(stopping: Policy) -> None:
    found = sample(stopping, requests(16))
    assert {c.finish_reason for c in found} == {"stop", "length"}
    for c in found:
        assert len(c.ids) == len(c.logprobs)
        assert (c.ids[-1] in ENDS) == (c.finish_reason == "stop")
        assert not set(c.ids[:-1]) & ENDS
        assert c.finish_reason == "stop" or len(c.ids) == 24


def test_an_end_at_the_very_limit_is_a_stop(policy: Policy) -> None:
    (free,) = sample(policy, [Request(PROMPTS[0], 3)], 5)
    assert free.finish_reason == "length"
    assert free.ids[4] not in free.ids[:4]
    (ended,) = sample(replace(policy, eos_ids=frozenset({free.ids[4]})), [Request(PROMPTS[0], 3)], 5)
    assert ended.ids == free.ids
    assert ended.finish_reason == "stop"


def test_nothing_asked_is_nothing_sampled(policy: Policy) -> None:
    assert sample(policy, []) == []


def test_equal_prompts_are_computed_once_and_finished_rows_leave(stopping: Policy) -> None:
    fed: list[tuple[int, int]] = []
    layer = decoder_layers(stopping.model)[1][0]
    handle = layer.register_forward_hook(lambda module, inputs, output: fed.append(tuple(inputs[0].shape[:2])))
    found = sample(stopping, [Request(PROMPTS[1], seed) for seed in range(20)])
    handle.remove()
    assert fed[0] == (1, 2)  # one prompt of two tokens for twenty rows
    lengths = [len(c.ids) for c in found]
    for t, (rows, tokens) in enumerate(fed[1:], start=1):
        alive = sum(length > t for length in lengths)
        assert tokens == 1
        assert alive <= rows <= alive / 0.75  # more than a quarter of the batch is never finished
    assert len(fed) == max(lengths)  # the last token of the longest is drawn and not fed


def test_sampling_is_in_eval_mode_and_the_mode_returns() -> None:
    policy = tiny_policy(lora=LoraSettings(**{**TINY_LORA.model_dump(), "dropout": 0.9}))
    with torch.no_grad():
        for p in adapter_matrices(policy.model):
            p.fill_(0.1)
    quiet = sample(policy, requests(4))
    policy.model.train()
    assert sample(policy, requests(4)) == quiet
    assert policy.model.training
    policy.model.eval()
    sample(policy, requests(4))
    assert not policy.model.training


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_values_that_are_not_finite_stop_the_run(temperature: float) -> None:
    policy = tiny_policy()
    with torch.no_grad():
        policy.trainable_parameters()[-1][0, 0] = float("nan")
    with pytest.raises(RunStopped, match="not finite while sampling"):
        sample(policy, requests(2), temperature=temperature)


def test_the_engine_holds_the_trainers_weights() -> None:
    policy = tiny_policy()
    engine = HFEngine(policy)
    engine.sync()
    before = engine.fingerprint()
    assert before == policy.fingerprint()
    with torch.no_grad():
        policy.trainable_parameters()[0].add_(1.0)
    assert engine.fingerprint() == policy.fingerprint() != before
