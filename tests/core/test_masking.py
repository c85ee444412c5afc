"""Masked and grouped reductions."""

import math

import pytest
import torch

from tessera.core.masking import (
    blank,
    bounded_exp,
    group_extreme,
    group_size,
    group_sum,
    policy_position,
    row_count,
)

NAN = float("nan")


def test_blank_stops_nan_and_gradient():
    x = torch.tensor([2.0, NAN, 3.0], requires_grad=True)
    y = blank(x, torch.tensor([True, False, True]))
    assert y.tolist() == [2.0, 0.0, 3.0]
    (y * y).sum().backward()
    assert x.grad.tolist() == [4.0, 0.0, 6.0]  # 2x where kept, exactly 0 elsewhere


def test_blank_fills_with_what_it_is_told():
    assert blank(torch.tensor([1.0, 2.0]), torch.tensor([True, False]), fill=-1.0).tolist() == [1.0, -1.0]


def test_bounded_exp_is_exp_up_to_sixty_and_flat_beyond():
    x = torch.tensor([-200.0, 0.0, 60.0, 61.0, 1e4], dtype=torch.float64, requires_grad=True)
    y = bounded_exp(x)
    top = math.exp(60)
    assert y.tolist() == pytest.approx([math.exp(-200), 1.0, top, top, top], rel=1e-15)
    y.sum().backward()
    assert x.grad.tolist() == pytest.approx([math.exp(-200), 1.0, top, 0.0, 0.0], rel=1e-15)
    assert torch.isfinite(bounded_exp(torch.tensor(1e30))).all()


def test_row_count_counts_true():
    assert row_count(torch.tensor([[True, False, True], [False] * 3])).tolist() == [2, 0]


def test_grouped_reductions_by_hand():
    # rows of group 0: 1, -4; of group 1: 2, 7, 7
    x_B, group_B = torch.tensor([1.0, 2.0, -4.0, 7.0, 7.0]), torch.tensor([0, 1, 0, 1, 1])
    assert group_sum(x_B, group_B, 2).tolist() == [-3.0, 16.0]
    assert group_size(group_B, 2).tolist() == [2, 3]
    assert group_extreme(x_B, group_B, 2, "amax").tolist() == [1.0, 7.0]
    assert group_extreme(x_B, group_B, 2, "amin").tolist() == [-4.0, 2.0]


def test_extremes_do_not_see_the_zero_they_start_from():
    group_B = torch.tensor([0, 0])
    assert group_extreme(torch.tensor([-3.0, -2.0]), group_B, 1, "amax").item() == -2.0
    assert group_extreme(torch.tensor([3.0, 2.0]), group_B, 1, "amin").item() == 2.0


def test_a_group_without_rows_has_size_zero():
    assert group_size(torch.tensor([0, 2]), 4).tolist() == [1, 0, 1, 0]


def test_policy_position_counts_only_what_the_policy_wrote():
    mask_BT = torch.tensor([[True, False, True, True, False], [False, True, False, False, True]])
    position_BT = policy_position(mask_BT)
    assert position_BT[mask_BT].tolist() == [0, 1, 2, 0, 1]
