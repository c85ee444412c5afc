"""Ratios of trainer and sampler, and what is logged of them."""

from math import exp, log

import pytest
import torch

from tessera.core.importance import Importance, importance_ratio, summary


def test_the_ratio_is_trainer_over_sampler_and_1_where_the_sampler_does_not_know():
    old = torch.tensor([[log(0.5), log(0.2), -1.0, -1.0, -1.0]], dtype=torch.float64)
    sampler = torch.tensor([[log(0.25), log(0.4), torch.nan, -torch.inf, torch.inf]], dtype=torch.float64)
    assert importance_ratio(old, sampler)[0].tolist() == pytest.approx([2.0, 0.5, 1.0, 1.0, 1.0])


def test_a_ratio_beyond_all_bounds_stays_finite():
    far = importance_ratio(torch.tensor([[0.0]]), torch.tensor([[-1e4]]))
    assert far.item() == pytest.approx(exp(60))


def test_the_summary_by_hand():
    # ratios 1, 4, 1/2 and 0.1, of which 4 was cut off at 2 and 0.1 dropped
    ratio, factor = torch.tensor([[1.0, 4.0], [0.5, 0.1]]), torch.tensor([[1.0, 2.0], [0.5, 0.0]])
    expected = {
        "importance/mean": 5.6 / 4,
        "importance/max": 4.0,
        "importance/ess": 3.5**2 / (4 * (1 + 4 + 0.25)),
        "importance/truncated": 1 / 4,
        "importance/kept": 3 / 4,
    }
    assert summary([Importance(ratio, factor)]) == pytest.approx(expected)
    parts = [Importance(r, f) for r, f in zip(ratio, factor, strict=True)]
    assert summary(parts) == pytest.approx(expected)  # however it was cut


def test_equal_factors_are_a_full_sample_and_none_is_an_empty_one():
    half = torch.full((3,), 0.5)
    assert summary([Importance(half, half)])["importance/ess"] == pytest.approx(1.0)
    assert summary([Importance(half, torch.zeros(3))])["importance/ess"] == 0.0
    assert summary([]) == summary([Importance(torch.zeros(0), torch.zeros(0))]) == {}
