"""Forests: what is packed, what a node sees, and attention against a dense mask made node by node."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tessera.policy import forest as module
from tessera.policy.forest import How, Kept, Piece, Row, Run, plant

A = Row((1, 2), (3, 4, 5), (0, 2))
B = Row((1, 2), (3, 6), (1,))
C = Row((7,), (8,), (0,))
SOME = st.builds(
    lambda prompt, ids, last: Row(tuple(prompt), (*ids, 0), (min(last, len(ids)),)),
    st.lists(st.integers(1, 2), min_size=1, max_size=3),
    st.lists(st.integers(1, 2), max_size=6),
    st.integers(0, 6),
)


def test_a_forest_by_hand() -> None:
    found = plant([A, B, C])
    # B is fed 1 2 3, A 1 2 3 4 and C 7; B comes first, A adds a 4, C is a tree of its own.
    assert found.token_K.tolist() == [1, 2, 3, 4, 7]
    assert found.depth_K.tolist() == [0, 1, 2, 3, 0]
    assert found.runs == (Run(0, 3, 1, 0, ()), Run(3, 4, 0, 3, (Piece(0, 3),)), Run(4, 5, 2, 0, ()))
    assert found.state_N.tolist() == [1, 3, 2, 4]
    assert found.label_N.tolist() == [3, 5, 6, 8]
    assert len(found) == 5


def prefixes(rows: list[Row]) -> set[tuple[int, ...]]:
    return {row.fed[: n + 1] for row in rows for n in range(len(row.fed))}


@given(st.lists(SOME, min_size=1, max_size=8))
def test_every_prefix_is_one_node_and_every_planned_token_has_its_own(rows: list[Row]) -> None:
    found = plant(rows)
    assert len(found) == len(prefixes(rows))
    names = named(found)
    assert set(names) == prefixes(rows)
    states = [row.fed[: len(row.prompt_ids) + t] for row in rows for t in row.positions]
    assert [names[k] for k in found.state_N.tolist()] == states


def named(found: module.Forest) -> list[tuple[int, ...]]:
    """The prefix that each node stands for, read off runs and pieces."""
    names: list[tuple[int, ...]] = []
    tokens = found.token_K.tolist()
    for run in found.runs:
        way = [found.runs[i].start + k for i, n in run.above for k in range(n)]
        before = tuple(tokens[k] for k in way)
        assert len(before) == run.depth
        names += [before + tuple(tokens[run.start : k + 1]) for k in range(run.start, run.stop)]
    return names


def dense(found: module.Forest, q: Tensor, k: Tensor, v: Tensor, window: int | None, softcap: float | None) -> Tensor:
    """Node by node: a node sees the nodes whose prefix begins its own."""
    names = named(found)
    out = torch.zeros_like(q)
    for i, name in enumerate(names):
        seen = [j for j, other in enumerate(names) if name[: len(other)] == other]
        seen = [j for j in seen if window is None or len(name) - len(names[j]) < window]
        for head in range(q.shape[1]):
            group = head * k.shape[1] // q.shape[1]
            scores = k[0, group, seen] @ q[0, head, i] * 0.3
            if softcap is not None:
                scores = softcap * torch.tanh(scores / softcap)
            out[0, head, i] = torch.softmax(scores, 0) @ v[0, group, seen]
    return out


@settings(max_examples=40, deadline=None)
@given(
    st.lists(SOME, min_size=1, max_size=8),
    st.sampled_from([0, 6, 40, 10**6]),
    st.sampled_from([None, 2, 4]),
    st.sampled_from([None, 0.7]),
)
def test_attention_is_that_of_a_dense_mask(
    rows: list[Row], worth: int, window: int | None, softcap: float | None
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "CALL_WORTH", worth)
        found = plant(rows)
        noise = torch.Generator().manual_seed(len(rows))
        q, k, v = (torch.randn(1, h, len(found), 4, generator=noise, dtype=torch.float64) for h in (4, 2, 2))
        got = found.attend(0, q, k, v, How(0.3, window, softcap))
        torch.testing.assert_close(got, dense(found, q, k, v, window, softcap))
        stops = [block.last for block in found.blocks]
        assert stops[-1] == len(found.runs)
        assert [block.first for block in found.blocks] == [0, *stops[:-1]]
        if worth == 10**6:
            assert len(found.blocks) == 1


def test_what_was_kept_is_laid_out_as_the_nodes_are() -> None:
    found = plant([A, B, C])
    prompt = torch.tensor([[1.0], [2.0]])
    # A was fed 3 4 (and more than is needed), B 3 with another last bit, which A's node does not use.
    kept = [Kept(prompt, torch.tensor([[3.0], [4.0], [5.0]])), Kept(prompt, torch.tensor([[3.5]])),
            Kept(torch.tensor([[7.0]]), torch.zeros(0, 1))]  # fmt: skip
    found.take(kept)
    assert found.below_KH is not None
    assert found.below_KH[:, 0].tolist() == [1, 2, 3.5, 4, 7]
    for missing in (None, Kept(prompt, torch.zeros(1, 1)), Kept(prompt[:1], torch.zeros(3, 1))):
        found = plant([A, B, C])
        found.take([missing, *kept[1:]])
        assert found.below_KH is None
