"""The methods again, slowly: plain numbers and loops written from the equations, sharing no code with the library.

A twin takes a group as lists and returns, for every policy token, the loss and what it takes to differentiate it: the
derivative of the *step's* loss by each log-prob is assembled on paper, the [T,T] traces written out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import exp, floor, log, sqrt, tanh
from typing import Any

Group = Mapping[str, Any]
Terms = dict[tuple[int, int], float]
Slopes = dict[tuple[int, int], float]
INFINITE = 1e300


def tokens_of(g: Group, i: int) -> list[int]:
    """Columns of completion i that the policy wrote."""
    return [j for j in range(g["lengths"][i]) if g["mask"][i][j]]


def rows(g: Group) -> range:
    """Completions of the group."""
    return range(len(g["lengths"]))


def std(values: list[float], kind: str) -> float:
    """Standard deviation over n - 1 (`sample`) or n."""
    mean = sum(values) / len(values)
    return sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - (1 if kind == "sample" else 0)))


def normalized(g: Group, c: Mapping[str, Any]) -> list[float]:
    """(R - mean) / (std + eps), 0 where all rewards are equal."""
    R = g["rewards"]
    if all(r == R[0] for r in R):
        return [0.0] * len(R)
    mean = sum(R) / len(R)
    return [(r - mean) / (std(R, c["std"]) + c["eps"]) for r in R]


def centred(g: Group) -> list[float]:
    """R - mean."""
    R = g["rewards"]
    return [0.0] * len(R) if all(r == R[0] for r in R) else [r - sum(R) / len(R) for r in R]


def others(g: Group) -> list[float]:
    """R minus the mean of the other rewards."""
    R = g["rewards"]
    if all(r == R[0] for r in R):
        return [0.0] * len(R)
    return [r - (sum(R) - r) / (len(R) - 1) for r in R]


def bounds(c: Mapping[str, Any]) -> tuple[float, float]:
    """Lower and upper bound of the clip."""
    low = -INFINITE if c["clip_low"] is None else 1 - c["clip_low"]
    high = INFINITE if c["clip_high"] is None else 1 + c["clip_high"]
    return low, high


def smaller(ratio: float, a: float, c: Mapping[str, Any]) -> tuple[float, float]:
    """min(ratio a, clip(ratio) a) and its derivative by the ratio; or the printed form, min(ratio, clip(ratio)) a."""
    low, high = bounds(c)
    bound = min(max(ratio, low), high)
    inside = 1.0 if low <= ratio <= high else 0.0
    if c.get("clip_form") == "printed_algorithm":
        return (ratio * a, a) if ratio <= bound else (bound * a, inside * a)
    return (ratio * a, a) if ratio * a <= bound * a else (bound * a, inside * a)


def averaged(g: Group, loss: Terms, slope: Slopes, rule: str, max_tokens: int = 1) -> tuple[float, list[list[float]]]:
    """The loss and its gradient. `slope[i, j]` is the derivative of the row's summed loss by logp[i][j]: all tokens of
    a row have one share."""
    total = sum(len(tokens_of(g, i)) for i in rows(g))
    share = {
        "sequence_mean": lambda i: 1 / (len(g["lengths"]) * len(tokens_of(g, i))),
        "token_mean": lambda i: 1 / total,
        "fixed_length": lambda i: 1 / (len(g["lengths"]) * max_tokens),
    }[rule]
    gradient = [[0.0] * len(line) for line in g["logp"]]
    for (i, j), d in slope.items():
        gradient[i][j] = share(i) * d
    return sum(share(i) * v for (i, _), v in loss.items()), gradient


def add_kl(g: Group, beta: float, loss: Terms, slope: Slopes) -> None:
    """+ beta (r - log r - 1), r = exp(ref - logp)."""
    for i in rows(g):
        for j in tokens_of(g, i):
            d = g["ref"][i][j] - g["logp"][i][j]
            loss[i, j] += beta * (exp(d) - d - 1)
            slope[i, j] += beta * (1 - exp(d))


def factor(g: Group, i: int, j: int) -> float:
    """What the correction for the sampler makes of a token: exp(old - sampler), cut off at `cap`; 1 without one."""
    if "cap" not in g:
        return 1.0
    gap = g["old"][i][j] - g["sampler"][i][j]
    return 1.0 if gap != gap else min(exp(gap), g["cap"])


def ratios(g: Group, i: int) -> list[float]:
    """rho of the policy's tokens of completion i."""
    return [exp(g["logp"][i][j] - g["old"][i][j]) for j in tokens_of(g, i)]


def clipped(
    g: Group, c: Mapping[str, Any], A: list[float], weight: Callable[[int, int], float] = lambda i, j: 1.0
) -> Any:
    """-w min(rho A, clip(rho) A) of every token."""
    loss, slope = {}, {}
    for i in rows(g):
        for j, rho in zip(tokens_of(g, i), ratios(g, i), strict=True):
            value, by_ratio = smaller(rho, A[i], c)
            w = weight(i, j) * factor(g, i, j)
            loss[i, j], slope[i, j] = -w * value, -w * by_ratio * rho
    return loss, slope


def plain(g: Group, c: Mapping[str, Any], A: list[float], rule: str) -> tuple[float, list[list[float]]]:
    """GRPO and the methods that differ from it in advantage and average."""
    loss, slope = clipped(g, c, A)
    add_kl(g, c["beta"], loss, slope)
    return averaged(g, loss, slope, rule, c.get("max_tokens", 1))


def gspo(g: Group, c: Mapping[str, Any], _: Any) -> tuple[float, list[list[float]]]:
    """One ratio a completion: its derivative by each log-prob is itself / T."""
    A, loss, slope = normalized(g, c), {}, {}
    for i in rows(g):
        at = tokens_of(g, i)
        for j in at:
            s = exp(sum(g["logp"][i][k] - g["old"][i][k] for k in at) / len(at))
            value, by_ratio = smaller(s, A[i], c)
            w = sum(factor(g, i, k) for k in at) / len(at)  # T tokens, each with 1 / T of every log-prob
            loss[i, j], slope[i, j] = -factor(g, i, j) * value, -w * by_ratio * s
    add_kl(g, c["beta"], loss, slope)
    return averaged(g, loss, slope, "sequence_mean")


def cispo(g: Group, c: Mapping[str, Any], _: Any) -> tuple[float, list[list[float]]]:
    """-sg[clip(rho)] A logp."""
    A, loss, slope = normalized(g, c), {}, {}
    low, high = bounds(c)
    for i in rows(g):
        for j, rho in zip(tokens_of(g, i), ratios(g, i), strict=True):
            bound = -factor(g, i, j) * min(max(rho, low), high) * A[i]
            loss[i, j], slope[i, j] = bound * g["logp"][i][j], bound
    add_kl(g, c["beta"], loss, slope)
    return averaged(g, loss, slope, "token_mean")


def trace(c: Mapping[str, Any], t: int, j: int) -> float:
    """tr(t, j) for j <= t; 0 ** 0 is 1 in Python too."""
    if t == j:
        return 1.0
    a = c["gamma"] * c["lambda_"]
    value = a ** (t - j) if c["trace"] == "recent" else max(a ** (t - j), a**j)
    return max(c["trace_floor"], value)


def sigmoid(x: float) -> float:
    """1 / (1 + e^-x)."""
    return 1 / (1 + exp(-x))


def credits(g: Group, c: Mapping[str, Any], i: int, a: float) -> list[float]:
    """A, with the bound on the value of each state, and not below the floor."""
    found, survives = [], 1.0
    for j in tokens_of(g, i):
        value = a + (1 - survives if c["value_bound"] else 0.0)
        found.append(value if c["advantage_floor"] is None else max(value, c["advantage_floor"]))
        survives *= 1 - exp(g["eos"][i][j])
    return found


def grpo_lambda(g: Group, c: Mapping[str, Any], _: Any) -> tuple[float, list[list[float]]]:
    """Both updates, with the trace as a matrix."""
    A, loss, slope = normalized(g, c), {}, {}
    for i in rows(g):
        at = tokens_of(g, i)
        credit = credits(g, c, i, A[i])
        for j in at:
            slope[i, j] = 0.0
        for t, column in enumerate(at):
            tr, w = [trace(c, t, j) for j in range(t + 1)], factor(g, i, column)
            if c["update"] == "trace":
                exponent = sum(tr[j] * (g["logp"][i][at[j]] - g["old"][i][at[j]]) for j in range(t + 1))
                ratio = exp(min(max(exponent, -20), 20))
                value, by_ratio = smaller(ratio, credit[t], c)
                by_exponent = by_ratio * ratio if abs(exponent) <= 20 else 0.0
                for j in range(t + 1):
                    slope[i, at[j]] -= w * by_exponent * tr[j]
                loss[i, column] = -w * value
                continue
            rho = exp(g["logp"][i][column] - g["old"][i][column])
            value, by_ratio = smaller(rho, credit[t], c)
            x = [g["logp"][i][k] - 1 for k in at]
            if c["weight_form"] == "row_sum":
                f, df = [1.0] * len(x), [0.0] * len(x)
            elif c["soft_clamp"] == "sigmoid":
                f, df = [1 + sigmoid(v) for v in x], [sigmoid(v) * (1 - sigmoid(v)) for v in x]
            else:
                f, df = [1 + tanh(v) for v in x], [1 - tanh(v) ** 2 for v in x]
            e = sum(tr[j] * f[j] for j in range(t + 1))
            loss[i, column] = -w * e * value
            slope[i, column] -= w * e * by_ratio * rho
            for j in range(t + 1):
                slope[i, at[j]] -= w * tr[j] * df[j] * value
    add_kl(g, c["beta"], loss, slope)
    return averaged(g, loss, slope, "sequence_mean")


def tr_grpo(g: Group, c: Mapping[str, Any], weight: list[list[float]]) -> tuple[float, list[list[float]]]:
    """Given weights are used for the random variant alone."""
    A, loss, slope = normalized(g, c), {}, {}
    for i in rows(g):
        for j, rho in zip(tokens_of(g, i), ratios(g, i), strict=True):
            p = exp(g["logp"][i][j])
            w = min(max(c["alpha"] * (sigmoid(p * c["tau"] if c["scale"] == "multiply" else p / c["tau"]) - c["mu"]),
                        c["lower"]), c["upper"])  # fmt: skip
            w = {"shaped": w, "equal": 1.0, "reverse": 2 - w, "random": weight[i][j]}[c["variant"]]
            if c["clip_form"] == "weighted":
                value, by_ratio = smaller(w * rho, A[i], c)  # the correction stays outside this clip
                loss[i, j], slope[i, j] = -factor(g, i, j) * value, -factor(g, i, j) * by_ratio * w * rho
            else:
                value, by_ratio = smaller(rho, A[i], c)
                both = w * factor(g, i, j)
                loss[i, j], slope[i, j] = -both * value, -both * by_ratio * rho
            r = exp(g["ref"][i][j] - g["logp"][i][j])
            if c["kl_form"] == "printed":
                loss[i, j] += c["beta"] * (w * r - log(w * r) - 1)
                slope[i, j] += c["beta"] * (1 - w * r)
            else:
                loss[i, j] += c["beta"] * w * (r - log(r) - 1)
                slope[i, j] += c["beta"] * w * (1 - r)
    return averaged(g, loss, slope, "token_mean")


def covariances(g: Group, A: list[float]) -> dict[tuple[int, int], float]:
    """(logp - mean logp)(A - mean A), means over the group's tokens."""
    at = [(i, j) for i in rows(g) for j in tokens_of(g, i)]
    if not at:
        return {}
    mean_logp = sum(g["logp"][i][j] for i, j in at) / len(at)
    mean_A = sum(A[i] for i, _ in at) / len(at)
    return {(i, j): (g["logp"][i][j] - mean_logp) * (A[i] - mean_A) for i, j in at}


def cw_grpo(g: Group, c: Mapping[str, Any], _: Any) -> tuple[float, list[list[float]]]:
    """w = N exp(-c^2 / 2 s^2) / sum."""
    A = normalized(g, c)
    cov = covariances(g, A)
    s = std(list(cov.values()), "population") if cov else 0.0
    flat = not cov or s <= 1e-6 * max(map(abs, cov.values()))
    kernel = {k: 1.0 if flat else exp(-(v**2) / (2 * s**2)) for k, v in cov.items()}
    total = sum(kernel.values())
    loss, slope = clipped(g, c, A, lambda i, j: kernel[i, j] * len(kernel) / total)
    add_kl(g, c["beta"], loss, slope)
    return averaged(g, loss, slope, "sequence_mean")


def clip_cov(g: Group, c: Mapping[str, Any], weight: list[list[float]]) -> tuple[float, list[list[float]]]:
    """Which candidates are dropped is the draw's; how many and among which is not."""
    A = normalized(g, c)
    cov = covariances(g, A)
    candidates = {k for k, v in cov.items() if c["cov_low"] <= v <= c["cov_high"]}
    dropped = {k for k in cov if weight[k[0]][k[1]] == 0}
    assert dropped <= candidates
    assert len(dropped) == min(len(candidates), floor(c["ratio"] * len(cov)))
    assert all(weight[i][j] == 1 for i, j in cov.keys() - dropped)
    loss, slope = clipped(g, c, A, lambda i, j: weight[i][j])
    return averaged(g, loss, slope, "token_mean")


CLIP = {"clip_low": 0.2, "clip_high": 0.2}
STD = {"std": "sample", "eps": 1e-4}
LAMBDA = {
    "lambda_": 0.99,
    "gamma": 1.0,
    "trace": "recent",
    "update": "trace",
    "advantage_floor": -0.1,
    "trace_floor": 0.0,
    "clip_form": "ppo",
    "weight_form": "matrix",
    "soft_clamp": "sigmoid",
    "value_bound": False,
}
REGULATED = {
    "alpha": 2.0,
    "mu": 0.25,
    "lower": 1.0,
    "upper": 1.4,
    "tau": 9.0,
    "scale": "multiply",
    "clip_form": "weighted",
    "kl_form": "printed",
    "variant": "shaped",
}
DEFAULTS: dict[str, dict[str, Any]] = {
    "dr_grpo": {**CLIP, "max_tokens": 3000, "beta": 0.0},
    "dapo": {**STD, "clip_low": 0.2, "clip_high": 0.28, "beta": 0.0},
    "bnpo": {**STD, **CLIP, "beta": 0.0},
    "rloo": {**CLIP, "beta": 0.0},
    "gspo": {**STD, "clip_low": 3e-4, "clip_high": 4e-4, "beta": 0.0},
    "cispo": {**STD, **CLIP, "beta": 0.0},
    "grpo_lambda": {**STD, **CLIP, **LAMBDA, "beta": 0.04},
    "tr_grpo": {**STD, **REGULATED, "clip_low": 0.2, "clip_high": 0.24, "beta": 0.001},
    "cw_grpo": {**STD, "scope": "group", "clip_low": None, "clip_high": None, "beta": 0.0},
    "clip_cov": {**STD, **CLIP, "cov_low": 1.0, "cov_high": 5.0, "ratio": 2e-4},
}
TWINS: dict[str, Callable[[Group, Mapping[str, Any], Any], tuple[float, list[list[float]]]]] = {
    "dr_grpo": lambda g, c, _: plain(g, c, centred(g), "fixed_length"),
    "dapo": lambda g, c, _: plain(g, c, normalized(g, c), "token_mean"),
    "bnpo": lambda g, c, _: plain(g, c, normalized(g, c), "token_mean"),
    "rloo": lambda g, c, _: plain(g, c, others(g), "sequence_mean"),
    "gspo": gspo,
    "cispo": cispo,
    "grpo_lambda": grpo_lambda,
    "tr_grpo": tr_grpo,
    "cw_grpo": cw_grpo,
    "clip_cov": clip_cov,
}
