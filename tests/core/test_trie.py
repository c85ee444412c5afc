"""The prefix trie and its exact differences of means."""

import time
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tessera.core.trie import ROOT, build_trie


def advantages(trie, row):
    return [trie.advantage(node) for node in trie.paths[row]]


def test_a_small_trie_by_hand():
    #            root: 4 completions, mean 2/4
    #   1: 3 completions, mean 1/3          5: 1 completion, mean 1
    #   1.2: 2, mean 1/2   1.3: 1, mean 0
    #   1.2.4: 1, mean 0
    trie = build_trie([[1, 2], [1, 3], [1, 2, 4], [5]], [1, 0, 0, 1])
    assert trie.parent == (ROOT, 0, 1, 1, 2, 0)
    assert trie.token == (-1, 1, 2, 3, 4, 5)
    assert trie.depth == (0, 1, 2, 2, 3, 1)
    assert trie.count == (4, 3, 2, 1, 1, 1)
    assert trie.total == (2, 1, 1, 0, 0, 1)
    assert trie.denominator == 1
    assert trie.paths == ((1, 2), (1, 3), (1, 2, 4), (5,))
    assert advantages(trie, 0) == [-1 / 6, 1 / 6]  # 1/3 - 1/2, 1/2 - 1/3
    assert advantages(trie, 1) == [-1 / 6, -1 / 3]  # ..., 0 - 1/3
    assert advantages(trie, 2) == [-1 / 6, 1 / 6, -1 / 2]  # ..., 0 - 1/2: row 0 is a prefix of row 2 and counts above
    assert advantages(trie, 3) == [1 / 2]  # 1 - 1/2


def test_nothing_is_learnt_below_the_last_branch():
    trie = build_trie([[1, 2, 3], [4, 5]], [1.0, 0.25])
    assert advantages(trie, 0) == [0.375, 0.0, 0.0]  # 1 - 0.625
    assert advantages(trie, 1) == [-0.375, 0.0]


def test_identical_completions_share_every_node():
    trie = build_trie([[1, 2], [1, 2], [3]], [1, 0, 0])
    assert trie.paths[0] == trie.paths[1]
    assert trie.count == (3, 2, 2, 1)
    assert advantages(trie, 0) == [1 / 6, 0.0]  # 1/2 - 1/3, rounded once


def test_an_empty_completion_counts_at_the_root_only():
    trie = build_trie([[], [1]], [1.0, 0.0])
    assert trie.paths == ((), (1,))
    assert trie.count == (2, 1)
    assert advantages(trie, 1) == [-0.5]  # 0 - (1 + 0) / 2


def test_equal_means_are_zero_although_float_means_differ():
    # through 9.1: 0.1 three times; through 9: 0.1 four times. Floats: (0.1+0.1+0.1)/3 = 0.10000000000000002 != 0.1
    rows, rewards = [[9, 1], [9, 1], [9, 1], [9, 2], [4]], [0.1, 0.1, 0.1, 0.1, 1.0]
    assert sum(rewards[:3]) / 3 != sum(rewards[:4]) / 4
    trie = build_trie(rows, rewards)
    assert advantages(trie, 0)[1] == 0.0
    assert advantages(trie, 3)[1] == 0.0
    assert advantages(trie, 0)[0] != 0.0


def test_unequal_means_are_not_zero_although_float_means_agree():
    # 0.1 + 0.2 is the float next above 0.3, 2^-54 away; the mean of the two lies between them and is no float
    a, b = 0.1 + 0.2, 0.3
    assert (a + b) / 2 in (a, b)  # so float arithmetic calls one of the two differences 0
    trie = build_trie([[1], [2]], [a, b])
    assert advantages(trie, 0) == [2.0**-55]
    assert advantages(trie, 1) == [-(2.0**-55)]


def test_no_rows():
    trie = build_trie([], [])
    assert trie.paths == ()
    assert trie.count == (0,)


def test_one_reward_for_each_row():
    with pytest.raises(ValueError, match="zip"):
        build_trie([[1], [2]], [1.0])


def plain_advantage(rows, rewards, prefix):
    """Means over the completions that start with a prefix, by looking at all of them, in exact fractions."""

    def mean(p):
        through = [Fraction(r) for row, r in zip(rows, rewards, strict=True) if row[: len(p)] == p]
        return sum(through) / len(through)

    return mean(prefix) - mean(prefix[:-1])


reward = st.one_of(st.sampled_from([0.0, 1.0, 0.1, 0.3, 1e-300, 1e37]), st.floats(-1e38, 1e38))
row = st.lists(st.integers(0, 2), max_size=6)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(row, reward), min_size=1, max_size=8))
def test_every_pair_equals_the_plain_definition(group):
    rows, rewards = [r for r, _ in group], [x for _, x in group]
    trie = build_trie(rows, rewards)
    for i, tokens in enumerate(rows):
        for t in range(len(tokens)):
            exact = plain_advantage(rows, rewards, tokens[: t + 1])
            got = trie.advantage(trie.paths[i][t])
            assert got == float(exact)
            assert (got == 0.0) == (exact == 0 or abs(exact) < Fraction(5e-324) / 2)


def test_a_large_group_is_built_in_a_couple_of_seconds():
    rows = [[(i * 7 + t // 512 * i) % 5 if t < 8 else t % 97 for t in range(4096)] for i in range(64)]
    start = time.process_time()
    trie = build_trie(rows, [float(i % 3) / 7 for i in range(64)])
    values = [trie.advantage(node) for path in trie.paths for node in path]
    assert time.process_time() - start < 4
    assert len(values) == 64 * 4096
