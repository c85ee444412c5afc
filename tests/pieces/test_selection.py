"""Selections, by hand and against a plain scan."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tessera.core.batch import make_batch
from tessera.core.errors import UserError
from tessera.core.seeding import generator
from tessera.pieces import make


def select(batch, name, seed=0, **config):
    advantage_BT = make("advantage", "prefix_value")(batch)
    return make("selection", name, **config)(batch, advantage_BT, generator(seed)).int().tolist()


def stochastic(batch, cutoff, max_selected, probability, seed=0):
    rule = {"cutoff": cutoff, "max_selected": max_selected, "probability": probability}
    return select(batch, "stochastic_prefix", seed, **rule)


@pytest.fixture
def eight(written):
    """Two completions of eight policy tokens; the second has tool output at positions 1 and 2."""
    return written((0, 1, list(range(8))), (0, 0, [0, [50], [51], *range(1, 8)]))


def test_all_is_what_the_policy_wrote(eight):
    assert select(eight, "all") == [[1] * 8 + [0, 0], [1, 0, 0] + [1] * 7]


def test_with_probability_zero_only_the_first_tokens_remain(eight):
    # t counts policy tokens: the second row's third one (t = 2) stands at position 4
    assert stochastic(eight, 3, 100, 0.0) == [[1, 1, 1, 0, 0, 0, 0, 0, 0, 0], [1, 0, 0, 1, 1, 0, 0, 0, 0, 0]]


def test_with_probability_one_later_tokens_fill_up_to_the_maximum(eight):
    # two early tokens, then t = 2, 3, 4 until |T| = 5
    assert stochastic(eight, 2, 5, 1.0) == [[1, 1, 1, 1, 1, 0, 0, 0, 0, 0], [1, 0, 0, 1, 1, 1, 1, 0, 0, 0]]
    assert stochastic(eight, 0, 100, 1.0) == select(eight, "all")
    assert stochastic(eight, 0, 0, 1.0) == [[0] * 10] * 2


def test_the_cutoff_wins_over_the_maximum(eight):
    # alpha = 4 > k = 2: four tokens always, and no room for another
    assert stochastic(eight, 4, 2, 1.0) == [[1, 1, 1, 1, 0, 0, 0, 0, 0, 0], [1, 0, 0, 1, 1, 1, 0, 0, 0, 0]]
    assert stochastic(eight, 4, 4, 1.0) == stochastic(eight, 4, 2, 1.0)


def test_the_defaults_are_the_published_ones(written):
    # alpha = 50, k = 100, P = 0.15 on 2000 tokens: 50 always, then 50 more, found long before the end
    batch = written((0, 1, [1] * 2000))
    (row,) = select(batch, "stochastic_prefix")
    assert row[:50] == [1] * 50
    assert sum(row) == 100
    assert (row,) == tuple(stochastic(batch, 50, 100, 0.15))


def test_the_empirical_rate_is_the_probability(written):
    # 20 rows of 500 tokens after the cutoff: 10,000 draws of P = 0.3; three standard deviations are 0.0137
    batch = written(*[(0, 1, [1] * 510) for _ in range(20)])
    rows = stochastic(batch, 10, 1000, 0.3)
    assert all(row[:10] == [1] * 10 for row in rows)
    assert sum(sum(row[10:]) for row in rows) / 10_000 == pytest.approx(0.3, abs=0.0137)
    assert len({tuple(row) for row in rows}) == 20  # every row has draws of its own


def test_each_late_token_of_a_completion_is_as_likely_as_any_other(written):
    # 2,000 completions of 4 tokens, P = 1/2, room for all: each position in half of them, +- 0.034 (3 sd)
    batch = written(*[(0, 1, [1, 2, 3, 4]) for _ in range(2000)])
    rate = torch.tensor(stochastic(batch, 0, 4, 0.5)).double().mean(dim=0)
    assert rate.tolist() == pytest.approx([0.5] * 4, abs=0.034)


def test_a_seed_is_a_selection(eight):
    assert stochastic(eight, 1, 9, 0.5, seed=3) == stochastic(eight, 1, 9, 0.5, seed=3)
    assert len({str(stochastic(eight, 1, 9, 0.5, seed=s)) for s in range(8)}) == 8


def scan(mask, draws, cutoff, max_selected, probability):
    """The rule as the paper reads, one token at a time; `draws` iterates over one uniform number a policy token."""
    selected = []
    for row in mask:
        t, chosen, out = 0, 0, []
        for written_by_policy in row:
            take = False
            if written_by_policy:
                u = next(draws)
                take = t < cutoff or (chosen < max_selected and u < probability)
                t, chosen = t + 1, chosen + take
            out.append(int(take))
        selected.append(out)
    return selected


@settings(max_examples=60, deadline=None)
@given(
    masks=st.lists(st.lists(st.booleans(), max_size=12), min_size=1, max_size=5),
    cutoff=st.integers(0, 6),
    max_selected=st.integers(0, 8),
    probability=st.sampled_from([0.0, 0.2, 0.5, 1.0]),
    padding=st.integers(0, 3),
)
def test_the_rule_equals_a_plain_scan_and_padding_moves_no_draw(masks, cutoff, max_selected, probability, padding):
    width = max(len(row) for row in masks) + padding
    padded = [row + [False] * (width - len(row)) for row in masks]
    batch = make_batch([[1] * width for _ in masks], padded, [0.0] * len(masks), [0] * len(masks))
    draws = torch.rand(sum(map(sum, masks)), generator=generator(4), dtype=torch.float64).tolist()
    expected = scan(padded, iter(draws), cutoff, max_selected, probability)
    assert stochastic(batch, cutoff, max_selected, probability, seed=4) == expected


def test_unique_pairs_by_hand(written):
    # rewards 1, 0, 0, 1. The pair (root, 1) is written three times and counts once, for the first row; (1, 2) twice.
    batch = written((0, 1, [1, 2]), (0, 0, [1, 3]), (0, 0, [1, 2, 4]), (0, 1, [5]))
    assert select(batch, "unique_pairs", pairs="all") == [[1, 1, 0], [0, 1, 0], [0, 0, 1], [1, 0, 0]]
    assert select(batch, "unique_pairs") == [[1, 1, 0], [0, 1, 0], [0, 0, 1], [1, 0, 0]]  # every A differs from 0


def test_informative_leaves_out_pairs_that_change_nothing(written):
    # root 1/2, then 1 (mean 1/2: A = 0), branching into 2 (A = 1/2) and 3 (A = -1/2), then tails with A = 0
    batch = written((0, 1, [1, 2, 7, 8]), (0, 0, [1, 3, 9]))
    assert select(batch, "unique_pairs", pairs="all") == [[1, 1, 1, 1], [0, 1, 1, 0]]
    assert select(batch, "unique_pairs", pairs="informative") == [[0, 1, 0, 0], [0, 1, 0, 0]]
    assert select(batch, "unique_pairs") == select(batch, "unique_pairs", pairs="informative")


def test_duplicate_completions_count_once(written):
    batch = written((0, 1, [1, 2]), (0, 1, [1, 2]), (0, 0, [1, 2]), (0, 0, [3]))
    assert select(batch, "unique_pairs", pairs="all") == [[1, 1], [0, 0], [0, 0], [1, 0]]


def test_a_pair_counts_once_in_each_group(written):
    batch = written((0, 1, [1]), (1, 1, [1]), (0, 0, [2]), (1, 0, [2]))
    assert select(batch, "unique_pairs") == [[1], [1], [1], [1]]


def test_tool_output_is_never_a_pair(written):
    # the tool's 8 and 9 part the completions; after them 2 is written under two different prefixes: two pairs
    batch = written((0, 1, [1, [8], 2]), (0, 0, [1, [9], 2]))
    assert select(batch, "unique_pairs", pairs="all") == [[1, 0, 1], [0, 0, 1]]
    assert select(batch, "unique_pairs") == [[0, 0, 0], [0, 0, 0]]  # none of them the policy's doing


def test_a_pair_stands_where_the_policy_wrote_it(written):
    # in row 0 the tool put the 8, in row 1 the policy wrote it: the pair (1, 8) is the policy's, in row 1
    batch = written((0, 1, [1, [8], 2]), (0, 0, [1, 8, 3]))
    assert select(batch, "unique_pairs", pairs="all") == [[1, 0, 1], [0, 1, 1]]


def test_one_completion_may_be_a_prefix_of_another(written):
    # root (1 + 0) / 2, through 1 both; the longer one goes on with 2: A = 0 - 1/2
    batch = written((0, 1, [1]), (0, 0, [1, 2]))
    assert select(batch, "unique_pairs", pairs="all") == [[1, 0], [0, 1]]
    assert select(batch, "unique_pairs") == [[0, 0], [0, 1]]


def test_rewards_next_to_each_other_are_informative(written):
    assert select(written((0, 0.1 + 0.2, [1]), (0, 0.3, [2])), "unique_pairs") == [[1], [1]]
    assert select(written((0, 0.3, [1]), (0, 0.3, [2])), "unique_pairs") == [[0], [0]]


def test_complete_leaves_out_what_was_cut(written):
    batch = replace(written((0, 1, [1, 2]), (0, 0, [3, [4], 5])), truncated_B=torch.tensor([True, False]))
    assert select(batch, "complete") == [[0, 0, 0], [1, 0, 1]]
    with pytest.raises(UserError, match="complete needs truncated"):
        select(replace(batch, truncated_B=None), "complete")


def test_high_entropy_takes_a_share_of_the_step_or_of_each_group_rounded_up(written):
    batch = written((0, 1, [1, [2], 3]), (0, 0, [4, 5]), (1, 1, [6, 7]), (1, 0, [8]))
    entropy_BT = torch.tensor([[5.0, 99.0, 1.0], [4.0, 3.0, 99.0], [2.0, 0.5, 99.0], [2.0, 99.0, 99.0]])
    batch = replace(batch, entropy_BT=entropy_BT)  # 99 where the policy wrote nothing
    # 7 tokens: 2/7 of them are two, those of 5 and 4; 3/7 + a little are four, and two tie for the fourth place
    assert select(batch, "high_entropy", fraction=2 / 7) == [[1, 0, 0], [1, 0, 0], [0] * 3, [0] * 3]
    assert select(batch, "high_entropy", fraction=0.45) == [[1, 0, 0], [1, 1, 0], [1, 0, 0], [1, 0, 0]]
    # a quarter of four, and of three, rounded up: one each, and what ties with it
    by_group = select(batch, "high_entropy", fraction=0.25, scope="group")
    assert by_group == [[1, 0, 0], [0] * 3, [1, 0, 0], [1, 0, 0]]
    with pytest.raises(UserError, match="high_entropy needs entropy"):
        select(replace(batch, entropy_BT=None), "high_entropy")


def test_a_random_fraction_is_one_of_the_policys_tokens(written):
    batch = written((0, 1, [1] * 4000), (0, 0, [[2]] * 4000))
    mine, tools = select(batch, "random_fraction", fraction=0.3)
    assert sum(mine) == pytest.approx(1200, abs=5 * (4000 * 0.3 * 0.7) ** 0.5)
    assert not any(tools)
    assert select(batch, "random_fraction", seed=1, fraction=0.3) != [mine, tools]
    assert select(batch, "random_fraction", fraction=1.0)[0] == [1] * 4000
