"""Argument checks name the argument, what is right, and what came."""

import pytest
import torch

from tessera.core.checks import check_finite, check_groups, check_shape, check_tensors
from tessera.core.errors import UserError


def test_shape_names_argument_axes_and_both_shapes():
    with pytest.raises(UserError, match=r"^logp must have shape \[G,T\] = \(2, 3\), got \(3, 2\)$"):
        check_shape("logp", torch.zeros(3, 2), (2, 3), "[G,T]")
    check_shape("logp", torch.zeros(2, 3), (2, 3), "[G,T]")


def test_finite_gives_the_first_bad_value_and_its_place():
    x = torch.tensor([[0.0, float("nan")], [float("inf"), 0.0]])
    with pytest.raises(UserError, match=r"^logp must be finite, got nan at \(0, 1\)$"):
        check_finite("logp", x)
    check_finite("logp", torch.zeros(2, 2))


def test_finite_only_looks_where_it_is_told_to():
    x = torch.tensor([[0.0, float("nan")], [float("-inf"), 0.0]])
    check_finite("logp", x, torch.tensor([[True, False], [False, True]]))
    with pytest.raises(UserError, match=r"^logp .* where the policy wrote the token, got -inf at \(1, 0\)$"):
        check_finite("logp", x, torch.tensor([[True, False], [True, True]]))


def test_finite_accepts_integers_and_nothing():
    check_finite("rewards", torch.tensor([1, 0]))
    check_finite("rewards", torch.zeros(0))


def test_groups_need_two():
    check_groups([2, 3], "the mean")
    with pytest.raises(UserError, match=r"^the mean compares .* needs group size >= 2, got 1$"):
        check_groups([2, 1], "the mean")


def test_tensors_are_tensors_or_absent():
    check_tensors(logp=torch.zeros(1), mask=None)
    with pytest.raises(UserError, match=r"^rewards must be a torch tensor, got list$"):
        check_tensors(logp=torch.zeros(1), rewards=[1.0])
