"""Advantages, by hand."""

from dataclasses import replace
from math import sqrt

import pytest
import torch

from tessera.core.errors import UserError
from tessera.pieces import make


def group_normalized(batch, **config):
    return make("advantage", "group_normalized", **config)(batch)


def prefix_value(batch):
    return make("advantage", "prefix_value")(batch).tolist()


@pytest.fixture
def four(written):
    """Rewards 1, 0, 0, 1: mean 1/2, every deviation 1/2, sum of squares 1."""
    return written((0, 1, [1, 2]), (0, 0, [3]), (0, 0, [4]), (0, 1, [5]))


def test_sample_std_divides_by_n_minus_one(four):
    a = 0.5 / (sqrt(1 / 3) + 1e-4)
    torch.testing.assert_close(
        group_normalized(four),
        torch.tensor([[a, a], [-a, 0], [-a, 0], [a, 0]], dtype=torch.float64),
        rtol=0,
        atol=1e-15,
    )


def test_population_std_divides_by_n(four):
    a = 0.5 / (sqrt(1 / 4) + 1e-4)
    assert group_normalized(four, std="population")[:, 0].tolist() == pytest.approx([a, -a, -a, a], abs=1e-15)


def test_eps_is_added_to_the_std_and_not_under_the_root(four):
    # population std 1/2: 0.5 / (0.5 + 1) = 1/3
    assert group_normalized(four, std="population", eps=1.0)[0, 0].item() == pytest.approx(1 / 3, abs=1e-15)


def test_the_defaults_are_group_sample_and_a_small_eps(four):
    explicit = group_normalized(four, scale="group", std="sample", eps=1e-4)
    assert torch.equal(group_normalized(four), explicit)


def test_scale_none_only_centres(four):
    assert group_normalized(four, scale="none")[:, 0].tolist() == [0.5, -0.5, -0.5, 0.5]


def test_groups_do_not_mix(written):
    # group 0: rewards 1, 0; group 1: 4, 2 (rows interleaved): centred +-1/2 and +-1, population std 1/2 and 1
    batch = written((0, 1, [1]), (1, 4, [1]), (0, 0, [2]), (1, 2, [2]))
    assert group_normalized(batch, scale="none")[:, 0].tolist() == [0.5, 1.0, -0.5, -1.0]
    assert group_normalized(batch, std="population", eps=0.0)[:, 0].tolist() == [1.0, 1.0, -1.0, -1.0]


def test_step_scale_is_the_std_of_all_rewards_of_the_step(written):
    # rewards 1, 0, 4, 2: mean 7/4, squares (9 + 49 + 81 + 1) / 16 = 140 / 16; sample variance 35/12, population 35/16
    batch = written((0, 1, [1]), (0, 0, [2]), (1, 4, [1]), (1, 2, [2]))
    for std, variance in (("sample", 35 / 12), ("population", 35 / 16)):
        expected = [c / (sqrt(variance) + 1e-4) for c in (0.5, -0.5, 1.0, -1.0)]
        assert group_normalized(batch, scale="step", std=std)[:, 0].tolist() == pytest.approx(expected, abs=1e-15)


def test_equal_rewards_give_exactly_zero_whatever_rounding_says(written):
    # the float mean of six times 0.1 is 0.09999999999999999: with eps = 0 a float std would give advantages near 1
    assert sum([0.1 / 6] * 6) != 0.1
    for config in ({}, {"eps": 0.0}, {"scale": "none"}, {"scale": "step", "eps": 0.0}, {"std": "population"}):
        batch = written(*[(0, 0.1, [i]) for i in range(6)], (1, 0, [1]), (1, 1, [2]))
        advantage = group_normalized(batch, **config)[:, 0].tolist()
        assert advantage[:6] == [0.0] * 6
        assert advantage[6] < 0 < advantage[7]


def test_all_groups_equal_leaves_no_nan_even_without_eps(written):
    batch = written((0, 0.0, [1]), (0, 0.0, [2]), (1, 7.0, [1]), (1, 7.0, [2]))
    for scale in ("group", "step", "none"):
        assert group_normalized(batch, scale=scale, eps=0.0)[:, 0].tolist() == [0.0] * 4


def test_rewards_of_any_size_are_normalised_alike(written):
    # 1, 0, 0, 1 times a scale: A = 0.5 / sqrt(1/3) whatever the scale, eps = 0; squares of 1e-200 would underflow
    for scale in (1e-200, 1e-5, 1.0, 1e30):
        batch = written((0, scale, [1]), (0, 0, [2]), (0, 0, [3]), (0, scale, [4]))
        a = 0.5 / sqrt(1 / 3)
        assert group_normalized(batch, eps=0.0)[:, 0].tolist() == pytest.approx([a, -a, -a, a], rel=1e-14)


def test_the_smallest_difference_of_rewards_divides_by_no_zero(written):
    batch = written((0, 5e-324, [1]), *[(0, 0.0, [i]) for i in range(2, 40)])
    assert torch.isfinite(group_normalized(batch, eps=0.0, std="population")).all()


def test_what_the_policy_did_not_write_has_no_advantage(written):
    batch = written((0, 1, [1, [2], 3]), (0, 0, [4]))
    assert group_normalized(batch, scale="none").tolist() == [[0.5, 0.0, 0.5], [-0.5, 0.0, 0.0]]
    # 1 and 4 branch at the root: A = 1 - 1/2 and 0 - 1/2
    assert prefix_value(batch) == [[0.5, 0.0, 0.0], [-0.5, 0.0, 0.0]]


def test_prefix_value_by_hand(written):
    # root 1/2; 1: 1/3; 1.2: 1/2; 1.3: 0; 1.2.4: 0; 5: 1 (rewards 1, 0, 0, 1)
    batch = written((0, 1, [1, 2]), (0, 0, [1, 3]), (0, 0, [1, 2, 4]), (0, 1, [5]))
    assert prefix_value(batch) == [
        [-1 / 6, 1 / 6, 0.0],
        [-1 / 6, -1 / 3, 0.0],
        [-1 / 6, 1 / 6, -1 / 2],
        [1 / 2, 0.0, 0.0],
    ]


def test_prefix_value_branches_on_tool_output_but_credits_none_of_it(written):
    # 1 is shared (mean 1/2), then the tool said 8 or 9 and the policy wrote 2 either way. The difference between 8
    # and 9 is the tool's: it appears on no token, and given its prefix (1.8 or 1.9) each 2 changes nothing.
    batch = written((0, 1, [1, [8], 2]), (0, 0, [1, [9], 2]))
    assert prefix_value(batch) == [[0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]
    # the same tokens with the same tool output share the prefix: 1.8 has mean 1/2, then 2 earns +1/2 and 3 -1/2
    batch = written((0, 1, [1, [8], 2]), (0, 0, [1, [8], 3]))
    assert prefix_value(batch) == [[0.0, 0.0, 0.5], [0.0, 0.0, -0.5]]


def test_prefix_value_of_two_groups_does_not_share_prefixes(written):
    # the same token 1 opens a completion in both groups: 1 - 1/2 in group 0, 0 - 2 in group 1
    batch = written((0, 1, [1]), (1, 0, [1]), (0, 0, [2]), (1, 4, [2]))
    assert prefix_value(batch) == [[0.5], [-2.0], [-0.5], [2.0]]


def test_prefix_value_is_zero_when_rewards_are_equal(written):
    batch = written(*[(0, 0.1, [i, 1]) for i in range(6)])
    assert prefix_value(batch) == [[0.0, 0.0]] * 6


def test_both_need_a_group():
    for name in ("group_normalized", "prefix_value"):
        assert make("advantage", name).needs == {"group"}


def test_leave_one_out_compares_with_the_mean_of_the_others(written):
    batch = written((0, 4, [1]), (0, 1, [2]), (0, 1, [3]), (1, 7, [4]), (1, 7, [5]))
    advantage_BT = make("advantage", "leave_one_out")(batch)
    assert advantage_BT[:, 0].tolist() == pytest.approx([3.0, -1.5, -1.5, 0.0, 0.0])  # 4 - (1 + 1)/2, 1 - (4 + 1)/2


def test_a_floor_holds_failures_up(written):
    batch = written((0, 1, [1]), (0, 0, [2, 3]))
    floored = make("advantage", "floored", floor=-0.25, eps=0.0, std="population")(batch)
    assert floored.tolist() == [[1.0, 0.0], [-0.25, -0.25]]  # without a floor 1 and -1
    without = make("advantage", "floored", floor=None, eps=0.0, std="population")(batch)
    assert without.tolist() == [[1.0, 0.0], [-1.0, -1.0]]


def test_the_value_bound_is_the_chance_that_the_completion_had_ended_before(written):
    batch = written((0, 1, [1, 2, 3]), (0, 0, [4, [5], 6]))
    eos_logp_BT = torch.tensor([[0.5, 0.25, 0.9], [0.5, 0.9, 0.9]]).log()  # of the tool's token: no matter
    batch = replace(batch, eos_logp_BT=eos_logp_BT)
    bounded = make("advantage", "value_bounded", floor=None, eps=0.0, std="population")(batch)
    # 1 - 1, 1 - 0.5, 1 - 0.5 * 0.75 above the advantages 1 and -1
    assert bounded[0].tolist() == pytest.approx([1.0, 1.5, 1.625])
    assert bounded[1].tolist() == pytest.approx([-1.0, 0.0, -0.5])
    held = make("advantage", "value_bounded", floor=-0.75, eps=0.0, std="population")(batch)
    assert held[1].tolist() == pytest.approx([-0.75, 0.0, -0.5])
    with pytest.raises(UserError, match="value_bounded needs eos_logp"):
        make("advantage", "value_bounded")(replace(batch, eos_logp_BT=None))
