"""Rows without a reward are planned around; the numbers are worked out by hand."""

from dataclasses import replace

import pytest
import torch

from tessera.algorithms import build
from tessera.core.batch import Plan, make_batch
from tessera.core.seeding import generator
from tessera.plugins.planning import plan_rows, scored_rows

NAN = float("nan")


def batch(rewards, groups, lengths):
    return make_batch([[7] * n for n in lengths], [[True] * n for n in lengths], rewards, groups)


def test_a_row_without_reward_and_a_group_that_is_then_too_small_are_left_out():
    rows = batch([1.0, NAN, 0.0, 5.0, NAN, 2.0, 4.0], [0, 0, 0, 1, 1, 2, 2], [2, 3, 1, 2, 1, 1, 2])
    plan = plan_rows(build("rloo"), rows, generator(0))
    # Group 0: 1 - 0 and 0 - 1; group 1 has one reward; group 2: 2 - 4 and 4 - 2.
    assert plan.advantage_BT[:, 0].tolist() == [1.0, 0.0, -1.0, 0.0, 0.0, -2.0, 2.0]
    assert plan.selected_BT.sum(dim=1).tolist() == [2, 0, 1, 0, 0, 1, 2]
    # Two groups of two rows: each row's tokens add up to a quarter.
    assert plan.share_BT.sum(dim=1).tolist() == [0.25, 0.0, 0.25, 0.0, 0.0, 0.25, 0.25]


def test_with_every_reward_it_is_the_algorithms_own_plan():
    rows = batch([1.0, 0.0, 0.5, 0.5], [0, 0, 1, 1], [3, 1, 2, 2])
    algorithm = build({"name": "s_grpo", "cutoff": 1, "probability": 0.5})
    mine, own = plan_rows(algorithm, rows, generator(3)), algorithm.plan(rows, generator(3))
    for name in Plan.__dataclass_fields__:
        assert torch.equal(getattr(mine, name), getattr(own, name)), name


def test_nothing_is_planned_where_no_reward_is_left():
    plan = plan_rows(build("grpo"), batch([NAN, NAN], [0, 0], [2, 1]), generator(0))
    assert not plan.selected_BT.any()
    assert not plan.share_BT.any()


def test_what_piece_a_batch_has_beside_rewards_follows_the_rows():
    rows = batch([NAN, 1.0, 0.0], [0, 0, 0], [2, 2, 2])
    rows = replace(rows, truncated_B=torch.tensor([False, True, False]))
    plan = plan_rows(build({"name": "grpo", "selection": "complete"}), rows, generator(0))
    assert plan.selected_BT.any(dim=1).tolist() == [False, False, True]


def test_scored_rows_forget_what_was_not_selected_and_widen_half_precision():
    rows = batch([1.0, 0.0], [0, 0], [2, 1])
    plan = plan_rows(build("grpo"), rows, generator(0))
    logp_BT = torch.tensor([[-1.0, -2.0], [-3.0, NAN]], dtype=torch.bfloat16, requires_grad=True)
    scored = scored_rows(plan, logp_BT, logp_BT, logp_BT, rows.group_B)
    assert scored.logp_BT.dtype is torch.float32
    assert scored.logp_BT.tolist() == [[-1.0, -2.0], [-3.0, 0.0]]
    assert not scored.old_BT.requires_grad
    assert (scored.n_groups, scored.weight_BT.tolist()) == (1, [[1.0, 1.0], [1.0, 1.0]])
    scored.logp_BT.sum().backward()
    assert logp_BT.grad.tolist() == [[1.0, 1.0], [1.0, 0.0]]


@pytest.mark.parametrize("name", ["grpo", "t_spmo"])
def test_rewards_of_one_value_plan_no_gradient(name):
    assert not plan_rows(build(name), batch([1.0, 1.0], [0, 0], [2, 2]), generator(0)).active_BT.any()
