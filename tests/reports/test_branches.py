"""The trie as it is drawn: branches, what they are called, and their numbers."""

from __future__ import annotations

from types import SimpleNamespace

from hypothesis import given
from hypothesis import strategies as st

from tessera.core.trie import build_trie
from tessera.reports.branches import LONGEST, branches


def test_a_branch_is_what_no_completion_leaves(made: SimpleNamespace) -> None:
    rows = [(["x", "yy", "zzz"], 1.0), (["x", "yy", "aaaa", "x"], 0.0), (["x", "yy"], 0.5), (["bb\n"], 0.5)]
    assert branches(made.group(1, *(made.rollout(texts, reward) for texts, reward in rows))) == [
        [-1, "", 0, 4, 0.5, 0.0, 0, -1],
        [0, "xyy", 2, 3, 0.5, 0.0, 0, 0],  # (1 + 0 + 0.5) / 3, as at the prompt
        [1, "zzz", 1, 1, 1.0, 0.5, 0, 2],
        [1, "aaaax", 2, 1, 0.0, -0.5, 1, 2],
        [0, "bb↵", 1, 1, 0.5, 0.0, 3, 0],
    ]


def test_completions_that_are_all_alike_are_one_branch(made: SimpleNamespace) -> None:
    found = branches(made.group(1, made.rollout(["a", "bb"]), made.rollout(["a", "bb"], 0.0)))
    assert found[1:] == [[0, "abb", 2, 2, 0.5, 0.0, 0, 0]]
    assert branches(made.group(1, made.rollout([])))[1:] == []


def test_long_and_strange_texts_are_cut_and_shown(made: SimpleNamespace) -> None:
    (_, (_, text, *_)) = branches(made.group(1, made.rollout(["w" * 20, "\x00" * 9])))
    assert text == "w" * 20 + "␀" * (LONGEST - 21) + "…"


LETTERS = st.tuples(st.text("ab", max_size=5), st.sampled_from([0.0, 0.5, 1.0]))


@given(st.lists(LETTERS, min_size=1, max_size=6))
def test_the_branches_hold_every_token_once(rows: list[tuple[str, float]]) -> None:
    rollouts = [{"ids": [ord(c) for c in text], "texts": list(text), "reward": reward} for text, reward in rows]
    found = branches({"rollouts": rollouts})
    trie = build_trie([r["ids"] for r in rollouts], [reward for _, reward in rows])
    assert sum(length for _, _, length, *_ in found) == len(trie.parent) - 1
    for n, (parent, text, length, count, mean, _, i, t) in enumerate(found[1:], start=1):
        assert 0 <= parent < n and len(text) == length
        through = [reward for other, reward in rows if other.startswith(rows[i][0][: t + length])]
        assert count == len(through)
        assert abs(mean - sum(through) / count) < 1e-3
