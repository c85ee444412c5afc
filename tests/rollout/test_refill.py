"""Slots that are filled again: the same rows whatever shares the batch, few steps, no idle slot, failures of one."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tessera.core.types import Completion
from tessera.policy.load import Policy
from tessera.policy.prefix import backbone, causal_lm
from tessera.policy.slots import read
from tessera.rollout import refill as module
from tessera.rollout.engine import Request, Sampling
from tessera.rollout.hf import HFEngine
from tiny import tiny_policy

PROMPTS = [(1, 40, 41, 42, 43, 44, 45), (1, 30), (1, 50, 51, 52), (1, 30, 31)]
ENDS = frozenset(range(6, 17))


@pytest.fixture(scope="module")
def policy() -> Policy:
    return replace(tiny_policy(dtype=torch.float64), eos_ids=ENDS)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 9)), min_size=1, max_size=14), st.integers(1, 6))
def test_rows_do_not_depend_on_what_shares_the_batch(policy: Policy, asks: list[tuple[int, int]], rows: int) -> None:
    wanted = [Request(PROMPTS[p], seed) for p, seed in asks]
    sampling = Sampling(max_new_tokens=12, keep_trunk=True)
    together = HFEngine(policy, rows).generate(wanted, sampling)
    alone = [HFEngine(policy).generate([r], sampling)[0] for r in wanted]
    assert [(c.ids, c.finish_reason) for c in together] == [(c.ids, c.finish_reason) for c in alone]
    for request, one, other in zip(wanted, together, alone, strict=True):
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-9)
        below = read(causal_lm(policy.model), [request.prompt_ids + one.ids[:-1]])[0].below_PH
        kept = torch.cat([one.trunk.prompt_PH, one.trunk.rest_TH])
        torch.testing.assert_close(kept, below, rtol=0, atol=1e-9)


def test_a_slot_is_filled_again_at_once(policy: Policy) -> None:
    """Every row of every step is wanted, and the steps are about as few as three slots allow."""
    sizes: list[int] = []
    layer = backbone(causal_lm(policy.model)).layers[0]
    wanted = [Request(PROMPTS[1], seed) for seed in range(20)]
    handle = layer.register_forward_hook(lambda m, given, out: sizes.append(tuple(given[0].shape[:2])))
    found = HFEngine(policy, 3).generate(wanted, Sampling(max_new_tokens=12))
    handle.remove()
    steps = [rows for rows, tokens in sizes if tokens == 1]
    assert sizes[0] == (1, 2)
    assert len(sizes) - len(steps) == 1  # the prompt is computed once for all twenty
    # Every token but the last of a row is fed once, and nothing else is.
    assert sum(steps) == sum(len(c.ids) - 1 for c in found)
    # A slot is idle for the step in which its row's last token is drawn; at the end slots have no request to take.
    longest = max(len(c.ids) for c in found)
    assert len(steps) <= (sum(len(c.ids) for c in found) + len(found)) / 3 + longest


def test_a_row_that_fails_leaves_its_siblings_as_they_were(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = [Request(PROMPTS[i % 4], i) for i in range(12)]
    sampling = Sampling(max_new_tokens=12)
    whole = HFEngine(policy, 5).generate(wanted, sampling)
    victim = next(i for i, c in enumerate(whole) if len(c.ids) > 4)
    grow = module.Refill._grow

    def broken(self: module.Refill, token_B: torch.Tensor) -> torch.Tensor:
        hidden_BH = grow(self, token_B).clone()
        for slot, row in enumerate(self.live):
            if row.request.key == victim and len(row.ids) == 3:
                hidden_BH[slot] = float("nan")
                self.slots.values[1][slot] = float("nan")
        return hidden_BH

    monkeypatch.setattr(module.Refill, "_grow", broken)
    found = HFEngine(policy, 5).generate(wanted, sampling)
    assert found[victim].finish_reason == "error"
    assert found[victim].ids == whole[victim].ids[:3]
    assert len(found[victim].logprobs) == 3
    for i, (one, other) in enumerate(zip(found, whole, strict=True)):
        assert i == victim or (one.ids, one.logprobs) == (other.ids, pytest.approx(other.logprobs, abs=1e-9))


class Trickle:
    """Requests that become ready one by one: another when one is done, or while the engine waits."""

    def __init__(self, requests: list[Request], length: int) -> None:
        self.size, self.length = len(requests), length
        self.later = list(requests)
        self.ready = [self.later.pop(0)]
        self.done: dict[int, Completion] = {}
        self.waits = 0

    def take(self, most: int, wait: bool) -> list[Request]:
        self.waits += wait
        if wait and not self.ready and self.later:
            self.ready.append(self.later.pop(0))
        taken, self.ready = self.ready[:most], self.ready[most:]
        return taken

    def put(self, request: Request, completion: Completion) -> None:
        self.done[request.key] = completion
        if self.later and request.key % 2:
            self.ready.append(self.later.pop(0))


@pytest.mark.parametrize("known", [True, False], ids=["refill", "padded"])
def test_requests_that_come_one_by_one_are_answered_like_those_known_at_once(
    policy: Policy, known: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tessera.rollout.hf.packs", lambda model: known)
    limits = [12, 3, 12, 1, 12, 5, 12]
    wanted = [Request(PROMPTS[i % 4], i, key=i, max_new_tokens=limit) for i, limit in enumerate(limits)]
    feed = Trickle(wanted, max(map(len, PROMPTS)) + 12)
    HFEngine(policy, 3).serve(feed, Sampling(max_new_tokens=12))
    whole = HFEngine(policy).generate(
        [request._replace(max_new_tokens=None) for request in wanted], Sampling(max_new_tokens=12)
    )
    assert feed.waits > 1 and sorted(feed.done) == list(range(7))
    for i, limit in enumerate(limits):
        assert feed.done[i].ids == whole[i].ids[:limit]
        assert feed.done[i].logprobs == pytest.approx(whole[i].logprobs[:limit], abs=1e-9)
    assert {feed.done[i].finish_reason for i in (1, 3)} <= {"stop", "length"}
