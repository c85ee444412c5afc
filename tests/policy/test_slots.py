"""Slots against whole forward passes: rows of unlike lengths, rows that end and leave their slot, every family."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tessera.policy.adapters import adapter_matrices
from tessera.policy.prefix import backbone, causal_lm
from tessera.policy.slots import Slots, read
from tessera.policy.trunk import FAMILIES
from tiny import tiny_family

PROMPTS = [(1, 40, 41, 42, 43, 44, 45), (1, 40), (7, 8, 9)]


def whole(causal: object, ids: list[int]) -> Tensor:
    """The slow twin: the last hidden state of a forward pass over all tokens."""
    return backbone(causal)(input_ids=torch.tensor([ids]), use_cache=False).last_hidden_state[0, -1]


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_rows_grow_as_if_computed_whole(name: str) -> None:
    """Windows of 5 tokens slide here. After two steps the first row ends and another takes its place."""
    policy = tiny_family(name, torch.float64)
    noise = torch.Generator().manual_seed(1)
    causal = causal_lm(policy.model)
    with torch.no_grad():
        for p in adapter_matrices(policy.model):
            p.copy_(0.3 * torch.randn(p.shape, generator=noise))
        prompts = read(causal, PROMPTS)
        slots = Slots(causal, 3, 16)
        rows = [list(PROMPTS[0]), list(PROMPTS[1])]
        slots.put(prompts[0])
        slots.put(prompts[1])
        for t in range(8):
            if t == 2:
                slots.drop(0)
                rows[0] = rows.pop()
                slots.put(prompts[2])
                rows.append(list(PROMPTS[2]))
            tokens = [10 + t, 20 + t]
            for row, token in zip(rows, tokens, strict=True):
                row.append(token)
            _, hidden_BH = slots.grow(torch.tensor(tokens))
            for row, hidden_H in zip(rows, hidden_BH, strict=True):
                torch.testing.assert_close(hidden_H, whole(causal, row), rtol=0, atol=1e-6)
        assert slots.lengths == [len(row) for row in rows]


def test_prompts_are_read_as_if_computed_whole_and_share_what_they_begin_with() -> None:
    policy = tiny_family("llama", torch.float64)
    causal, fed = causal_lm(policy.model), []
    handle = backbone(causal).layers[0].register_forward_hook(lambda m, given, out: fed.append(given[0].shape[1]))
    with torch.no_grad():
        found = read(causal, PROMPTS)
        assert fed == [7 + 0 + 3]  # the second prompt is the beginning of the first
        handle.remove()
        for prompt, one in zip(PROMPTS, found, strict=True):
            torch.testing.assert_close(one.hidden_H, whole(causal, list(prompt)), rtol=0, atol=1e-6)
            assert {len(k[0]) for k in one.keys} == {len(prompt)}


def test_a_slot_that_held_what_is_not_finite_serves_the_next_row() -> None:
    policy = tiny_family("llama", torch.float64)
    causal = causal_lm(policy.model)
    with torch.no_grad():
        prompts = read(causal, PROMPTS)
        slots = Slots(causal, 1, 16)
        slots.put(prompts[0])
        slots.values[0][0].fill_(float("nan"))
        assert not bool(slots.grow(torch.tensor([5]))[1].isfinite().all())
        slots.clear(0)
        slots.drop(0)
        slots.put(prompts[1])
        _, hidden_BH = slots.grow(torch.tensor([5]))
        torch.testing.assert_close(hidden_BH[0], whole(causal, [*PROMPTS[1], 5]), rtol=0, atol=1e-6)
