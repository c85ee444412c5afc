"""Every variant with its knob neutral is its parent, bit for bit; aggregation, beta and clips are stated."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tessera import score_group


def group(ragged: bool = True, width: int = 9) -> dict[str, Tensor]:
    rng = torch.Generator().manual_seed(0)
    mask = torch.rand(5, width, generator=rng) < (0.8 if ragged else 2.0)
    lengths = torch.randint(1, width + 1, (5,), generator=rng) if ragged else torch.full((5,), width)
    logp, moves = -3 * torch.rand(5, width, generator=rng, dtype=torch.float64), torch.rand(2, 5, width, generator=rng)
    return {
        "rewards": torch.randn(5, generator=rng, dtype=torch.float64),
        "tokens": torch.randint(0, 2, (5, width), generator=rng),
        "logp": logp,
        "old_logp": logp + moves[0].double() - 0.5,
        "ref_logp": logp + moves[1].double() - 0.5,
        "lengths": lengths,
        "mask": mask,
    }


def evaluate(spec: dict[str, Any], given: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    logp = given["logp"].clone().requires_grad_()
    loss = score_group(spec["name"], config=spec, **{**given, "logp": logp})
    (gradient,) = torch.autograd.grad(loss.value, logp)
    assert gradient.any()
    return loss.value.detach(), gradient


def grpo(**keys: Any) -> dict[str, Any]:
    return {"name": "grpo", **keys}


UNCLIPPED = {"clip_low": None, "clip_high": None}
PAIRS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "TR-GRPO with equal weights": (
        {"name": "tr_grpo", "variant": "equal"},
        grpo(aggregation="token_mean", beta=0.001, clip_low=0.2, clip_high=0.24),
    ),
    "TR-GRPO with equal weights, outside the clip, scaled KL": (
        {"name": "tr_grpo", "variant": "equal", "clip_form": "ratio", "kl_form": "scaled", "beta": 0.3},
        grpo(aggregation="token_mean", beta=0.3, clip_low=0.2, clip_high=0.24),
    ),
    "TR-GRPO as printed: every weight is clipped to 1": (
        {"name": "tr_grpo", "scale": "divide"},
        grpo(aggregation="token_mean", beta=0.001, clip_low=0.2, clip_high=0.24),
    ),
    "TR-GRPO with tau 0.5": (
        {"name": "tr_grpo", "tau": 0.5},
        grpo(aggregation="token_mean", beta=0.001, clip_low=0.2, clip_high=0.24),
    ),
    "GRPO-lambda without lambda and floor": (
        {"name": "grpo_lambda", "lambda_": 0.0, "advantage_floor": None},
        grpo(beta=0.04),
    ),
    "GRPO-lambda without gamma": (
        {"name": "grpo_lambda", "gamma": 0.0, "advantage_floor": None, "clip_low": 0.1, "beta": 0.0},
        grpo(clip_low=0.1),
    ),
    "DAPO with equal clips": ({"name": "dapo", "clip_high": 0.2}, grpo(aggregation="batch_token_mean")),
    "DAPO at GRPO's aggregation": (
        {"name": "dapo", "clip_high": 0.2, "aggregation": "sequence_mean", "beta": 0.1},
        grpo(beta=0.1),
    ),
    "BNPO": ({"name": "bnpo", "beta": 0.1}, grpo(aggregation="batch_token_mean", beta=0.1)),
    "Clip-Cov that drops none": ({"name": "clip_cov", "ratio": 0.0}, grpo(aggregation="batch_token_mean")),
    "Dr. GRPO": (
        {"name": "dr_grpo", "max_tokens": 9},
        grpo(advantage={"name": "group_normalized", "scale": "none"}, aggregation="fixed_length", max_tokens=9),
    ),
    "CW-GRPO without its weight": ({"name": "cw_grpo", "weight": "uniform", "beta": 0.1}, grpo(**UNCLIPPED, beta=0.1)),
    "RLOO with GRPO's advantage": ({"name": "rloo", "advantage": "group_normalized"}, grpo()),
}


@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS.keys())
def test_it_is_its_parent(pair: tuple[dict[str, Any], dict[str, Any]]) -> None:
    given = group()
    for mine, parents in zip(evaluate(pair[0], given), evaluate(pair[1], given), strict=True):
        assert torch.equal(mine, parents)


def test_equal_covariances_make_cw_grpo_its_parent() -> None:
    # two completions, A = +a and -a; log-probs l + d and l - d: every c is a d, so every weight is 1
    given = {key: x[:2] for key, x in group(ragged=False).items()}
    given["rewards"] = torch.tensor([1.0, 0.0], dtype=torch.float64)
    given["logp"] = torch.tensor([-1.0, -2.0], dtype=torch.float64)[:, None].expand(2, 9).clone()
    for mine, parents in zip(evaluate({"name": "cw_grpo"}, given), evaluate(grpo(**UNCLIPPED), given), strict=True):
        assert torch.equal(mine, parents)


def test_gspo_on_completions_of_one_token_is_grpo() -> None:
    given, clips = group(ragged=False, width=1), {"clip_low": 0.2, "clip_high": 0.2}
    for mine, parents in zip(evaluate({"name": "gspo", **clips}, given), evaluate(grpo(**clips), given), strict=True):
        assert torch.equal(mine, parents)


def test_on_policy_cispo_has_grpos_gradient() -> None:
    given = {key: x for key, x in group().items() if key != "old_logp"}
    mine, parents = evaluate({"name": "cispo"}, given), evaluate(grpo(aggregation="batch_token_mean"), given)
    assert torch.equal(mine[1], parents[1])
    assert mine[0] != parents[0]  # -A logp, not -A


def test_rloo_is_the_centred_reward_times_g_over_g_minus_1() -> None:
    given = group()
    centred = evaluate(grpo(advantage={"name": "group_normalized", "scale": "none"}), given)
    for mine, parents in zip(evaluate({"name": "rloo"}, given), centred, strict=True):
        torch.testing.assert_close(mine, parents * 5 / 4, rtol=1e-14, atol=0)
