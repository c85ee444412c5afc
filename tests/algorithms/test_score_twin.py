"""`score_group` against a slow twin: plain Python numbers and loops, written from the papers, sharing no code.

The twin gives the value and, by the chain rule on paper, its gradient with respect to every log-prob.
"""

import random
from fractions import Fraction
from math import exp, sqrt

import pytest
import torch

from tessera import score_group
from tessera.core.seeding import generator

NAN = float("nan")


def std(values, kind):
    mean = sum(values) / len(values)
    return sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - (1 if kind == "sample" else 0)))


def normalized(g, kind, eps):
    """A_i = (R_i - mean) / (std + eps) for every token of completion i."""
    R = g["rewards"]
    if all(r == R[0] for r in R):
        return [[0.0] * n for n in g["lengths"]]
    mean, s = sum(R) / len(R), std(R, kind)
    return [[(r - mean) / (s + eps)] * n for r, n in zip(R, g["lengths"], strict=True)]


def prefix_means(g):
    """A(v|p), exactly, for every token of every completion: means over all completions that begin alike."""
    rows = [g["tokens"][i][:n] for i, n in enumerate(g["lengths"])]
    R = [Fraction(r) for r in g["rewards"]]

    def mean(prefix):
        through = [R[i] for i, row in enumerate(rows) if row[: len(prefix)] == prefix]
        return sum(through) / len(through)

    return [[mean(row[: t + 1]) - mean(row[:t]) for t in range(len(row))] for row in rows]


def policy_tokens(g):
    """(completion, position, t): t counts the policy's own tokens of the completion."""
    for i, n in enumerate(g["lengths"]):
        t = 0
        for j in range(n):
            if g["mask"][i][j]:
                yield i, j, t
                t += 1


def clipped(g, c, A):
    """-min(rho A, clip(rho) A) and its derivative, token by token."""
    out = {}
    for i, j, _ in policy_tokens(g):
        a, rho = A[i][j], exp(g["logp"][i][j] - g["old"][i][j])
        low = -1e300 if c["clip_low"] is None else 1 - c["clip_low"]
        high = 1e300 if c["clip_high"] is None else 1 + c["clip_high"]
        bound = min(max(rho, low), high)
        out[i, j] = (-rho * a, -rho * a) if rho * a <= bound * a else (-bound * a, 0.0)
    return out


def with_kl(g, beta, terms):
    """+ beta (e^d - d - 1), d = ref - logp; its derivative is beta (1 - e^d)."""
    out = {}
    for (i, j), (value, slope) in terms.items():
        d = g["ref"][i][j] - g["logp"][i][j]
        out[i, j] = value + beta * (exp(d) - d - 1), slope + beta * (1 - exp(d))
    return out


def averaged(g, terms, rule, max_tokens=None):
    """The loss and its gradient as dense lists."""
    G = len(g["lengths"])
    count = [sum(1 for i, _ in terms if i == row) for row in range(G)]
    value, gradient = 0.0, [[0.0] * len(row) for row in g["logp"]]
    for (i, j), (v, slope) in terms.items():
        divisor = {"sequence_mean": G * count[i], "fixed_length": G * (max_tokens or 0)}.get(rule, len(terms))
        value += v / divisor
        gradient[i][j] = slope / divisor
    return value, gradient


def twin_grpo(g, c, seed):
    A = normalized(g, c["std"], c["eps"])
    terms = with_kl(g, c["beta"], clipped(g, c, A))
    return averaged(g, terms, c["aggregation"], c.get("max_tokens"))


def twin_s_grpo(g, c, seed):
    A = normalized(g, c["std"], c["eps"])
    n = sum(1 for _ in policy_tokens(g))
    draws = iter(torch.rand(n, generator=generator(seed, "selection"), dtype=torch.float64).tolist())
    chosen, terms = [0] * len(A), {}
    for i, j, t in policy_tokens(g):
        u = next(draws)
        if t < c["cutoff"] or (chosen[i] < c["max_selected"] and u < c["probability"]):
            chosen[i] += 1
            terms[i, j] = -A[i][j], -A[i][j]  # exp(logp - sg[logp]) A is A, and so is its derivative
    return averaged(g, with_kl(g, c["beta"], terms), "sequence_mean")


def twin_t_spmo(g, c, seed):
    A, seen, terms = prefix_means(g), set(), {}
    for i, j, _ in policy_tokens(g):
        pair = tuple(g["tokens"][i][: j + 1])
        if pair in seen:
            continue
        seen.add(pair)
        if c["pairs"] == "all" or A[i][j] != 0:
            term = -exp(g["logp"][i][j]) * float(A[i][j])
            terms[i, j] = term, term
    return averaged(g, terms, "token_mean")


TWINS = {"grpo": twin_grpo, "s_grpo": twin_s_grpo, "t_spmo": twin_t_spmo}
GRPO = {"std": "sample", "eps": 1e-4, "clip_low": 0.2, "clip_high": 0.2, "beta": 0.0, "aggregation": "sequence_mean"}
S_GRPO = {"cutoff": 50, "max_selected": 100, "probability": 0.15, "beta": 0.01, "std": "sample", "eps": 1e-4}
T_SPMO = {"pairs": "informative"}
DEFAULTS = {"grpo": GRPO, "s_grpo": S_GRPO, "t_spmo": T_SPMO}

CASES = [
    ("grpo", {}),
    ("grpo", {"std": "population"}),
    ("grpo", {"eps": 0.5}),
    ("grpo", {"eps": 0.0}),
    ("grpo", {"clip_low": None}),
    ("grpo", {"clip_high": None}),
    ("grpo", {"clip_low": None, "clip_high": None}),
    ("grpo", {"clip_low": 0.05, "clip_high": 0.6}),
    ("grpo", {"beta": 0.3}),
    ("grpo", {"aggregation": "token_mean"}),
    ("grpo", {"aggregation": "batch_token_mean", "beta": 0.04}),
    ("grpo", {"aggregation": "fixed_length", "max_tokens": 17}),
    ("grpo", {"std": "population", "clip_high": 0.28, "beta": 0.01, "aggregation": "token_mean"}),
    ("s_grpo", {}),
    ("s_grpo", {"cutoff": 2, "max_selected": 4, "probability": 0.5}),
    ("s_grpo", {"cutoff": 0, "max_selected": 3, "probability": 0.4}),
    ("s_grpo", {"cutoff": 3, "max_selected": 1, "probability": 1.0}),
    ("s_grpo", {"cutoff": 1, "max_selected": 5, "probability": 1.0, "beta": 0.0}),
    ("s_grpo", {"cutoff": 2, "probability": 0.0, "beta": 0.7}),
    ("s_grpo", {"std": "population", "eps": 0.1}),
    ("t_spmo", {}),
    ("t_spmo", {"pairs": "all"}),
    ("t_spmo", {"l2": 0.0}),
    ("t_spmo", {"l2": 5.0, "pairs": "all"}),
]


def random_group(seed):
    """A ragged group over few tokens (so prefixes are shared) with tool output inside, and NaN wherever no token of
    the policy stands. Log-ratios reach +-0.9, so every clip is met on both sides."""
    rng = random.Random(seed)
    G, T = rng.choice([2, 3, 5, 8]), 10
    lengths = [rng.randint(0, T) for _ in range(G)]
    rewards = [rng.choice([0.0, 1.0, 0.1, 0.3, 0.1 + 0.2, rng.gauss(0, 2)]) for _ in range(G)]
    tokens = [[rng.choice([1, 1, 1, 2]) for _ in range(T)] for _ in range(G)]
    mask = [[j < n and rng.random() > 0.25 for j in range(T)] for n in lengths]
    logp = [[-3 * rng.random() - 0.01 if m else NAN for m in row] for row in mask]
    moved = [[[x + rng.uniform(-0.9, 0.9) for x in row] for row in logp] for _ in range(2)]
    group = {"rewards": rewards, "tokens": tokens, "lengths": lengths, "mask": mask, "logp": logp}
    return {**group, "old": moved[0], "ref": moved[1]}


def double(x):
    return torch.tensor(x, dtype=torch.float64)


def evaluate(name, config, g, seed, **also):
    logp = double(g["logp"]).requires_grad_()
    loss = score_group(
        name,
        config=config,
        rewards=double(g["rewards"]),
        tokens=torch.tensor(g["tokens"]),
        logp=logp,
        lengths=torch.tensor(g["lengths"]),
        mask=torch.tensor(g["mask"]),
        seed=seed,
        **also,
    )
    loss.value.backward()
    return loss, logp.grad


def agree(name, config, g, seed, **also):
    loss, gradient = evaluate(name, config, g, seed, **also)
    value, expected = TWINS[name](g, {**DEFAULTS[name], **config}, seed)
    assert loss.value.item() == pytest.approx(value, rel=1e-9, abs=1e-12)
    torch.testing.assert_close(gradient, double(expected), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("name", "config"), CASES, ids=lambda c: c if isinstance(c, str) else str(c))
def test_value_and_gradient_equal_the_twin(name, config):
    for seed in range(12):
        g = random_group(seed)
        agree(name, config, g, seed, old_logp=double(g["old"]), ref_logp=double(g["ref"]))


@pytest.mark.parametrize("name", TWINS)
def test_without_old_and_ref_the_policy_is_compared_with_itself(name):
    for seed in range(4):
        g = random_group(seed)
        g["old"] = g["ref"] = g["logp"]
        agree(name, {}, g, seed)


def test_the_random_groups_hold_what_they_claim():
    """Otherwise the twin would agree about nothing."""
    groups = [random_group(seed) for seed in range(12)]
    metrics = [evaluate("grpo", {}, g, 0, old_logp=double(g["old"]))[0].metrics for g in groups]
    assert sum(m["clip_fraction/low"] for m in metrics) > 0.5
    assert sum(m["clip_fraction/high"] for m in metrics) > 0.5
    pairs = [evaluate("t_spmo", {"pairs": "all"}, g, 0)[0].selected.sum() for g in groups]
    assert sum(pairs) < sum(sum(map(sum, g["mask"])) for g in groups)  # pairs are shared
    informative = [evaluate("t_spmo", {}, g, 0)[0].selected.sum() for g in groups]
    assert 0 < sum(informative) < sum(pairs)
    assert any(n == 0 for g in groups for n in g["lengths"])
    assert any(not m for g in groups for row, n in zip(g["mask"], g["lengths"], strict=True) for m in row[:n])
