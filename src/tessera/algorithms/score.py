"""Evaluate any algorithm on one group of arrays: for notebooks, tests, and other trainers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from tessera.algorithms.base import Algorithm, TokenLoss
from tessera.algorithms.registry import build
from tessera.core.batch import Loss, Plan, Scored, TokenBatch
from tessera.core.checks import check_finite, check_shape, check_tensors
from tessera.core.errors import UserError
from tessera.core.importance import Importance, summary
from tessera.core.masking import blank, held
from tessera.core.seeding import generator
from tessera.pieces.regulariser import kl_estimate


def score_group(
    name: str,
    *,
    rewards: Tensor,
    tokens: Tensor,
    logp: Tensor,
    lengths: Tensor,
    config: Mapping[str, Any] | None = None,
    old_logp: Tensor | None = None,
    sampler_logp: Tensor | None = None,
    ref_logp: Tensor | None = None,
    eos_logp: Tensor | None = None,
    mask: Tensor | None = None,
    entropy: Tensor | None = None,
    truncated: Tensor | None = None,
    seed: int = 0,
) -> Loss:
    """The loss of algorithm `name` on one group of G completions.

    rewards float [G]; tokens long [G,T]; logp float [G,T], log-probs of the tokens under the policy (may require
    grad); lengths long [G], tokens in each completion; config: the algorithm's keys and pieces, as in a recipe;
    old_logp, ref_logp float [G,T] (default: logp without gradient); sampler_logp float [G,T], those that the engine
    gave, for an importance_correction (one that is not finite is unknown); eos_logp float [G,T], log pi(EOS | s_t), for
    advantages that use it; mask bool [G,T], False where the policy did not write the token; entropy float [G,T] and
    truncated bool [G], for selections that use them; seed of the selection and of random weights.
    What lies on a masked or padded position, NaN included, changes nothing. A regulariser over parameters is left
    out: there are none here. A logp in half precision gives a loss in float32. Raises UserError naming the argument
    for an unknown name or key, a shape that does not fit, or a value that is not finite.
    """
    if config is not None and config.get("name", name) != name:
        raise UserError(f"config names the algorithm {config['name']!r}, but name is {name!r}")
    algorithm = build({**(config or {}), "name": name})
    optional = {"old_logp": old_logp, "ref_logp": ref_logp, "eos_logp": eos_logp, "entropy": entropy}
    arrays = {"rewards": rewards, "tokens": tokens, "logp": logp, "lengths": lengths, "mask": mask}
    check_tensors(**arrays, truncated=truncated, sampler_logp=sampler_logp, **optional)
    keep = _check(algorithm, rewards, tokens, logp, lengths, mask)
    for label, given in optional.items():
        if given is not None:
            check_shape(label, given, logp.shape, "[G,T]")
            check_finite(label, given, keep)
    _check_sampler(algorithm, sampler_logp, logp)
    logp = logp.to(torch.promote_types(logp.dtype, torch.float32))  # a sum in half precision loses most tokens
    if truncated is not None:
        check_shape("truncated", truncated, lengths.shape, "[G]")
    rows = TokenBatch(
        tokens_BT=tokens.cpu(),
        lengths_B=lengths.cpu(),
        mask_BT=keep.cpu(),
        rewards_B=rewards.detach().cpu().double(),
        group_B=torch.zeros(len(lengths), dtype=torch.long),
        n_groups=1,
        truncated_B=None if truncated is None else truncated.cpu().bool(),
        entropy_BT=None if entropy is None else entropy.detach().cpu().double(),
        eos_logp_BT=None if eos_logp is None else eos_logp.detach().cpu().double(),
    )
    plan = algorithm.plan(rows, generator(seed, "selection")).to(logp.device)
    scored = algorithm.weigh(_scored(plan, logp, old_logp, ref_logp, sampler_logp))
    terms = algorithm.token_loss(scored)
    keep_BT = plan.selected_BT  # summed without the rest, so that not even the width of the padding changes a bit
    return Loss(
        value=(plan.share_BT[keep_BT].to(logp.dtype) * terms.loss_BT[keep_BT]).sum(),
        per_token=terms.loss_BT,
        advantage=scored.advantage_BT,
        weight=scored.weight_BT,
        selected=keep_BT,
        metrics=_metrics(scored, terms),
    )


def _check(
    algorithm: Algorithm, rewards: Tensor, tokens: Tensor, logp: Tensor, lengths: Tensor, mask: Tensor | None
) -> Tensor:
    """Check the arguments; return bool [G,T], True where the policy wrote the token."""
    if tokens.dim() != 2:
        raise UserError(f"tokens must have shape [G,T], got {tuple(tokens.shape)}")
    G, T = tokens.shape
    if not logp.is_floating_point():
        raise UserError(f"logp must be a float tensor, got {logp.dtype}")
    for label, given in (("tokens", tokens), ("lengths", lengths)):
        if given.is_floating_point() or given.dtype == torch.bool:
            raise UserError(f"{label} must be an integer tensor, got {given.dtype}")
    check_shape("logp", logp, (G, T), "[G,T]")
    check_shape("rewards", rewards, (G,), "[G]")
    check_shape("lengths", lengths, (G,), "[G]")
    if bool(((lengths < 0) | (lengths > T)).any()):
        raise UserError(f"lengths must lie in 0..{T}, got {lengths.tolist()}")
    check_finite("rewards", rewards)
    algorithm.check_group_size([G])
    keep = torch.arange(T, device=tokens.device) < lengths[:, None]
    if mask is not None:
        check_shape("mask", mask, (G, T), "[G,T]")
        if mask.dtype != torch.bool:
            raise UserError(f"mask must be a bool tensor, got {mask.dtype}")
        keep = keep & mask
    check_finite("logp", logp, keep)
    return keep


def _check_sampler(algorithm: Algorithm, sampler_logp: Tensor | None, logp: Tensor) -> None:
    """A correction needs the sampler's log-probs, and they have no other use."""
    if sampler_logp is None and algorithm.importance_correction is not None:
        raise UserError("importance_correction needs sampler_logp, the log-probs that the engine gave")
    if sampler_logp is not None:
        check_shape("sampler_logp", sampler_logp, logp.shape, "[G,T]")


def _scored(
    plan: Plan, logp: Tensor, old_logp: Tensor | None, ref_logp: Tensor | None, sampler_logp: Tensor | None
) -> Scored:
    keep = plan.selected_BT
    logp_BT = blank(logp, keep)
    fixed_BT = logp_BT.detach()
    return Scored(
        logp_BT=logp_BT,
        old_BT=fixed_BT if old_logp is None else blank(old_logp.detach().to(logp.dtype), keep),
        ref_BT=fixed_BT if ref_logp is None else blank(ref_logp.detach().to(logp.dtype), keep),
        advantage_BT=held(plan.advantage_BT, logp_BT),
        selected_BT=keep,
        weight_BT=torch.ones_like(fixed_BT),
        draw_BT=plan.draw_BT.to(logp.dtype),
        group_B=torch.zeros(len(logp), dtype=torch.long, device=logp.device),
        n_groups=1,
        sampler_BT=None if sampler_logp is None else blank(sampler_logp.detach().to(logp.dtype), keep),
    )


def _metrics(scored: Scored, terms: TokenLoss) -> dict[str, float]:
    """A few of the run's metrics (docs/metrics.md), over the selected tokens."""
    keep = scored.selected_BT
    count = int(keep.sum())
    if not count:
        return {"tokens/contributing": 0.0}
    kl = kl_estimate((scored.ref_BT - scored.logp_BT.detach())[keep])
    weight, advantage = scored.weight_BT[keep], scored.advantage_BT[keep]
    return {
        "tokens/contributing": float(count),
        "kl": float(kl.mean()),
        "clip_fraction/low": float(terms.clipped_low_BT.sum()) / count,
        "clip_fraction/high": float(terms.clipped_high_BT.sum()) / count,
        "exponent_bounded": float(terms.bounded_BT.sum()) / count,
        "weight/mean": float(weight.mean()),
        "advantage/mean": float(advantage.mean()),
        **summary([] if terms.importance is None else [Importance(*(x[keep] for x in terms.importance))]),
    }
