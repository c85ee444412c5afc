"""Several updates with one batch of rollouts, and statistics over the whole step, for every method."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import tessera
from bench import EACH, SOME, WHOLE, Bench, bench, everything, full_logp, learner, stir
from tessera.algorithms import registered
from tessera.core.seeding import generator
from tessera.policy.adapters import adapter_state, set_adapter_state

LIVE: dict[str, dict[str, Any]] = {  # settings under which a small group exercises the method
    "grpo_lambda": {"lambda_": 0.7, "beta": 0.1},
    "tr_grpo": {"lower": 0.5, "upper": 1.5, "beta": 0.1},
    "clip_cov": {"cov_low": -1.0, "cov_high": 1.0, "ratio": 0.3},
    "cw_grpo": {"scope": "step"},
    "s_grpo": {"cutoff": 2, "max_selected": 6, "probability": 0.5, "beta": 0.2},
    "dr_grpo": {"max_tokens": 12},
}
SPECS = [{"name": name, **LIVE.get(name, {})} for name in registered()] + [
    {"name": "grpo_lambda", "value_bound": True, "update": "weight"},
    {"name": "tr_grpo", "variant": "random"},
    {"name": "cw_grpo", "selection": {"name": "high_entropy", "fraction": 0.5}, "beta": 0.1},
    {"name": "gspo", "selection": "complete", "clip_low": 0.2, "clip_high": 0.2},
]


def label(spec: dict[str, Any]) -> str:
    return "-".join([spec["name"], *(key for key in spec if key != "name")])


@pytest.fixture(scope="module")
def on() -> Bench:
    return bench()


def twice(on: Bench, spec: dict[str, Any], budget: int, groups: list[Any]) -> list[tuple[float, list[Tensor]]]:
    """Loss and gradient of two updates with one plan, the policy moved in between and put back at the end."""
    made, start = learner(on, spec, budget), adapter_state(on.policy.model)
    planned, found = made.plan(groups, generator(5, "selection")), []
    for seed in (None, 7):
        if seed is not None:
            stir(on.policy, seed)
        done = made.update(planned)
        penalty = made.algorithm.parameter_loss(on.policy.trainable_parameters())
        found.append((done.loss - (0.0 if penalty is None else float(penalty.detach())), made.optimizer.gradients))
    set_adapter_state(on.policy.model, start)
    return found


@pytest.mark.parametrize("spec", SPECS, ids=label)
def test_every_inner_update_is_score_group(on: Bench, spec: dict[str, Any]) -> None:
    group, start = on.groups[1], adapter_state(on.policy.model)
    known, old = everything(on, group), full_logp(on, group).detach()
    config = {key: value for key, value in spec.items() if key != "name"}
    config |= {"l2": 0.0} if "l2" in registered()[spec["name"]].config.model_fields else {}
    expected = []
    for seed in (None, 7):
        if seed is not None:
            stir(on.policy, seed)
        given = {**known, "logp": full_logp(on, group), "old_logp": old}
        loss = tessera.score_group(spec["name"], config=config, seed=5, **given).value
        gradients = torch.autograd.grad(loss, on.policy.trainable_parameters())
        expected.append((float(loss.detach()), gradients))
    set_adapter_state(on.policy.model, start)
    assert expected[0][0] != expected[1][0]
    for budget in (WHOLE, EACH):
        for (loss, gradients), (value, wanted) in zip(
            twice(on, {**spec, **config}, budget, [group]), expected, strict=True
        ):
            assert loss == pytest.approx(value, rel=1e-9, abs=1e-9)
            for mine, theirs in zip(gradients, wanted, strict=True):
                torch.testing.assert_close(mine, theirs, rtol=1e-8, atol=1e-9)
            assert any(theirs.abs().max() > 1e-4 for theirs in wanted)


@pytest.mark.parametrize("spec", SPECS, ids=label)
def test_a_step_of_several_groups_is_the_same_however_it_is_cut(on: Bench, spec: dict[str, Any]) -> None:
    whole, *cut = [twice(on, spec, budget, on.groups) for budget in (WHOLE, SOME, EACH)]
    for other in cut:
        for (loss, gradients), (value, wanted) in zip(other, whole, strict=True):
            assert loss == pytest.approx(value, rel=1e-10, abs=1e-10)
            for mine, theirs in zip(gradients, wanted, strict=True):
                torch.testing.assert_close(mine, theirs, rtol=1e-8, atol=1e-10)
            assert any(theirs.abs().max() > 1e-4 for theirs in wanted)


def test_clipping_is_live_from_the_second_update_on(on: Bench) -> None:
    made, start = learner(on, {"name": "grpo"}), adapter_state(on.policy.model)
    planned = made.plan(on.groups, generator(0))
    first = made.update(planned)
    stir(on.policy, 9)
    second = made.update(planned)
    set_adapter_state(on.policy.model, start)
    assert (first.tokens.clipped_low, first.tokens.clipped_high) == (0, 0)
    assert second.tokens.clipped_low > 0
    assert second.tokens.clipped_high > 0
    assert (first.contributing, second.contributing) == (first.scored, 0)  # the same tokens, counted once
    assert len(first.tokens.mismatch) == 1
    assert not second.tokens.mismatch  # the sampler is an update behind


def test_positions_scored_for_statistics_and_for_the_plan_are_counted(on: Bench) -> None:
    tokens = sum(len(r.ids) for group in on.groups for r in group.rollouts)
    flat = sum(len(r.ids) for r in on.groups[2].rollouts)  # equal rewards: scored for statistics, without gradient
    plain = learner(on, {"name": "grpo"})
    weighed = learner(on, {"name": "cw_grpo"})
    entropy = learner(on, {"name": "grpo", "selection": {"name": "high_entropy", "fraction": 1.0}})
    found = [made.update(made.plan(on.groups, generator(0))) for made in (plain, weighed, entropy)]
    assert [done.scored for done in found] == [tokens - flat, 2 * tokens - flat, 2 * tokens - flat]
    assert {done.contributing for done in found} == {tokens - flat}
