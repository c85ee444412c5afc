"""Which compositions verl 0.9 can run exactly, and why not the others.

verl's advantage estimators see the rewards of a whole batch, but no token and no log-prob. Its policy losses see the
log-probs and advantages of one micro-batch, but no reference, no reward and no group.
"""

from __future__ import annotations

from collections.abc import Iterator

from tessera.algorithms import registered
from tessera.algorithms.base import Algorithm
from tessera.core.errors import UserError

# The aggregations that verl has, when all groups are of one size, by its name for them.
MODES = {
    "sequence_mean": "seq-mean-token-mean",
    "batch_token_mean": "token-mean",
    "fixed_length": "seq-mean-token-sum-norm",
}
# What a plan may need, and verl's estimators are not given.
UNSEEN = {
    "by_prefix": "the tokens of the completions",
    "entropy": "entropies",
    "eos_logp": "log-probs of ending",
    "truncated": "which completions were cut",
}


def default_spec(name: str) -> dict[str, object]:
    """What is registered as `tessera_NAME`: the algorithm without its KL penalty, which verl adds itself.

    A mean over a group's tokens becomes one over the mini-batch's, since verl's losses do not see groups.
    """
    keys = registered()[name].config.model_fields
    spec: dict[str, object] = {"name": name}
    if "beta" in keys:
        spec["beta"] = 0.0
    if registered()[name].compose(registered()[name].config()).aggregation.name == "token_mean":
        spec["aggregation"] = "batch_token_mean"
    return spec


def check_fits(algorithm: Algorithm) -> None:
    """Raise UserError with the first reason why verl's interface cannot hold the composition."""
    for reason in _reasons(algorithm):
        raise UserError(f"{algorithm.name} does not fit verl's interface: {reason}")


def _reasons(algorithm: Algorithm) -> Iterator[str]:
    needs, given = algorithm.needs, algorithm.advantage.gives | algorithm.needs
    for need, what in UNSEEN.items():
        if need in given:
            yield f"it needs {what}, and an advantage estimator gets none"
    if "statistics" in needs:
        yield (
            f"weight {algorithm.weight.name} compares tokens of the whole step, and a policy loss sees one micro-batch"
        )
    if "parameters" in needs:
        yield f"regulariser {algorithm.regulariser.name} is over parameters, and a policy loss sees none"
    if "ref_logp" in needs:
        yield (
            f"regulariser {algorithm.regulariser.name} needs a reference, and a policy loss gets none: set beta to 0, "
            "and for a plain KL verl's actor.use_kl_loss"
        )
    if algorithm.importance_correction is not None:
        yield "a correction needs the sampler's log-probs, and a policy loss gets none: use verl's rollout_correction"
    if algorithm.weight.config.get("variant") == "random":
        yield "a random weight needs the plan's draws, and a policy loss gets none"
    yield from _aggregation(algorithm)


def _aggregation(algorithm: Algorithm) -> Iterator[str]:
    name, selection = algorithm.aggregation.name, algorithm.selection.name
    if name not in MODES:
        yield f"aggregation {name} is not one of verl's; there are {', '.join(MODES)}"
    if name == "batch_token_mean" and selection != "all":
        yield f"aggregation batch_token_mean divides by the tokens of selection {selection}; verl counts every token"
