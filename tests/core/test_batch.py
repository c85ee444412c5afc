"""The tensors between plan, score and learn."""

import dataclasses

import pytest
import torch

from tessera.core.batch import Plan, TokenBatch, make_batch, pad_rows


def test_pad_rows_fills_on_the_right():
    assert pad_rows([[1, 2, 3], [], [4]], fill=9).tolist() == [[1, 2, 3], [9, 9, 9], [4, 9, 9]]
    assert pad_rows([[1], [2, 3]]).tolist() == [[1, 0], [2, 3]]


def test_pad_rows_keeps_its_two_axes_when_there_is_nothing():
    assert pad_rows([]).shape == (0, 0)
    assert pad_rows([[], []]).shape == (2, 0)
    assert pad_rows([]).dtype == torch.long


def test_make_batch_masks_padding_and_what_the_policy_did_not_write():
    batch = make_batch([[5, 6, 7], [8]], [[True, False, True], [True]], [0.1, 1], [0, 1])
    assert batch.tokens_BT.tolist() == [[5, 6, 7], [8, 0, 0]]
    assert batch.mask_BT.tolist() == [[True, False, True], [True, False, False]]
    assert batch.lengths_B.tolist() == [3, 1]
    assert batch.group_B.tolist() == [0, 1]
    assert batch.n_groups == 2


def test_make_batch_keeps_rewards_in_double_precision():
    batch = make_batch([[1]], [[True]], [0.1], [0])
    assert batch.rewards_B.dtype == torch.float64
    assert batch.rewards_B.item() == 0.1  # float32 would give 0.10000000149


def test_an_empty_batch_has_no_groups():
    assert make_batch([], [], [], []).n_groups == 0


def test_rewards_are_held_where_differences_fit_float32():
    batch = make_batch([[1], [2], [3]], [[True]] * 3, [1e300, -1e300, 1e37], [0, 0, 0])
    assert batch.rewards_B.tolist() == [1e38, -1e38, 1e37]
    assert torch.isfinite((batch.rewards_B[0] - batch.rewards_B[1]).float())


def test_tries_are_per_group_and_ignore_padding():
    # rows 0 and 2 form group 1, row 1 forms group 0; row 2's padding (0) must not become a token
    batch = make_batch([[7, 7], [7], [7]], [[True] * 2, [True], [True]], [1.0, 4.0, 0.0], [1, 0, 1])
    (rows_0, trie_0), (rows_1, trie_1) = batch.tries
    assert (rows_0, rows_1) == ([1], [0, 2])
    assert trie_0.paths == ((1,),)
    assert trie_0.count == (1, 1)
    assert trie_1.paths == ((1, 2), (1,))
    assert trie_1.count == (2, 2, 1)  # root, 7, 7.7


def test_tries_are_built_once():
    batch = make_batch([[1]], [[True]], [1.0], [0])
    assert batch.tries is batch.tries


def test_a_plan_moves_with_all_its_parts():
    plan = Plan(
        torch.ones(1, 2),
        torch.tensor([[True, False]]),
        torch.full((1, 2), 0.5),
        torch.tensor([[False, True]]),
        torch.rand(1, 2),
    )
    moved = plan.to(torch.device("meta"))
    assert all(getattr(moved, f.name).device.type == "meta" for f in dataclasses.fields(Plan))
    same = plan.to(torch.device("cpu"))
    assert all(torch.equal(getattr(same, f.name), getattr(plan, f.name)) for f in dataclasses.fields(Plan))


def test_a_plan_of_some_rows_keeps_their_order_and_the_shares_of_the_step():
    flags = torch.ones(3, 1).bool(), torch.zeros(3, 1).bool()
    plan = Plan(
        torch.arange(3.0)[:, None], flags[0], torch.full((3, 1), 1 / 3), flags[1], torch.arange(3.0)[:, None] / 4
    )
    part = plan.rows([2, 0])
    assert part.advantage_BT.tolist() == [[2.0], [0.0]]
    assert torch.equal(part.share_BT, plan.share_BT[:2])
    assert part.draw_BT.tolist() == [[0.5], [0.0]]
    assert (part.selected_BT.tolist(), part.active_BT.tolist()) == ([[True]] * 2, [[False]] * 2)


def test_a_batch_is_frozen():
    batch = make_batch([[1]], [[True]], [1.0], [0])
    with pytest.raises(dataclasses.FrozenInstanceError):
        batch.n_groups = 3
    assert isinstance(batch, TokenBatch)


def test_rewards_beyond_all_bounds_are_held():
    batch = make_batch([[1], [2], [3]], [[True]] * 3, [1e300, -1e39, 7.0], [0, 0, 0])
    assert batch.rewards_B.tolist() == [1e38, -1e38, 7.0]
