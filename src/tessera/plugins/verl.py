"""Tessera's advantages and policy losses under verl's names (verl 0.9), loaded by verl through the entry point.

`algorithm.adv_estimator: tessera_NAME` and `actor.policy_loss.loss_mode: tessera_NAME`. A token that the selection left
out has advantage 0: that is how the loss, which sees one micro-batch, knows it. With `register` a composition of one's
own gets a name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from tessera.algorithms import build, registered
from tessera.algorithms.base import Algorithm
from tessera.core.batch import Plan, TokenBatch
from tessera.core.errors import UserError
from tessera.core.masking import blank
from tessera.plugins.planning import plan_rows, scored_rows
from tessera.plugins.verl_fit import MODES, check_fits, default_spec

try:
    from verl.trainer.ppo.core_algos import agg_loss, register_adv_est, register_policy_loss
except ImportError as error:
    raise UserError("tessera.plugins.verl needs verl 0.9: see docs/plugins.md") from error

DEFAULT_CLIP = 0.2  # verl's
CLIPS = {"clip_ratio_low": "clip_low", "clip_ratio_high": "clip_high"}  # verl's keys, and a surrogate's


def register(name: str, spec: str | Mapping[str, Any]) -> None:
    """Give verl the advantage estimator and the policy loss of `spec`, read as in a recipe, under `name`.

    For a module of one's own named in VERL_USE_EXTERNAL_MODULES. UserError where verl's interface cannot hold it.
    """
    algorithm = build(spec)
    check_fits(algorithm)
    register_adv_est(name)(partial(advantages, algorithm))
    register_policy_loss(name)(partial(policy_loss, algorithm))


def advantages(
    algorithm: Algorithm,
    *,
    token_level_rewards: Tensor,
    response_mask: Tensor,
    index: Any,
    config: Any = None,
    **_: Any,
) -> tuple[Tensor, Tensor]:
    """verl's (advantages, returns) [B,T], the same twice: 0 where not selected. `index` names the rows' groups."""
    if config is not None and not config.get("norm_adv_by_std_in_grpo", True):
        raise UserError("norm_adv_by_std_in_grpo is of verl's own estimators: give the advantage's scale to `register`")
    mask_BT = response_mask.bool().cpu()
    numbers = {name: i for i, name in enumerate(dict.fromkeys(index))}
    batch = TokenBatch(
        tokens_BT=mask_BT.new_zeros((len(mask_BT), 0), dtype=torch.long),  # no piece that fits reads them
        lengths_B=mask_BT.sum(dim=1),
        mask_BT=mask_BT,
        rewards_B=token_level_rewards.sum(dim=-1).double().cpu(),
        group_B=torch.tensor([numbers[name] for name in index], dtype=torch.long),
        n_groups=len(numbers),
    )
    draws = torch.Generator().manual_seed(int(torch.randint(2**62, ())))  # verl seeds torch, and tells no step
    plan = plan_rows(algorithm, batch, draws)
    credit_BT = (plan.advantage_BT * plan.selected_BT).to(token_level_rewards)
    return credit_BT, credit_BT


def policy_loss(
    algorithm: Algorithm,
    *,
    old_log_prob: Tensor,
    log_prob: Tensor,
    advantages: Tensor,
    response_mask: Tensor,
    loss_agg_mode: str,
    config: Any,
    rollout_is_weights: Tensor | None = None,
) -> tuple[Tensor, dict[str, float]]:
    """verl's (loss, metrics) of a micro-batch; the aggregation is verl's own `agg_loss`."""
    _check(algorithm, config, loss_agg_mode)
    keep_BT = response_mask.bool()
    if "whole_rows" not in algorithm.selection.gives:
        keep_BT = keep_BT & (advantages != 0)
    nothing_BT = torch.zeros_like(advantages)
    plan = Plan(advantages, keep_BT, nothing_BT, keep_BT, nothing_BT)
    groups = torch.zeros(len(keep_BT), dtype=torch.long, device=keep_BT.device)
    scored = algorithm.weigh(scored_rows(plan, log_prob, old_log_prob, old_log_prob, groups))
    terms = algorithm.token_loss(scored)
    loss_BT = terms.loss_BT if rollout_is_weights is None else terms.loss_BT * rollout_is_weights
    whole = {"global_batch_size": len(keep_BT), **{k: v for k, v in config.global_batch_info.items() if v is not None}}
    whole["loss_scale_factor"] = algorithm.aggregation.config.get("max_tokens")
    loss = agg_loss(loss_mat=loss_BT, loss_mask=keep_BT, loss_agg_mode=loss_agg_mode, **whole)
    clipped_BT = terms.clipped_low_BT | terms.clipped_high_BT
    change_BT = scored.old_BT - scored.logp_BT.detach()
    shown = {"pg_clipfrac": clipped_BT, "ppo_kl": change_BT, "weight_mean": scored.weight_BT}
    count = keep_BT.sum().clamp(min=1)
    return loss, {f"actor/{key}": float(blank(x_BT.float(), keep_BT).sum() / count) for key, x_BT in shown.items()}


def _check(algorithm: Algorithm, config: Any, mode: str) -> None:
    """Refuse settings of verl's actor that contradict the algorithm."""
    own = MODES[algorithm.aggregation.name]
    if mode != own:
        raise UserError(f"actor.loss_agg_mode is {mode!r}, and {algorithm.name} averages by {own!r}: set that")
    for key, clip in CLIPS.items():
        value = config.get(key, DEFAULT_CLIP)
        if value not in (DEFAULT_CLIP, algorithm.surrogate.config.get(clip)):
            raise UserError(
                f"actor.{key} = {value} is of verl's own losses: give {clip} of {algorithm.name} to `register`"
            )
    if "on_policy" in algorithm.needs and config.get("ppo_epochs", 1) > 1:
        raise UserError(f"{algorithm.name}'s surrogate has no ratio: one update a rollout, so set actor.ppo_epochs=1")


def _refuse(error: UserError) -> Callable[..., Any]:
    """What stands under the name of an algorithm that does not fit: verl would call it an unknown one."""

    def refused(*_: Any, **__: Any) -> Any:
        raise error

    return refused


def _register_all() -> None:
    for name in registered():
        label, spec = f"tessera_{name}", default_spec(name)
        try:
            register(label, spec)
        except UserError as error:
            register_adv_est(label)(_refuse(error))
            register_policy_loss(label)(_refuse(error))


_register_all()
