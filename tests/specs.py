"""What every algorithm is tried with: its defaults, and settings that a small group exercises better."""

from tessera.algorithms import registered

SHARPER = {
    "grpo": [{"beta": 0.1, "clip_low": 0.1, "aggregation": "token_mean"}, {"aggregation": "batch_token_mean"}],
    "s_grpo": [{"cutoff": 1, "max_selected": 3, "probability": 0.5}],
    "t_spmo": [{"pairs": "all"}, {"surrogate": "clipped_ratio", "regulariser": {"name": "kl", "beta": 0.1}}],
    "grpo_lambda": [
        {"lambda_": 0.6, "trace": "both", "trace_floor": 0.2, "clip_form": "printed_algorithm"},
        {"update": "weight", "lambda_": 0.8, "advantage_floor": None},
        {"update": "weight", "weight_form": "row_sum", "soft_clamp": "tanh", "clip_high": None},
        {"value_bound": True, "beta": 0.0},
        {"advantage": "prefix_value", "weight": "covariance_kernel"},
    ],
    "tr_grpo": [
        {"lower": 0.5, "upper": 1.5, "clip_form": "ratio", "kl_form": "scaled", "beta": 0.1},
        {"variant": "random"},
        {"variant": "reverse", "scale": "divide", "lower": 0.2},
    ],
    "cw_grpo": [{"scope": "step", "clip_low": 0.1, "clip_high": 0.1, "beta": 0.1}, {"selection": "high_entropy"}],
    "clip_cov": [
        {"cov_low": -1.0, "cov_high": 1.0, "ratio": 0.3},
        {"selection": ["complete", {"name": "random_fraction", "fraction": 0.9}]},
    ],
    "dapo": [{"selection": {"name": "high_entropy", "scope": "group"}}, {"selection": "complete"}],
    "gspo": [{"clip_low": 0.2, "clip_high": 0.2, "beta": 0.1, "weight": "token_regulated"}],
    "cispo": [{"clip_low": None, "weight": "covariance_kernel"}],
    "rloo": [
        {"beta": 0.1, "selection": {"name": "random_fraction", "fraction": 0.5}},
        {"importance_correction": {"name": "masked", "low": 0.8, "high": 1.3}},
    ],
}
# Whatever the method, another program may have sampled.
CORRECTED = [{"importance_correction": {"name": "truncated", "cap": 1.2}}]
SPECS = [{"name": name, **extra} for name in registered() for extra in [{}, *SHARPER.get(name, []), *CORRECTED]]
