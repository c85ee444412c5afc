"""Weights."""

from math import exp, log

import pytest

from tessera.pieces import make


def test_uniform_weighs_every_token_once(one_row):
    weight_BT = make("weight", "uniform")(one_row([-1.0, -20.0], advantage=[0.0, 3.0]))
    assert weight_BT.tolist() == [[1.0, 1.0]]
    assert weight_BT.dtype == one_row([-1.0]).logp_BT.dtype


def test_likely_tokens_weigh_more_within_bounds(one_row):
    def sigmoid(x):
        return 1 / (1 + exp(-x))

    scored = one_row([log(p) for p in (0.01, 0.2, 0.9)])
    shaped = make("weight", "token_regulated")(scored)[0].tolist()
    assert shaped == pytest.approx([1.0, 2 * (sigmoid(1.8) - 0.25), 1.4])
    assert make("weight", "token_regulated", scale="divide")(scored)[0].tolist() == [1.0] * 3  # as printed: GRPO
    wide = make("weight", "token_regulated", lower=0.0, upper=9.0, scale="divide")(scored)[0].tolist()
    assert wide == pytest.approx([2 * (sigmoid(p / 9) - 0.25) for p in (0.01, 0.2, 0.9)])


def test_the_controls_of_the_probability_weight(one_row):
    scored = one_row([log(p) for p in (0.01, 0.2, 0.9)])
    shaped, equal, random, reverse = (
        make("weight", "token_regulated", variant=v)(scored)[0] for v in ("shaped", "equal", "random", "reverse")
    )
    assert equal.tolist() == [1.0] * 3
    assert (reverse + shaped).tolist() == pytest.approx([2.0] * 3)
    assert random.tolist() == [0.5] * 3  # 1/2 above a draw in [0, 1), which is 0 here
