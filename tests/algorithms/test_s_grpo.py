"""S-GRPO, by hand."""

from math import log

import pytest
import torch

from tessera import score_group
from tessera.algorithms import build


def evaluate(**config):
    """Two completions of four tokens, rewards 1 and 0: population std 1/2, eps 0: A = +-1. ref / pi = 2."""
    logp = torch.full((2, 4), -1.0, dtype=torch.float64, requires_grad=True)
    loss = score_group(
        "s_grpo",
        config={"std": "population", "eps": 0.0, **config},
        rewards=torch.tensor([1.0, 0.0]),
        tokens=torch.arange(8).reshape(2, 4),
        logp=logp,
        lengths=torch.tensor([4, 4]),
        old_logp=torch.full((2, 4), -9.0, dtype=torch.float64),
        ref_logp=torch.full((2, 4), -1 + log(2), dtype=torch.float64),
    )
    (gradient,) = torch.autograd.grad(loss.value, logp)
    return loss, gradient


def test_unselected_tokens_leave_the_denominator():
    # the first token of each row: L = -1/2 (1/1 + -1/1) = 0, gradient -A / (G |T_i|) = -1/2 and 1/2, elsewhere 0
    loss, gradient = evaluate(cutoff=1, probability=0.0, beta=0.0)
    assert loss.value.item() == 0.0
    assert gradient.tolist() == [[-0.5, 0, 0, 0], [0.5, 0, 0, 0]]
    assert loss.metrics["tokens/contributing"] == 2.0


def test_old_log_probs_play_no_part():
    # the surrogate's ratio is to the policy itself: |T_i| = 3, -A / 6
    _, gradient = evaluate(cutoff=2, max_selected=3, probability=1.0, beta=0.0)
    assert gradient.tolist() == [
        pytest.approx([-1 / 6] * 3 + [0], abs=1e-16),
        pytest.approx([1 / 6] * 3 + [0], abs=1e-16),
    ]


def test_the_penalty_is_averaged_over_the_selection_too():
    # k3 with ref / pi = 2 is 1 - log 2 a token, its gradient 1 - 2 = -1; beta = 0.1, two tokens a row
    loss, gradient = evaluate(cutoff=2, probability=0.0, beta=0.1)
    assert loss.value.item() == pytest.approx(0.1 * (1 - log(2)), abs=1e-15)
    rows = [[(-1 - 0.1) / 4] * 2 + [0, 0], [(1 - 0.1) / 4] * 2 + [0, 0]]
    assert gradient.tolist() == [pytest.approx(row, abs=1e-15) for row in rows]
    assert loss.metrics["kl"] == pytest.approx(1 - log(2), abs=1e-15)


def test_an_empty_selection_contributes_nothing():
    loss, gradient = evaluate(cutoff=0, probability=0.0)
    assert loss.value.item() == 0.0
    assert not gradient.any()
    assert loss.metrics == {"tokens/contributing": 0.0}


def test_the_defaults_are_published_except_the_inferred_probability():
    assert [str(p) for p in build("s_grpo").pieces.values()] == [
        "group_normalized(scale=group, std=sample, eps=0.0001)",
        "stochastic_prefix(cutoff=50, max_selected=100, probability=0.15)",
        "uniform()",
        "detached_ratio()",
        "kl(beta=0.01, estimator=k3)",
        "sequence_mean()",
    ]


def test_every_key_reaches_its_piece():
    keys = {"cutoff": 25, "max_selected": 50, "probability": 0.4, "beta": 0.0, "std": "population", "eps": 0.5}
    built = build({"name": "s_grpo", **keys})
    assert built.selection.config == {"cutoff": 25, "max_selected": 50, "probability": 0.4}
    assert built.advantage.config == {"scale": "group", "std": "population", "eps": 0.5}
    assert built.regulariser.name == "none"
