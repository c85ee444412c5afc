"""Weights by covariance: the kernel, the clip, groups and steps."""

from __future__ import annotations

import math

import pytest
import torch

from tessera.core.batch import Scored
from tessera.pieces import make


def tokens(logp: list[list[float]], advantage: list[float], groups: list[int], dtype=torch.float64) -> Scored:
    """Rows of tokens with one advantage each; a positive log-prob marks a position that is not selected."""
    logp_BT = torch.tensor(logp, dtype=dtype)
    keep_BT = logp_BT <= 0
    advantage_BT = torch.tensor(advantage, dtype=dtype)[:, None].expand(logp_BT.shape)
    draw_BT = torch.arange(logp_BT.numel(), dtype=dtype).reshape(logp_BT.shape) / logp_BT.numel()
    ones_BT = torch.ones_like(logp_BT)
    return Scored(
        logp_BT, logp_BT, logp_BT, advantage_BT, keep_BT, ones_BT, draw_BT, torch.tensor(groups), max(groups) + 1
    )


def test_the_kernel_by_hand() -> None:
    # logp -1, -3, -1, -3 (mean -2), A 1, 1, -1, -1 (mean 0): c = 1, -1, -1, 1; all |c| agree, so the kernel is flat
    flat = make("weight", "covariance_kernel")(tokens([[-1, -3], [-1, -3]], [1, -1], [0, 0]))
    assert flat.flatten().tolist() == pytest.approx([1.0] * 4)
    # logp -1, -3, -5, 9 (not selected): mean -3; A 1, 1, 1 centred is 0: no covariance at all
    assert make("weight", "covariance_kernel")(tokens([[-1, -3, -5, 9]], [1], [0]))[0, :3].tolist() == [1.0, 1.0, 1.0]
    # logp 0, -2 and -4, 0: mean -1.5; A 1, 1, -1, -1: c = 1.5, -0.5, 2.5, -1.5, mean 0.5, s^2 = 2.5
    found = make("weight", "covariance_kernel")(tokens([[0, -2], [-4, 0]], [1, -1], [0, 0]))
    kernel = [math.exp(-(c**2) / 5) for c in (1.5, -0.5, 2.5, -1.5)]
    expected = [4 * k / sum(kernel) for k in kernel]
    assert found.flatten().tolist() == pytest.approx(expected)


def test_covariances_that_differ_by_rounding_alone_count_once_each() -> None:
    # c = 1e8 (1, 1, -1, -1)(1 + 1e-9 noise): s is not small beside them, so exact equality is a group of one sign
    logp = [[-1.0, -1.0 - 1e-12], [-3.0, -3.0 + 1e-12]]  # A = 1 and -1: c = 1, 1, 1, 1 but for 1e-12
    weights = make("weight", "covariance_kernel")(tokens(logp, [1, -1], [0, 0]))
    assert weights.tolist() == [[1.0, 1.0], [1.0, 1.0]]


def test_the_scope_says_whose_statistics() -> None:
    rows = ([[0.0, -2.0], [-4.0, 0.0], [-1.0, -7.0], [-2.0, -3.0]], [1.0, -1.0, 3.0, -2.0], [0, 0, 1, 1])
    alone = make("weight", "covariance_kernel")(tokens(rows[0][:2], rows[1][:2], [0, 0]))
    group = make("weight", "covariance_kernel")(tokens(*rows))
    step = make("weight", "covariance_kernel", scope="step")(tokens(*rows))
    assert torch.allclose(group[:2], alone)
    assert not torch.allclose(step[:2], alone)
    assert step.sum().item() == pytest.approx(8.0)
    assert [group[:2].sum().item(), group[2:].sum().item()] == pytest.approx([4.0, 4.0])


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_covariances_of_any_size_leave_finite_weights(scale: float) -> None:
    rows = tokens([[0.0, -2.0], [-4.0, 0.0]], [scale, -scale], [0, 0], torch.float32)
    plain = make("weight", "covariance_kernel")(tokens([[0.0, -2.0], [-4.0, 0.0]], [1.0, -1.0], [0, 0], torch.float32))
    assert torch.allclose(make("weight", "covariance_kernel")(rows), plain, rtol=1e-4)


def test_nothing_selected_has_weights_too() -> None:
    rows = tokens([[9.0, 9.0], [9.0, 9.0]], [1.0, -1.0], [0, 0])
    for name in ("covariance_kernel", "covariance_clip"):
        assert torch.isfinite(make("weight", name)(rows)).all()


def test_the_clip_drops_the_share_with_the_smallest_draws_in_the_range() -> None:
    # c = 1.5, -0.5, 2.5, -1.5; draws 0, 1/4, 1/2, 3/4; within [1, 5] the first and third; floor(0.25 x 4) = 1 of them
    rows = tokens([[0, -2], [-4, 0]], [1, -1], [0, 0])
    assert make("weight", "covariance_clip", ratio=0.25)(rows).tolist() == [[0.0, 1.0], [1.0, 1.0]]
    assert make("weight", "covariance_clip", ratio=1.0)(rows).tolist() == [[0.0, 1.0], [0.0, 1.0]]
    assert make("weight", "covariance_clip", ratio=0.24)(rows).tolist() == [[1.0, 1.0], [1.0, 1.0]]
    assert make("weight", "covariance_clip", ratio=1.0, cov_low=1.5, cov_high=1.5)(rows).tolist() == [[0, 1], [1, 1]]
    assert make("weight", "covariance_clip", ratio=0.5, cov_low=-9)(rows).tolist() == [[0.0, 0.0], [1.0, 1.0]]
