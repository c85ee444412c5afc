"""The covariance of a token, by hand."""

import torch

from tessera.core.batch import Scored
from tessera.core.covariance import covariance

NAN = float("nan")


def test_it_is_centred_over_the_tokens_of_the_group_or_of_the_step():
    logp_BT = torch.tensor([[-1.0, -3.0], [-2.0, NAN], [-6.0, -8.0]], requires_grad=True)
    advantage_BT = torch.tensor([[1.0, 1.0], [-5.0, NAN], [2.0, 4.0]])
    selected_BT = torch.tensor([[True, True], [True, False], [True, True]])
    ones_BT = torch.ones(3, 2)
    group_B = torch.tensor([0, 0, 1])
    scored = Scored(logp_BT, logp_BT, logp_BT, advantage_BT, selected_BT, ones_BT, ones_BT, group_B, 2)
    # group 0: means -2 and -1; group 1: -7 and 3
    by_group_BT, of_B, n = covariance(scored, "group")
    assert by_group_BT.tolist() == [[1 * 2, -1 * 2], [0.0, 0.0], [1 * -1, -1 * 1]]
    assert (of_B.tolist(), n) == ([0, 0, 1], 2)
    # the step: means -4 and 3/5
    by_step_BT, of_B, n = covariance(scored, "step")
    expected = torch.tensor([[3 * 0.4, 1 * 0.4], [2 * -5.6, 0.0], [-2 * 1.4, -4 * 3.4]])
    torch.testing.assert_close(by_step_BT, expected)
    assert (of_B.tolist(), n) == ([0, 0, 0], 1)
    assert not by_group_BT.requires_grad
