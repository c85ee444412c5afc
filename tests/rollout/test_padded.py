"""Sampling with transformers' own cache, for families whose layers are not known."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tessera.core.errors import TesseraError
from tessera.policy.forest import Row
from tessera.policy.logprobs import score
from tessera.policy.prefix import backbone, causal_lm
from tessera.rollout.engine import Request, Sampling
from tessera.rollout.hf import HFEngine
from tiny import tiny_family

PROMPTS = [(1, 40, 41, 42), (1, 30), (1, 50, 51)]
ENDS = frozenset(range(6, 17))


@pytest.mark.parametrize("name", ["gpt2", "cohere"])
def test_rows_are_their_own_and_their_log_probs_the_models(name: str) -> None:
    policy = replace(tiny_family(name, torch.float64), eos_ids=ENDS)
    engine = HFEngine(policy, max_rows=5)
    wanted = [Request(PROMPTS[i % 3], i) for i in range(12)]
    sampling = Sampling(max_new_tokens=24, temperature=0.8)
    together = engine.generate(wanted, sampling)
    assert len({len(c.ids) for c in together}) > 3
    assert {c.finish_reason for c in together} >= {"stop"}
    assert [c.ids for c in together] == [engine.generate([r], sampling)[0].ids for r in wanted]
    rows = [Row(r.prompt_ids, c.ids, tuple(range(len(c.ids)))) for r, c in zip(wanted, together, strict=True)]
    with torch.no_grad():
        expected = score(policy.model, rows, temperature=0.8).logp_N
    sampled = torch.tensor([logp for c in together for logp in c.logprobs], dtype=torch.float64)
    torch.testing.assert_close(sampled, expected.double(), rtol=0, atol=1e-6)


def test_a_dead_cache_is_refused_and_the_mode_returns(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = tiny_family("gpt2")
    policy.model.train()
    model = backbone(causal_lm(policy.model))
    forward = model.forward
    monkeypatch.setattr(model, "forward", lambda **given: forward(**{**given, "past_key_values": None}))
    with pytest.raises(TesseraError, match="key-value cache is not live"):
        HFEngine(policy).generate([Request((1, 30), 0)], Sampling(max_new_tokens=4))
    assert policy.model.training
