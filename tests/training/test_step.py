"""One update: however it is cut, its loss and gradient are those of `score_group` on a plain forward's log-probs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import tessera
from bench import EACH, SOME, WHOLE, Bench, bench, full_logp, learner
from tessera.algorithms import build
from tessera.core.errors import RunStopped
from tessera.core.seeding import generator
from tessera.core.types import Group, Rollout
from tessera.policy.adapters import adapter_matrices
from tessera.training.step import Update


@pytest.fixture(scope="module")
def double() -> Bench:
    return bench()


def update(on: Bench, spec: Mapping[str, Any], budget: int, groups: Sequence[Group]) -> tuple[Update, list[Tensor]]:
    made = learner(on, spec, budget)
    done = made.update(made.plan(groups, generator(5, "selection")))
    return done, made.optimizer.gradients


def expected(on: Bench, spec: Mapping[str, Any], groups: Sequence[Group]) -> tuple[float, list[Tensor]]:
    """Mean over the groups of `score_group`'s loss, plus the penalty on the adapter where there is one."""
    config = {key: value for key, value in spec.items() if key != "name"}
    losses = []
    for group in groups:
        with on.reference.active():
            ref_logp = full_logp(on, group)
        losses.append(
            tessera.score_group(
                spec["name"],
                rewards=torch.tensor([r.reward for r in group.rollouts], dtype=torch.float64),
                tokens=torch.nn.utils.rnn.pad_sequence([torch.tensor(r.ids) for r in group.rollouts], batch_first=True),
                logp=full_logp(on, group),
                lengths=torch.tensor([len(r.ids) for r in group.rollouts]),
                mask=torch.nn.utils.rnn.pad_sequence(
                    [torch.tensor(r.sampled) for r in group.rollouts], batch_first=True
                ),
                ref_logp=ref_logp,
                config=config,
                seed=5,
            ).value
        )
    loss = torch.stack(losses).mean()
    if "parameters" in build(spec).needs:
        loss = loss + spec.get("l2", 0.01) * sum(p.square().sum() for p in adapter_matrices(on.policy.model))
    on.policy.model.zero_grad()
    loss.backward()
    gradients = [p.grad.clone() for p in on.policy.trainable_parameters()]
    on.policy.model.zero_grad()
    return float(loss.detach()), gradients


def assert_same(got: tuple[Update, list[Tensor]], loss: float, gradients: list[Tensor], relative: float) -> None:
    assert got[0].loss == pytest.approx(loss, rel=relative, abs=relative)
    scale = max(float(g.norm()) for g in gradients)
    assert scale > 1e-3  # or there would be nothing to compare
    for mine, theirs in zip(got[1], gradients, strict=True):
        assert float((mine - theirs).norm()) <= relative * scale


SPECS: dict[str, dict[str, Any]] = {
    "grpo": {"name": "grpo"},
    "grpo with KL": {"name": "grpo", "beta": 0.3, "clip_low": 0.1, "clip_high": 0.3},
    "grpo, mean over tokens": {"name": "grpo", "aggregation": "token_mean"},
    "s_grpo": {"name": "s_grpo", "cutoff": 2, "max_selected": 5, "probability": 1.0, "beta": 0.3},
    "s_grpo, prefix only": {"name": "s_grpo", "cutoff": 3, "max_selected": 0, "beta": 0.0},
    "t_spmo": {"name": "t_spmo", "l2": 0.05},
    "t_spmo, all pairs": {"name": "t_spmo", "pairs": "all", "l2": 0.0},
}


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS.keys())
@pytest.mark.parametrize(("dtype", "relative"), [(torch.float64, 1e-9), (torch.float32, 1e-5)])
def test_an_update_is_score_group_however_it_is_cut(
    double: Bench, dtype: torch.dtype, relative: float, spec: dict[str, Any]
) -> None:
    on = double if dtype is torch.float64 else bench(dtype)
    loss, gradients = expected(on, spec, on.groups)
    for budget in (WHOLE, SOME, EACH):
        assert_same(update(on, spec, budget, on.groups), loss, gradients, relative)


def test_the_budgets_cut_into_one_some_and_one_a_row(double: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = []
    for budget in (WHOLE, SOME, EACH):
        made = learner(double, {"name": "grpo", "beta": 0.3}, budget)
        cuts: list[int] = []
        inner = made._micro_batch
        monkeypatch.setattr(
            made,
            "_micro_batch",
            lambda p, part, w, done, i=inner, c=cuts: (c.append(len(part.part)), i(p, part, w, done)),
        )
        made.update(made.plan(double.groups, generator(5, "selection")))
        assert sum(cuts) == 15
        counts.append(len(cuts))
    assert counts[0] == 1
    assert 2 <= counts[1] <= 7
    assert counts[2] == 15


def test_a_drawn_selection_is_score_groups(double: Bench) -> None:
    """One group, so that both draw from the same stream."""
    spec = {"name": "s_grpo", "cutoff": 1, "max_selected": 6, "probability": 0.5, "beta": 0.2}
    group = [double.groups[1]]
    loss, gradients = expected(double, spec, group)
    for budget in (WHOLE, SOME, EACH):
        assert_same(update(double, spec, budget, group), loss, gradients, 1e-9)


def with_rewards(group: Group, rewards: Sequence[float | None]) -> Group:
    rollouts = zip(group.rollouts, rewards, strict=True)
    return replace(group, rollouts=tuple(replace(r, reward=reward) for r, reward in rollouts))


def test_rollouts_without_a_reward_take_no_part(double: Bench) -> None:
    group = double.groups[0]
    holed = with_rewards(group, [0.0, None, 0.25, 1.0, None])
    kept = replace(group, rollouts=tuple(r for r in holed.rollouts if r.reward is not None))
    spec = SPECS["grpo with KL"]
    loss, gradients = expected(double, spec, [kept])
    assert_same(update(double, spec, SOME, [holed]), loss, gradients, 1e-9)


def test_a_group_too_small_to_compare_leaves_the_mean(double: Bench) -> None:
    lonely = with_rewards(double.groups[1], [1.0, None, None, None, None])
    spec = SPECS["grpo"]
    loss, gradients = expected(double, spec, [double.groups[0]])
    assert_same(update(double, spec, SOME, [double.groups[0], lonely]), loss, gradients, 1e-9)


def test_nothing_left_is_no_update(double: Bench) -> None:
    failed = [with_rewards(group, [None] * 5) for group in double.groups]
    flat = [with_rewards(group, [1.0] * 5) for group in double.groups]
    for groups in (failed, flat):
        made = learner(double, SPECS["grpo"])
        done = made.update(made.plan(groups, generator(0)))
        assert (done.loss, done.grad_norm, done.contributing, done.scored) == (0.0, None, 0, 0)
        assert not done.carried_credit
        assert not hasattr(made.optimizer, "gradients")


def test_a_penalty_alone_is_an_update_without_credit(double: Bench) -> None:
    """Equal rewards: no advantage, but the policy has left the reference, and the KL pulls it back."""
    flat = [with_rewards(double.groups[0], [1.0] * 5)]
    done, gradients = update(double, SPECS["grpo with KL"], SOME, flat)
    assert done.grad_norm == pytest.approx(math.sqrt(sum(float(g.square().sum()) for g in gradients)))
    assert done.grad_norm > 0.01
    assert not done.carried_credit
    assert update(double, SPECS["grpo with KL"], SOME, double.groups)[0].carried_credit


def masked(group: Group) -> Group:
    """Every row's third and fourth token written by a tool."""

    def rollout(r: Rollout) -> Rollout:
        own = tuple(t not in (2, 3) for t in range(len(r.ids)))
        logprobs = tuple(p if o else None for p, o in zip(r.logprobs, own, strict=True))
        return replace(r, sampled=own, logprobs=logprobs)

    return replace(group, rollouts=tuple(map(rollout, group.rollouts)))


@pytest.mark.parametrize("name", ["grpo with KL", "s_grpo", "t_spmo"])
def test_tokens_of_a_tool_are_read_and_not_learnt(double: Bench, name: str) -> None:
    groups = [masked(group) for group in double.groups]
    loss, gradients = expected(double, SPECS[name], groups)
    done, found = update(double, SPECS[name], SOME, groups)
    assert_same((done, found), loss, gradients, 1e-9)
    if name == "grpo with KL":
        assert done.contributing == sum(sum(r.sampled) for group in groups for r in group.rollouts)


def test_what_is_seen_at_the_scored_tokens(double: Bench) -> None:
    spec = SPECS["grpo with KL"]
    done, _ = update(double, spec, EACH, double.groups)
    tokens = [
        (g, i, t)
        for g, group in enumerate(double.groups)
        for i, r in enumerate(group.rollouts)
        for t in range(len(r.ids))
    ]
    assert done.contributing == done.scored == len(tokens)
    with torch.no_grad():
        logp = [full_logp(double, group) for group in double.groups]
        with double.reference.active():
            ref = [full_logp(double, group) for group in double.groups]
    d = torch.stack([ref[g][i, t] - logp[g][i, t] for g, i, t in tokens])
    seen = {
        name: torch.cat(getattr(done.tokens, name)) for name in ("kl", "entropy", "advantage", "weight", "mismatch")
    }
    assert {name: len(vector) for name, vector in seen.items()} == dict.fromkeys(seen, len(tokens))
    assert float(seen["kl"].mean()) == pytest.approx(float((d.exp() - d - 1).mean()), rel=1e-9)
    assert float(seen["mismatch"].abs().max()) < 1e-5  # the sampler's log-probs went through float32
    assert float(seen["weight"].min()) == float(seen["weight"].max()) == 1.0
    # Group 0 has rewards 0 1 .25 1 0, mean .45: its first row has the advantage -.45 / (std + 1e-4).
    std = torch.tensor([0.0, 1.0, 0.25, 1.0, 0.0], dtype=torch.float64).std()
    assert seen["advantage"].min().item() <= -0.45 / (float(std) + 1e-4) + 1e-9
    assert (done.tokens.clipped_low, done.tokens.clipped_high) == (0, 0)  # one update a rollout: the ratio is 1


def test_without_a_reference_there_is_no_kl(double: Bench) -> None:
    assert update(double, SPECS["grpo"], SOME, double.groups)[0].tokens.kl == []


def test_a_sampler_of_another_temperature_shows(double: Bench) -> None:
    made = learner(double, SPECS["grpo with KL"])
    made.temperature = 1.0
    mismatch = torch.cat(made.update(made.plan(double.groups, generator(0))).tokens.mismatch)
    sampled = torch.tensor([p for group in double.groups for r in group.rollouts for p in r.logprobs])
    with torch.no_grad():
        scored = torch.cat(
            [
                full_logp(double, group, 1.0)[i, : len(r.ids)]
                for group in double.groups
                for i, r in enumerate(group.rollouts)
            ]
        )
    assert float(mismatch.mean()) == pytest.approx(float((sampled - scored).mean()), abs=1e-5)
    assert float(mismatch.mean()) > 0.1


def test_t_spmo_contributes_a_pair_once(double: Bench) -> None:
    """Two completions share their first three tokens and differ in the fourth; a third differs from the first on."""
    template = double.groups[0].rollouts[0]
    rows = [((60, 61, 62, 63), 1.0), ((60, 61, 62, 64), 0.0), ((70, 71), 0.0)]
    rollouts = tuple(
        replace(template, ids=ids, sampled=(True,) * len(ids), logprobs=(-1.0,) * len(ids), reward=reward)
        for ids, reward in rows
    )
    group = replace(double.groups[0], rollouts=rollouts)
    # 60 (1/2 - 1/3) and 70 (0 - 1/3) after the prompt, 63 and 64 (+-1/2) after 60 61 62; 61, 62 and 71 tell nothing.
    assert update(double, SPECS["t_spmo"], WHOLE, [group])[0].contributing == 4
    assert update(double, SPECS["t_spmo, all pairs"], WHOLE, [group])[0].contributing == 4
    informative, every = (
        update(double, {**SPECS[name], "l2": 0.0}, WHOLE, [group])[0].loss for name in ("t_spmo", "t_spmo, all pairs")
    )
    assert every == pytest.approx(informative * 4 / 7)  # the other three only stand in the denominator


@pytest.mark.parametrize("how", ["switched off", "frozen"])
def test_an_adapter_that_cannot_learn_stops_the_run(how: str) -> None:
    on = bench()
    made = learner(on, SPECS["grpo"])
    if how == "switched off":
        on.policy.model.base_model.disable_adapter_layers()
    for p in on.policy.trainable_parameters() if how == "frozen" else ():
        p.requires_grad_(False)
    with pytest.raises(RunStopped, match="no log-prob depends on a trainable parameter"):
        made.update(made.plan(on.groups, generator(0)))


def test_only_the_adapter_that_learns_is_penalised() -> None:
    on = bench()
    spec = SPECS["t_spmo"]
    before = update(on, spec, WHOLE, on.groups)[0].loss
    on.policy.model.add_adapter("other", on.policy.model.peft_config["default"])
    on.policy.model.set_adapter("default")
    assert update(on, spec, WHOLE, on.groups)[0].loss == pytest.approx(before, rel=1e-12)
