"""GRPO, by hand."""

from math import log, sqrt

import pytest
import torch

from tessera import score_group
from tessera.algorithms import build


def evaluate(**config):
    """Rewards 1, 0, 0 (mean 1/3, sample variance 1/3); lengths 2, 1, 0; ratios 3/2, 1/2 | 3/2."""
    logp = torch.tensor([[log(1.5), log(0.5)], [log(1.5), 0.0], [0.0, 0.0]], dtype=torch.float64, requires_grad=True)
    loss = score_group(
        "grpo",
        config=config,
        rewards=torch.tensor([1.0, 0.0, 0.0]),
        tokens=torch.tensor([[1, 2], [3, 0], [0, 0]]),
        logp=logp,
        lengths=torch.tensor([2, 1, 0]),
        old_logp=torch.zeros(3, 2, dtype=torch.float64),
    )
    (gradient,) = torch.autograd.grad(loss.value, logp)
    return loss, gradient.tolist()


# with eps = 0 the advantages are 2/3 / sqrt(1/3) and -1/3 / sqrt(1/3)
A, B = 2 / sqrt(3), -1 / sqrt(3)


def test_a_group_by_hand():
    # row 0: min(1.5 A, 1.2 A) and min(0.5 A, 0.8 A); row 1: min(1.5 B, 1.2 B) = 1.5 B; row 2 is empty and counts as 0
    loss, gradient = evaluate(eps=0.0)
    assert loss.value.item() == pytest.approx(-((1.2 * A + 0.5 * A) / 2 + 1.5 * B) / 3, abs=1e-14)
    # the clipped token has none; else -rho A / (G |y_i|)
    assert gradient == [
        pytest.approx([0.0, -0.5 * A / 6], abs=1e-14),
        pytest.approx([-1.5 * B / 3, 0.0], abs=1e-14),
        [0, 0],
    ]
    assert loss.metrics["clip_fraction/high"] == pytest.approx(1 / 3)
    assert loss.metrics["clip_fraction/low"] == 0.0
    assert loss.metrics["tokens/contributing"] == 3.0


def test_each_aggregation_by_hand():
    tokens = 1.2 * A + 0.5 * A + 1.5 * B
    assert evaluate(eps=0.0, aggregation="token_mean")[0].value.item() == pytest.approx(-tokens / 3, abs=1e-14)
    assert evaluate(eps=0.0, aggregation="batch_token_mean")[0].value.item() == pytest.approx(-tokens / 3, abs=1e-14)
    fixed = evaluate(eps=0.0, aggregation="fixed_length", max_tokens=10)[0]
    assert fixed.value.item() == pytest.approx(-tokens / 30, abs=1e-14)


def test_the_defaults():
    assert [str(p) for p in build("grpo").pieces.values()] == [
        "group_normalized(scale=group, std=sample, eps=0.0001)",
        "all()",
        "uniform()",
        "clipped_ratio(clip_low=0.2, clip_high=0.2)",
        "none()",
        "sequence_mean()",
    ]


def test_every_key_reaches_its_piece():
    spec = {"name": "grpo", "std": "population", "eps": 0.5, "clip_low": 0.1, "clip_high": None, "beta": 0.3}
    assert [str(p) for p in build(spec).pieces.values()] == [
        "group_normalized(scale=group, std=population, eps=0.5)",
        "all()",
        "uniform()",
        "clipped_ratio(clip_low=0.1, clip_high=None)",
        "kl(beta=0.3, estimator=k3)",
        "sequence_mean()",
    ]
