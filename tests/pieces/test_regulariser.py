"""Regularisers: value and gradient, by hand."""

from math import exp, log

import pytest
import torch

from tessera.pieces import make
from tessera.pieces.regulariser import kl_estimate


def penalty(scored, **config):
    return make("regulariser", "kl", **config)(scored)


# ref / pi = 2 and 1/4: d = log 2 and -log 4
D = [log(2), -log(4)]


@pytest.mark.parametrize(
    ("estimator", "value", "gradient"),
    [
        ("k1", [-log(2), log(4)], [1.0, 1.0]),  # -d; d/dlogp = 1
        ("k2", [log(2) ** 2 / 2, log(4) ** 2 / 2], [-log(2), log(4)]),  # d^2 / 2; -d
        ("k3", [2 - log(2) - 1, 0.25 + log(4) - 1], [1 - 2, 1 - 0.25]),  # e^d - d - 1; 1 - e^d
    ],
)
def test_each_estimator_and_its_gradient(one_row, estimator, value, gradient):
    logp = torch.tensor([-1.0, -1.0], dtype=torch.float64, requires_grad=True)
    out = penalty(one_row(logp, ref=[-1 + d for d in D]), beta=0.5, estimator=estimator)
    assert out[0].tolist() == pytest.approx([0.5 * v for v in value], abs=1e-15)
    (got,) = torch.autograd.grad(out.sum(), logp)
    assert got.tolist() == pytest.approx([0.5 * g for g in gradient], abs=1e-15)


def test_kl_defaults_to_k3_and_the_papers_strength(one_row):
    scored = one_row([-1.0, -1.0], ref=[-1 + d for d in D])
    assert torch.equal(penalty(scored), penalty(scored, beta=0.01, estimator="k3"))
    assert torch.equal(kl_estimate(torch.tensor(D)), kl_estimate(torch.tensor(D), "k3"))


def test_at_the_reference_value_and_gradient_are_exactly_zero(one_row):
    for estimator in ("k2", "k3"):
        logp = torch.tensor([-0.1, -3.7], dtype=torch.float64, requires_grad=True)
        out = penalty(one_row(logp), beta=1.0, estimator=estimator)
        assert out.tolist() == [[0.0, 0.0]]
        assert torch.autograd.grad(out.sum(), logp)[0].tolist() == [0.0, 0.0]


def test_k3_is_exact_for_small_differences():
    # e^d - d - 1 = d^2/2 + d^3/6 + ...; computed as written, 1e-9 would leave nothing but rounding
    for d in (1e-9, -1e-6):
        got = kl_estimate(torch.tensor(d, dtype=torch.float64)).item()
        assert got == pytest.approx(d * d / 2, rel=1e-3, abs=1e-24)
        assert got >= 0


def test_k3_stays_finite_far_from_the_reference():
    difference = torch.tensor([60.0, 1e4], requires_grad=True)
    value = kl_estimate(difference)
    assert value.tolist() == pytest.approx([exp(60) - 61] * 2, rel=1e-6)
    assert torch.isfinite(torch.autograd.grad(value.sum(), difference)[0]).all()


def test_none_is_no_penalty(one_row):
    assert make("regulariser", "none")(one_row([-1.0, -2.0], ref=[0.0, 0.0])).tolist() == [[0.0, 0.0]]
    assert make("regulariser", "none").needs == set()


def test_l2_sums_the_squares_of_all_matrices():
    # (1 + 4 + 9) + (16) = 30, times 0.1; gradient 2 * 0.1 * W
    a = torch.tensor([[1.0, 2.0], [3.0, 0.0]], dtype=torch.float64, requires_grad=True)
    b = torch.tensor([[4.0]], dtype=torch.float64, requires_grad=True)
    value = make("regulariser", "l2", strength=0.1)([a, b])
    assert value.item() == pytest.approx(3.0, abs=1e-15)
    value.backward()
    assert a.grad.tolist() == [[0.2, 0.4], [pytest.approx(0.6), 0.0]]
    assert b.grad.tolist() == [[0.8]]


def test_l2_defaults_to_the_papers_strength():
    assert make("regulariser", "l2")([torch.tensor([[10.0]])]).item() == pytest.approx(1.0, rel=1e-6)


def test_each_says_what_it_needs():
    assert make("regulariser", "kl").needs == {"ref_logp"}
    assert make("regulariser", "l2").needs == {"parameters"}


def test_the_printed_weighted_penalty_pulls_away_from_the_reference_and_the_scaled_one_does_not(one_row):
    logp = torch.tensor([-1.0, -1.0], dtype=torch.float64, requires_grad=True)
    scored = one_row(logp, ref=[-1.0, -1.0 + log(2)], weight=[1.4, 1.4])  # r = 1 and 2
    printed_BT = make("regulariser", "weighted_kl", beta=0.5)(scored)
    scaled_BT = make("regulariser", "scaled_kl", beta=0.5)(scored)
    expected = [0.5 * (1.4 * r - log(1.4 * r) - 1) for r in (1, 2)]
    assert printed_BT[0].tolist() == pytest.approx(expected)
    assert scaled_BT[0].tolist() == pytest.approx([0.0, 0.5 * 1.4 * (2 - log(2) - 1)])
    (gradient,) = torch.autograd.grad(printed_BT.sum(), logp)
    assert gradient.tolist() == pytest.approx([0.5 * (1 - 1.4), 0.5 * (1 - 2.8)])
    (gradient,) = torch.autograd.grad(scaled_BT.sum(), logp)
    assert gradient.tolist() == pytest.approx([0.0, 0.5 * 1.4 * (1 - 2)])
