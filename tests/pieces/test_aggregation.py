"""Aggregations: the denominators, by hand."""

import pytest
import torch

from tessera.pieces import make


@pytest.fixture
def step(written):
    """Group 0: rows of 2 and 1 tokens; group 1: rows of 3, 0 and 2. Six of the eight tokens are selected, and of
    group 1's second row none: 2, 1 | 2, 0, 1."""
    batch = written((0, 1, [1, 2]), (0, 0, [1]), (1, 1, [1, 2, 3]), (1, 0, []), (1, 0, [1, 2]))
    selected = torch.tensor([[1, 1, 0], [1, 0, 0], [1, 0, 1], [0, 0, 0], [0, 1, 0]]).bool()
    return batch, selected


def share(step, name, **config):
    return make("aggregation", name, **config)(*step)


def expect(step, per_row):
    """Each row's coefficient at its selected positions, 0 elsewhere."""
    return torch.tensor(per_row, dtype=torch.float64)[:, None] * step[1]


def close(a, b):
    torch.testing.assert_close(a, b, rtol=0, atol=1e-16)


def test_sequence_mean_is_a_mean_over_groups_rows_and_selected_tokens(step):
    # 2 groups; group 0 has 2 rows, group 1 three, the empty one among them
    rows = [1 / (2 * 2 * 2), 1 / (2 * 2 * 1), 1 / (2 * 3 * 2), 0, 1 / (2 * 3 * 1)]
    close(share(step, "sequence_mean"), expect(step, rows))


def test_token_mean_is_a_mean_over_groups_of_means_over_selected_tokens(step):
    # three selected tokens in either group
    close(share(step, "token_mean"), expect(step, [1 / (2 * 3)] * 5))
    batch, selected = step
    fewer = selected.clone()
    fewer[0] = False  # now one in group 0
    close(share((batch, fewer), "token_mean"), expect((batch, fewer), [1 / 2, 1 / 2, 1 / 6, 1 / 6, 1 / 6]))


def test_batch_token_mean_is_a_mean_over_all_selected_tokens_of_the_step(step):
    close(share(step, "batch_token_mean"), expect(step, [1 / 6] * 5))


def test_fixed_length_divides_by_rows_and_the_length_limit(step):
    rows = [1 / (2 * 2 * 10)] * 2 + [1 / (2 * 3 * 10)] * 3
    close(share(step, "fixed_length", max_tokens=10), expect(step, rows))


@pytest.mark.parametrize(
    ("name", "config"),
    [("sequence_mean", {}), ("token_mean", {}), ("batch_token_mean", {}), ("fixed_length", {"max_tokens": 4})],
)
def test_nothing_selected_is_a_share_of_nothing(step, name, config):
    batch, selected = step
    out = make("aggregation", name, **config)(batch, torch.zeros_like(selected))
    assert out.dtype == torch.float64
    assert out.tolist() == torch.zeros(5, 3).tolist()


@pytest.mark.parametrize("name", ["token_mean", "batch_token_mean"])
def test_shares_of_a_mean_over_tokens_sum_to_one(step, name):
    assert share(step, name).sum().item() == pytest.approx(1.0, abs=1e-15)


def test_shares_are_in_double_precision(step):
    assert share(step, "sequence_mean").dtype == torch.float64
