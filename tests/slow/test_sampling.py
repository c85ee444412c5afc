"""Sampling with the embedded model: generate's own tokens, a fresh forward's log-probs, and memory that stays flat."""

from __future__ import annotations

import json
import resource
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tessera.policy.forest import Row
from tessera.policy.load import ModelConfig, Policy, load_policy
from tessera.policy.logprobs import score
from tessera.rollout.engine import Request, Sampling
from tessera.rollout.hf import HFEngine

SVAMP = Path(__file__).parents[3] / "shared" / "data" / "svamp" / "test.jsonl"
LENGTH = 24

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def policy() -> Policy:
    return load_policy(ModelConfig(name="smollm2-135m-instruct", dtype="float32"))


@pytest.fixture(scope="module")
def prompts(policy: Policy) -> list[tuple[int, ...]]:
    if not SVAMP.is_file():
        pytest.skip(f"{SVAMP} is not there")
    rows = [json.loads(line) for line in SVAMP.read_text(encoding="utf-8").splitlines()[:200]]
    texts = [f"Problem: {row['question']}\nAnswer:" for row in rows]
    return [tuple(policy.tokenizer(text)["input_ids"]) for text in texts]


def test_greedy_is_generates_own_on_200_real_prompts(policy: Policy, prompts: list[tuple[int, ...]]) -> None:
    """Tokens may part only where two logits are so close that rounding decides."""
    found = HFEngine(policy, 32).generate(
        [Request(p, 0) for p in prompts], Sampling(max_new_tokens=LENGTH, temperature=0)
    )
    parted = 0
    for prompt, one in zip(prompts, found, strict=True):
        ids = torch.tensor([prompt])
        out = policy.model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=LENGTH,
            eos_token_id=sorted(policy.eos_ids), pad_token_id=policy.pad_id,
        )[0, len(prompt) :].tolist()  # fmt: skip
        if list(one.ids) == out:
            continue
        t = next(t for t, (a, b) in enumerate(zip(one.ids, out, strict=False)) if a != b)
        with torch.no_grad():
            logits_V = policy.model(torch.tensor([[*prompt, *out[:t]]])).logits[0, -1]
        assert abs(float(logits_V[one.ids[t]] - logits_V[out[t]])) < 1e-4
        parted += 1
    assert parted <= 2


def test_log_probs_are_a_fresh_forwards_and_rows_their_own(policy: Policy, prompts: list[tuple[int, ...]]) -> None:
    wanted = [Request(p, seed) for p in prompts[:4] for seed in range(4)]
    sampling = Sampling(max_new_tokens=60, temperature=0.7)
    together = HFEngine(policy, 6).generate(wanted, sampling)
    rows = [Row(r.prompt_ids, c.ids, tuple(range(len(c.ids)))) for r, c in zip(wanted, together, strict=True)]
    with torch.no_grad():
        expected = score(policy.model, rows, temperature=0.7).logp_N
    sampled = torch.tensor([logp for c in together for logp in c.logprobs])
    torch.testing.assert_close(sampled, expected, rtol=0, atol=1e-4)
    alone = [HFEngine(policy).generate([r], sampling)[0] for r in wanted]
    assert sum(a.ids != b.ids for a, b in zip(together, alone, strict=True)) <= 1  # a number on a boundary may round


def test_a_thousand_rollouts_leave_no_memory_behind(policy: Policy) -> None:
    """A part of the vocabulary ends a row, so lengths are random. Four hundred rollouts come before the first look:
    the allocator has seen every size by then."""
    ends = replace(policy, eos_ids=frozenset(range(0, 49_152, 40)))
    engine, sampling = HFEngine(ends, 50), Sampling(max_new_tokens=60, temperature=1.5, keep_trunk=True)

    def used(first: int, count: int) -> int:
        engine.generate([Request((1, 2, 3 + i % 7), i) for i in range(first, first + count)], sampling)
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * resource.getpagesize()

    if not Path("/proc/self/statm").exists():
        pytest.skip("resident memory is read from /proc")
    used(0, 200)
    before = used(200, 200)
    for k in range(2, 7):
        after = used(200 * k, 200)
    assert after <= before * 1.05
