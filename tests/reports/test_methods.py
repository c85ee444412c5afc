"""Other algorithms on recorded rollouts."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from tessera.algorithms import registered
from tessera.algorithms.s_grpo import SGRPOConfig
from tessera.core.errors import UserError
from tessera.reports.methods import methods
from tessera.reports.summary import Row


@pytest.fixture
def row(made: SimpleNamespace) -> Row:
    """Two completions of rewards 1 and 0; the second called a tool, whose two tokens the policy did not write."""
    right = made.rollout(["a", "bb", "ccc"], old=[-0.5, -0.75, None], new=[-0.5, -0.5, None])
    called = made.rollout(["a", "dddd", "ee", "f"], 0.0, sampled=[1, 0, 0, 1], sampler=[-0.5, None, None, -1.0])
    called |= {name: [-0.5, None, None, None] for name in ("new", "old")} | {"finish_reason": "length"}
    found: Row = made.group(1, right, called)
    return found


def test_grpo_by_hand(row: Row) -> None:
    found = methods(["grpo"])["grpo"](row)
    # rewards 1 and 0: mean 1/2, standard deviation sqrt(1/2), so advantages of +-0.5 / (sqrt(0.5) + 1e-4)
    a = 0.5 / (0.5**0.5 + 1e-4)
    assert found.advantage[0] == pytest.approx([a] * 3)
    assert [found.advantage[1][t] for t in (0, 3)] == pytest.approx([-a] * 2)
    assert found.selected == [[1, 1, 1], [1, 0, 0, 1]]
    assert found.weight[0] == [1.0] * 3
    # the second token's ratio is e^0.25, above 1 + 0.2: clipped, no gradient; means over 3 and 2 tokens, and 2 rows
    assert found.push[0] == pytest.approx([a / 6, 0.0, a / 6])
    assert found.push[1] == pytest.approx([-a / 4, 0.0, 0.0, -a / 4])


def test_the_reference_is_used_where_the_run_scored_it(made: SimpleNamespace) -> None:
    import math

    rollouts = [made.rollout(["a"], 1.0, ref=[-1.5]), made.rollout(["a"], 1.0)]
    found = methods(["s_grpo"])["s_grpo"](made.group(1, *rollouts))
    beta = SGRPOConfig().beta
    assert beta > 0
    # equal rewards: what pushes is beta (e^d - 1), d = ref - logp = -1, for the first alone
    expected = beta * math.expm1(-1.0) / 2
    assert found.push[1] == pytest.approx([0.0])
    assert found.push[0] == pytest.approx([expected], rel=1e-6, abs=1e-12)


@pytest.mark.parametrize("name", sorted(registered()))
def test_every_algorithm_has_its_lines(row: Row, name: str) -> None:
    found = methods([name])[name](row)
    for lines in found:
        assert [len(line) for line in lines] == [3, 4]
    assert found.selected[1][1:3] == [0, 0]
    assert found.push[1][1:3] == [0.0, 0.0]
    assert any(push for line in found.push for push in line)
    assert methods([name])[name](row) == found  # nothing is left to chance


def test_a_group_of_one_is_refused_by_name(made: SimpleNamespace) -> None:
    with pytest.raises(UserError, match="grpo"):
        methods(["grpo"])["grpo"](made.group(1, made.rollout(["a"])))


def test_names_are_checked() -> None:
    assert methods([]) == {}
    with pytest.raises(UserError, match=r"unknown algorithm 'tr_gpro'.*tr_grpo"):
        methods(["grpo", "tr_gpro"])
    with pytest.raises(UserError, match="names one twice: grpo,grpo"):
        methods(["grpo", "grpo"])
