"""What of TRL's arguments an algorithm of the registry decides itself, and what cannot carry over."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from tessera.algorithms.base import Algorithm
from tessera.core.errors import UserError

# Arguments of TRL's own objective: their name, and what says the same of an algorithm.
OBJECTIVE = {
    "loss_type": "`algorithm` names the objective",
    "epsilon": "give clip_low and clip_high in `algorithm`",
    "epsilon_high": "give clip_high in `algorithm`",
    "delta": "give clip_high in `algorithm`",
    "importance_sampling_level": "algorithm gspo has one ratio a completion",
    "scale_rewards": "give advantage: {name: group_normalized, scale: ...} in `algorithm`",
    "multi_objective_aggregation": "rewards are added with reward_weights, and the algorithm makes the advantage",
    "mask_truncated_completions": "give selection: complete in `algorithm`",
    "top_entropy_quantile": "give selection: {name: high_entropy, fraction: ...} in `algorithm`",
    "entropy_coef": "no algorithm has an entropy bonus",
    "use_adaptive_entropy": "no algorithm has an entropy bonus",
    "off_policy_mask_threshold": "no algorithm drops completions by their ratio",
}
# Keys of a stage of a recipe that a user may look for here, and who does it under TRL.
STAGE = {
    "replay": "TRL starts every completion at its prompt",
    "rollouts": "TRL samples: use GRPOConfig's arguments",
    "compute": "TRL scores every token: use GRPOConfig's arguments",
    "updates_per_rollout": "use GRPOConfig's num_iterations",
}


def check_spec(spec: str | Mapping[str, Any]) -> None:
    """Refuse keys that belong to a stage, not to an algorithm."""
    for key in STAGE.keys() & (spec.keys() if isinstance(spec, Mapping) else set()):
        raise UserError(f"{key} is not part of an algorithm and does not carry over: {STAGE[key]}")


def settled(algorithm: Algorithm, args: Any) -> Any:
    """A copy of `args` that asks TRL for what the algorithm needs; UserError for what the two disagree about."""
    for f in fields(args):
        if f.name in OBJECTIVE and getattr(args, f.name) != f.default:
            value = getattr(args, f.name)
            raise UserError(
                f"{f.name} = {value!r} is of TRL's objective, not of {algorithm.name}'s: {OBJECTIVE[f.name]}"
            )
    _check_on_policy(algorithm, args)
    args = copy.copy(args)
    args.beta = _beta(algorithm, args.beta)
    args.vllm_importance_sampling_correction = False  # TRL's default; the algorithm's own is off until it is asked for
    return args


def _check_on_policy(algorithm: Algorithm, args: Any) -> None:
    every = args.steps_per_generation * args.num_iterations
    if "on_policy" in algorithm.needs and args.gradient_accumulation_steps % every:
        raise UserError(
            f"{algorithm.name}'s surrogate {algorithm.surrogate.name!r} has no ratio: one update a rollout, so "
            "gradient_accumulation_steps must be a multiple of steps_per_generation * num_iterations, got "
            f"{args.gradient_accumulation_steps} and {every}"
        )


def _beta(algorithm: Algorithm, asked: float) -> float:
    """The strength of the penalty. TRL makes a reference where it is not 0."""
    needed = "ref_logp" in algorithm.needs
    own = float(algorithm.regulariser.config.get("beta", 0.0)) if needed else 0.0
    if asked not in (0.0, own):
        raise UserError(f"beta = {asked} is not {algorithm.name}'s, which is {own}: give beta in `algorithm`")
    return own or float(needed)
