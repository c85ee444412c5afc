"""The penalty on long completions."""

from __future__ import annotations

import pytest

from tessera.core.types import Group, Problem, Rollout
from tessera.rollout.shaping import overlong


def rollout(tokens: int, reward: float | None) -> Rollout:
    ids = tuple(range(tokens))
    return Rollout((1,), ids, (True,) * tokens, (-1.0,) * tokens, "stop", "", reward, {"right": reward or 0.0})


def shaped(tokens: int, reward: float | None = 1.0, start: int = 0, penalty: float = 1.0) -> Rollout:
    group = Group(Problem("p", "2+2=", "4"), (1,), (rollout(tokens, reward),))
    return overlong(group, start, 10, 4, penalty).rollouts[0]


@pytest.mark.parametrize(("tokens", "lost"), [(0, 0.0), (6, 0.0), (7, 0.25), (8, 0.5), (10, 1.0)])
def test_the_last_tokens_before_the_limit_cost_linearly(tokens: int, lost: float) -> None:
    # limit - buffer = 6 tokens are free; 7 are a quarter of the buffer beyond, 10 all of it
    found = shaped(tokens)
    assert (found.reward, found.earned) == (1.0 - lost, 1.0)
    assert found.components == {"right": 1.0, "overlong": -lost}


def test_the_penalty_scales_and_a_replayed_prefix_counts() -> None:
    assert shaped(8, penalty=0.5).reward == 0.75
    assert shaped(3, start=5).reward == 0.5
    assert shaped(2, start=5, reward=-1.0).reward == -1.25


def test_a_rollout_without_a_reward_stays_without() -> None:
    found = shaped(10, reward=None)
    assert (found.reward, found.earned) == (None, None)
    assert "overlong" not in found.components


def test_without_shaping_what_was_earned_is_the_reward() -> None:
    assert rollout(3, 0.25).earned == 0.25
