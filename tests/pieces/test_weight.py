"""Weights."""

from tessera.pieces import make


def test_uniform_weighs_every_token_once(one_row):
    weight_BT = make("weight", "uniform")(one_row([-1.0, -20.0], advantage=[0.0, 3.0]))
    assert weight_BT.tolist() == [[1.0, 1.0]]
    assert weight_BT.dtype == one_row([-1.0]).logp_BT.dtype
