"""Corrections for a sampler that is not the trainer: what a ratio becomes, and where its factor stands."""

from math import exp, log

import pytest
import torch

from tessera import score_group
from tessera.algorithms import build
from tessera.core.errors import UserError
from tessera.pieces import CORRECTION, make, names

NAN = float("nan")
RATIOS = torch.tensor([[0.1, 0.5, 1.0, 2.0, 2.5]], dtype=torch.float64)


def test_truncation_cuts_off_above_alone():
    assert make(CORRECTION, "truncated")(RATIOS)[0].tolist() == [0.1, 0.5, 1.0, 2.0, 2.0]
    assert make(CORRECTION, "truncated", cap=0.5)(RATIOS)[0].tolist() == [0.1, 0.5, 0.5, 0.5, 0.5]


def test_masking_drops_what_is_outside_its_bounds():
    assert make(CORRECTION, "masked")(RATIOS)[0].tolist() == [0.0, 0.5, 1.0, 2.0, 0.0]
    assert make(CORRECTION, "masked", low=0.0, high=1.0)(RATIOS)[0].tolist() == [0.1, 0.5, 1.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("truncated", {"cap": 0}, "cap = 0"),
        ("masked", {"low": 1.5}, "low = 1.5"),
        ("masked", {"high": 0.5}, "high = 0.5"),
        ("truncate", {}, "unknown importance_correction 'truncate'"),
    ],
)
def test_bad_options_are_named(name, options, says):
    with pytest.raises(UserError, match=says):
        make(CORRECTION, name, **options)


def loss(name, config, logp, old, sampler, ref=None):
    """Two completions of two tokens, rewards 1 and 0: advantages are (1 - 1/2) / (sqrt(1/2) + 1e-4) and minus that."""
    return score_group(
        name,
        config=config,
        rewards=torch.tensor([1.0, 0.0]),
        tokens=torch.tensor([[1, 2], [3, 4]]),
        logp=logp,
        lengths=torch.tensor([2, 2]),
        old_logp=old,
        sampler_logp=sampler,
        ref_logp=ref,
    )


A = 0.5 / (0.5**0.5 + 1e-4)
TRAINER = torch.tensor([[log(0.5), log(0.2)], [log(0.3), log(0.9)]], dtype=torch.float64)
SAMPLER = torch.tensor([[log(0.1), log(0.4)], [NAN, log(0.9)]], dtype=torch.float64)  # ratios 5, 1/2, 1, 1


def test_grpo_by_hand():
    # truncated at 2 the factors are 2, 1/2, 1, 1; every policy ratio is 1, so the loss of a token is -factor A
    logp = TRAINER.clone().requires_grad_()
    found = loss("grpo", {CORRECTION: "truncated"}, logp, None, SAMPLER)
    assert found.per_token.flatten().tolist() == pytest.approx([-2 * A, -A / 2, A, A])
    # a mean over two rows of means over two tokens: the denominator does not see the factors
    assert found.value.item() == pytest.approx((-2 * A - A / 2 + A + A) / 4)
    found.value.backward()
    assert logp.grad.flatten().tolist() == pytest.approx([-2 * A / 4, -A / 8, A / 4, A / 4])
    assert found.weight.flatten().tolist() == [1.0] * 4  # what the weight piece gave
    assert found.metrics["importance/truncated"] == 1 / 4
    assert found.metrics["importance/ess"] == pytest.approx(4.5**2 / (4 * (4 + 0.25 + 1 + 1)))
    masked = loss("grpo", {CORRECTION: "masked"}, TRAINER, None, SAMPLER)
    assert masked.per_token.flatten().tolist() == pytest.approx([0.0, -A / 2, A, A])
    assert masked.metrics["importance/kept"] == 3 / 4


def test_the_ratio_is_that_of_sampling_time_and_the_clip_is_the_policys():
    # since then the policy went from 0.5 to 0.55 and from 0.3 to 0.45: ratios 1.1 and 1.5, the latter with -A unbound
    logp = torch.tensor([[log(0.55), log(0.2)], [log(0.45), log(0.9)]], dtype=torch.float64)
    found = loss("grpo", {CORRECTION: {"name": "truncated", "cap": 3.0}}, logp, TRAINER, SAMPLER)
    assert found.per_token.flatten().tolist() == pytest.approx([-3 * 1.1 * A, -A / 2, 1.5 * A, A])


def test_the_factor_is_outside_a_weight_that_is_clipped_and_leaves_the_penalty_alone():
    config = {"variant": "equal", "beta": 0.5, "clip_high": 0.2, "std": "sample"}
    ref = TRAINER - 0.3
    plain = loss("tr_grpo", config, TRAINER, None, None, ref)
    found = loss("tr_grpo", {**config, CORRECTION: {"name": "truncated", "cap": 4.0}}, TRAINER, None, SAMPLER, ref)
    # inside the clip, 4 would be cut to 1.2, and log(w r) of the penalty would move by log 4
    penalty = 0.5 * (exp(-0.3) + 0.3 - 1)
    assert plain.per_token[0, 0].item() == pytest.approx(-A + penalty)
    assert found.per_token[0, 0].item() == pytest.approx(-4 * A + penalty)


def test_a_sampler_that_is_the_trainer_changes_no_bit():
    logp = TRAINER.clone().requires_grad_()
    for correction in ("truncated", "masked"):
        for sampler in (TRAINER, torch.full_like(TRAINER, NAN)):
            results = []
            for config in ({}, {CORRECTION: correction}):
                value = loss("grpo", config, logp, None, sampler).value
                results.append((value, *torch.autograd.grad(value, logp)))
            assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
            assert results[0][1].any()


def test_a_composition_says_that_it_corrects():
    corrected = build({"name": "grpo", CORRECTION: {"name": "truncated", "cap": 3}})
    assert corrected.describe().splitlines()[-1] == "importance_correction truncated(cap=3.0)"
    assert build({"name": "grpo", CORRECTION: None}) == build("grpo")
    assert names(CORRECTION) == ["masked", "truncated"]
    with pytest.raises(UserError, match=r"'uniform' is no importance_correction"):
        build("grpo").exchange({CORRECTION: make("weight", "uniform")})


def test_a_correction_of_ones_own(tmp_path, monkeypatch):
    (tmp_path / "own.py").write_text("def root(ratio_BT):\n    return ratio_BT.sqrt()\n")
    monkeypatch.chdir(tmp_path)
    found = loss("grpo", {CORRECTION: "own.py:root"}, TRAINER, None, SAMPLER)
    assert found.per_token[0].tolist() == pytest.approx([-(5**0.5) * A, -(0.5**0.5) * A])


def test_without_the_samplers_log_probs_there_is_nothing_to_correct():
    with pytest.raises(UserError, match="importance_correction needs sampler_logp"):
        loss("grpo", {CORRECTION: "truncated"}, TRAINER, None, None)
    with pytest.raises(UserError, match=r"sampler_logp must have shape \[G,T\] = \(2, 2\), got \(2, 1\)"):
        loss("grpo", {}, TRAINER, None, SAMPLER[:, :1])
