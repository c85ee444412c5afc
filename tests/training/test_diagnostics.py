"""Gradients by probability, extreme covariances, likely and unlikely tokens."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from tessera.algorithms import build
from tessera.core.batch import Scored
from tessera.training.diagnostics import PERCENT, diagnose


def scored(logp: list[list[float]], advantage: list[list[float]], weight: float = 1.0) -> Scored:
    logp_BT = torch.tensor(logp, dtype=torch.float64)
    ones_BT = torch.ones_like(logp_BT)
    advantage_BT = torch.tensor(advantage, dtype=torch.float64)
    keep_BT = logp_BT < 0
    group_B = torch.zeros(len(logp), dtype=torch.long)
    return Scored(logp_BT, logp_BT, logp_BT, advantage_BT, keep_BT, weight * ones_BT, 0 * ones_BT, group_B, 1)


def look(tokens: Scored, tokens_BT: torch.Tensor) -> dict[str, Any]:
    """GRPO's diagnostics, with the token's id for its entropy and for its text."""
    return diagnose(build("grpo"), tokens, tokens_BT.double(), tokens_BT, str)


HALF, TENTH = math.log(0.5), math.log(0.1)


def test_the_pull_of_a_token_is_its_gradient_times_what_it_lacks_to_one() -> None:
    # grpo at ratio 1: |d loss / d logp| = w |A|, so 2 x 3 x (1 - 0.5) = 3 and 2 x 1 x (1 - 0.1) = 1.8
    tokens_BT = torch.tensor([[4, 9]])
    found = look(scored([[HALF, TENTH]], [[3.0, -1.0]], 2.0), tokens_BT)
    low, high = found["by_probability"]
    assert low == pytest.approx({"tokens": 1, "up_to": 0.1, "weight": 2.0, "pull": 1.8})
    assert high == pytest.approx({"tokens": 1, "up_to": 0.5, "weight": 2.0, "pull": 3.0})
    assert (found["tokens"], found["entropy"]) == (2, 6.5)


def test_tokens_are_listed_by_their_mean_probability() -> None:
    # token 4 has 0.5 and 0.1, mean 0.3; token 9 has 0.5; the last position is not selected
    found = look(scored([[HALF, HALF], [TENTH, 0.0]], [[1.0, 1.0], [-1.0, -1.0]]), torch.tensor([[4, 9], [4, 7]]))
    first = {"id": 9, "text": "9", "probability": pytest.approx(0.5), "count": 1}
    second = {"id": 4, "text": "4", "probability": pytest.approx(0.3), "count": 2}
    assert found["likely_tokens"] == [first, second]
    assert found["unlikely_tokens"] == [second, first]


def test_covariances_by_sign_and_the_share_of_the_largest() -> None:
    # logp -1, -2, -3, -4: mean -2.5; A 3, 1, -1, -3: mean 0; c = 1.5 x 3, 0.5 x 1, -0.5 x -1, -1.5 x -3
    tokens_BT = torch.zeros(1, 4, dtype=torch.long)
    found = look(scored([[-1.0, -2, -3, -4]], [[3.0, 1, -1, -3]]), tokens_BT)["covariance"]
    assert found["percent"] == list(PERCENT)
    # of 4.5, 4.5, 0.5, 0.5: the first 0.01, 1 and 20 % are one token, 40 % two, 100 % four
    assert found["positive"] == pytest.approx([4.5, 4.5, 4.5, 4.5, 0.5])
    assert found["negative"] == []
    assert found["share"] == pytest.approx([0.45, 0.45, 0.45, 0.9, 1.0])
    flipped = look(scored([[-1.0, -2, -3, -4]], [[-3.0, -1, 1, 3]]), tokens_BT)
    assert flipped["covariance"]["negative"] == pytest.approx([-4.5, -4.5, -4.5, -4.5, -0.5])


def test_a_step_without_tokens_has_none() -> None:
    tokens_BT = torch.zeros(1, 1, dtype=torch.long)
    assert look(scored([[0.0]], [[1.0]]), tokens_BT) == {"tokens": 0}
