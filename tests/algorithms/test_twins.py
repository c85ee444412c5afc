"""`score_group` against the slow twins of every method and option: value and gradient, and that the cases bite."""

from __future__ import annotations

import random
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

from tessera import score_group
from tessera.algorithms import registered
from twins import DEFAULTS, TWINS

NAN = float("nan")
KL = {"beta": 0.3}
OPEN = [
    {"clip_low": None},
    {"clip_high": None},
    {"clip_low": None, "clip_high": None},
    {"clip_low": 0.05, "clip_high": 0.6},
]
SCALED = [{"std": "population"}, {"eps": 0.5}]
OPTIONS: dict[str, list[dict[str, Any]]] = {
    "dr_grpo": [{"max_tokens": 7}, KL, *OPEN],
    "dapo": [KL, *OPEN, *SCALED],
    "bnpo": [KL, *OPEN, *SCALED],
    "rloo": [KL, *OPEN],
    "gspo": [KL, *OPEN, *SCALED, {"clip_low": 0.1, "clip_high": 0.1}],
    "cispo": [KL, *OPEN, *SCALED],
    "grpo_lambda": [
        *[
            {"trace": trace, "lambda_": lambda_, "clip_form": form, "update": update}
            for trace, lambda_, form, update in product(
                ("recent", "both"), (0.0, 0.6, 1.0), ("ppo", "printed_algorithm"), ("trace", "weight")
            )
        ],
        *[
            {"update": "weight", "soft_clamp": soft, "weight_form": form, "lambda_": 0.8}
            for soft, form in product(("sigmoid", "tanh"), ("matrix", "row_sum"))
        ],
        *[
            {"advantage_floor": floor, "value_bound": bound}
            for floor, bound in product((None, -0.1, -0.5, 0.0), (True, False))
        ],
        *[
            {"trace_floor": floor, "trace": t, "lambda_": 0.6}
            for floor, t in product((0.1, 0.5, 1.0), ("recent", "both"))
        ],
        {"gamma": 0.7, "lambda_": 0.9, "beta": 0.0},
        *OPEN,
        *SCALED,
    ],
    "tr_grpo": [
        *[
            {"scale": scale, "clip_form": clip, "kl_form": kl, "lower": 0.5, "upper": 1.5, "beta": 0.3}
            for scale, clip, kl in product(("multiply", "divide"), ("weighted", "ratio"), ("printed", "scaled"))
        ],
        *[{"variant": v, "beta": 0.3} for v in ("equal", "random", "reverse")],
        {"alpha": 1.3, "mu": 0.1, "tau": 2.0, "lower": 0.2},
        {"tau": 0.5},
        {"beta": 0.0},
        *OPEN,
        *SCALED,
    ],
    "cw_grpo": [{"scope": "step"}, KL, {"clip_low": 0.2, "clip_high": 0.2}, *SCALED],
    "clip_cov": [
        *[
            {"cov_low": low, "cov_high": high, "ratio": r}
            for (low, high), r in product(((-9, 9), (0.0, 0.4)), (0.0, 0.3, 1.0))
        ],
        *OPEN,
        *SCALED,
    ],
}
CASES = [(name, config) for name, options in OPTIONS.items() for config in [{}, *options]]


def random_group(seed: int, spread: float = 0.9) -> dict[str, Any]:
    """Ragged, over few tokens, with tool output inside, one completion the beginning of another, one empty at times,
    and NaN wherever no token of the policy stands. Every fourth group has equal rewards."""
    rng = random.Random(seed)
    G, T = rng.choice([2, 3, 5, 8]), 9
    lengths = [rng.randint(0, T) for _ in range(G)]
    tokens = [[rng.choice([1, 1, 2]) for _ in range(T)] for _ in range(G)]
    tokens[1], lengths[1] = tokens[0][:], lengths[0] // 2
    mask = [[j < n and rng.random() > 0.25 for j in range(T)] for n in lengths]
    logp = [[-3 * rng.random() - 0.01 if m else NAN for m in row] for row in mask]
    old, ref = ([[x + rng.uniform(-spread, spread) for x in row] for row in logp] for _ in range(2))
    eos = [[-0.1 - 3 * rng.random() if m else NAN for m in row] for row in mask]
    rewards = [rng.choice([0.0, 1.0, 0.1, 0.1 + 0.2, 0.3, rng.gauss(0, 2)]) for _ in range(G)]
    if seed % 4 == 3:
        rewards = [0.1 + 0.2] * G
    sampler = [[x + rng.uniform(-spread, spread) for x in row] for row in logp]
    known = {"logp": logp, "old": old, "ref": ref, "eos": eos, "sampler": sampler}
    return {"rewards": rewards, "tokens": tokens, "lengths": lengths, "mask": mask, **known}


def double(x: Any) -> Tensor:
    return torch.tensor(x, dtype=torch.float64)


def evaluate(name: str, config: dict[str, Any], g: dict[str, Any], seed: int = 0) -> tuple[Any, Tensor]:
    logp = double(g["logp"]).requires_grad_()
    loss = score_group(
        name,
        config=config,
        rewards=double(g["rewards"]),
        tokens=torch.tensor(g["tokens"]),
        logp=logp,
        lengths=torch.tensor(g["lengths"]),
        mask=torch.tensor(g["mask"]),
        old_logp=double(g["old"]),
        sampler_logp=double(g["sampler"]),
        ref_logp=double(g["ref"]),
        eos_logp=double(g["eos"]),
        seed=seed,
    )
    loss.value.backward()
    return loss, logp.grad


def agree(name: str, config: dict[str, Any], g: dict[str, Any], seed: int = 0) -> Any:
    loss, gradient = evaluate(name, config, g, seed)
    value, expected = TWINS[name](g, {**DEFAULTS[name], **config}, loss.weight.tolist())
    assert loss.value.item() == pytest.approx(value, rel=1e-9, abs=1e-12)
    torch.testing.assert_close(gradient, double(expected), rtol=1e-9, atol=1e-12)
    return loss


@pytest.mark.parametrize(("name", "config"), CASES, ids=lambda c: c if isinstance(c, str) else str(c))
def test_value_and_gradient_equal_the_twin(name: str, config: dict[str, Any]) -> None:
    for seed in range(8):
        agree(name, config, random_group(seed), seed)


@pytest.mark.parametrize(("name", "config"), CASES, ids=lambda c: c if isinstance(c, str) else str(c))
def test_with_a_correction_for_the_sampler_too(name: str, config: dict[str, Any]) -> None:
    for seed in range(2):
        g = {**random_group(seed), "cap": 1.3}
        g["sampler"][0] = [NAN if j % 3 == 0 else x for j, x in enumerate(g["sampler"][0])]  # it does not know some
        agree(name, {**config, "importance_correction": {"name": "truncated", "cap": 1.3}}, g, seed)


def test_every_method_has_a_twin() -> None:
    older = {"grpo", "s_grpo", "t_spmo"}  # of test_score_twin.py
    assert set(registered()) == set(TWINS) | older
    for name, defaults in DEFAULTS.items():
        assert {k: f.default for k, f in registered()[name].config.model_fields.items()} == defaults


def test_far_off_policy_the_exponent_is_held() -> None:
    bounded = []
    for seed in range(8):
        g = random_group(seed, spread=30.0)
        for trace in ("recent", "both"):
            bounded.append(
                agree("grpo_lambda", {"trace": trace, "advantage_floor": None}, g).metrics["exponent_bounded"]
            )
    assert max(bounded) > 0.1


def test_the_random_groups_meet_what_they_are_for() -> None:
    groups = [random_group(seed) for seed in range(8)]
    clips = [evaluate("grpo_lambda", {"lambda_": 0.5}, g)[0].metrics for g in groups]
    assert sum(m["clip_fraction/low"] for m in clips) > 0.1
    assert sum(m["clip_fraction/high"] for m in clips) > 0.5
    weights = torch.cat([evaluate("tr_grpo", {}, g)[0].weight[torch.tensor(g["mask"])] for g in groups])
    assert (weights == 1.4).any() and (weights == 1.0).any() and ((weights > 1.0) & (weights < 1.4)).any()
    assert any(n == 0 for g in groups for n in g["lengths"])
    assert sum(len(set(g["rewards"])) == 1 for g in groups) >= 2


def test_the_seed_draws_random_weights() -> None:
    g = random_group(1)
    for name, config in (
        ("tr_grpo", {"variant": "random"}),
        ("clip_cov", {"cov_low": -9.0, "cov_high": 9.0, "ratio": 0.5}),
    ):
        one, same, other = (evaluate(name, config, g, seed)[0].weight for seed in (1, 1, 2))
        assert torch.equal(one, same)
        assert not torch.equal(one, other)
    drawn = evaluate("tr_grpo", {"variant": "random"}, g)[0].weight[torch.tensor(g["mask"])]
    assert ((drawn >= 0.5) & (drawn < 1.5)).all()
