"""Training from another sampler: the correction in an update, in the metrics and in whole runs; what is refused."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import tessera
from bench import EACH, SOME, WHOLE, Bench, bench, everything, full_logp, learner, stir
from runs import rl, rows_of, run
from tessera.algorithms import registered
from tessera.core.errors import RunStopped, UserError
from tessera.core.seeding import generator
from tessera.core.types import Completion, Group
from tessera.policy.adapters import adapter_state, set_adapter_state
from tessera.rollout.engine import Request, Sampling
from tessera.rollout.hf import HFEngine
from tiny import TINY_LORA, tiny_policy

CORRECTION = {"name": "truncated", "cap": 1.3}
LIVE: dict[str, dict[str, Any]] = {  # settings under which a small group exercises the method
    "s_grpo": {"cutoff": 2, "max_selected": 6, "probability": 0.5, "beta": 0.2},
    "clip_cov": {"cov_low": -1.0, "cov_high": 1.0, "ratio": 0.3},
    "t_spmo": {"l2": 0.0},
}
SPECS = [{"name": name, **LIVE.get(name, {}), "importance_correction": CORRECTION} for name in registered()]


@pytest.fixture(scope="module")
def on() -> Bench:
    """A bench whose sampler was up to 0.5 off in each log-prob, and did not know every fifth one."""
    made = bench()
    noise = torch.Generator().manual_seed(4)
    return replace(made, groups=[elsewhere(group, noise) for group in made.groups])


def elsewhere(group: Group, noise: torch.Generator) -> Group:
    """The group as another sampler would have reported it: the same prefix has the same log-prob everywhere."""
    told: dict[tuple[int, ...], float] = {}
    rollouts = []
    for rollout in group.rollouts:
        logprobs = []
        for t, logp in enumerate(rollout.logprobs):
            assert logp is not None
            off = float(torch.rand((), generator=noise)) - 0.5
            logprobs.append(told.setdefault(rollout.ids[: t + 1], math.nan if len(told) % 5 == 4 else logp + off))
        rollouts.append(replace(rollout, logprobs=tuple(logprobs)))
    return replace(group, rollouts=tuple(rollouts))


def sampler_logp(group: Group) -> Tensor:
    lines = [torch.tensor(r.logprobs, dtype=torch.float64) for r in group.rollouts]
    return torch.nn.utils.rnn.pad_sequence(lines, batch_first=True, padding_value=math.nan)


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec["name"])
def test_an_update_is_score_group_with_the_samplers_log_probs_however_it_is_cut(
    on: Bench, spec: dict[str, Any]
) -> None:
    group, start = on.groups[1], adapter_state(on.policy.model)
    given = {**everything(on, group), "sampler_logp": sampler_logp(group), "old_logp": full_logp(on, group).detach()}
    config = {key: value for key, value in spec.items() if key != "name"}
    expected, plain = [], []
    for seed in (None, 7):  # the second update is an inner one: its policy has moved, and the correction has not
        if seed is not None:
            stir(on.policy, seed)
        logp = full_logp(on, group)
        loss = tessera.score_group(spec["name"], config=config, seed=5, logp=logp, **given).value
        expected.append((float(loss.detach()), torch.autograd.grad(loss, on.policy.trainable_parameters())))
        without = {key: value for key, value in config.items() if key != "importance_correction"}
        uncorrected = tessera.score_group(spec["name"], config=without, seed=5, logp=logp, **given)
        plain.append(float(uncorrected.value.detach()))
    set_adapter_state(on.policy.model, start)
    assert all(value != uncorrected for (value, _), uncorrected in zip(expected, plain, strict=True))
    for budget in (WHOLE, SOME, EACH):
        made = learner(on, spec, budget)
        planned = made.plan([group], generator(5, "selection"))
        for (value, gradients), seed in zip(expected, (None, 7), strict=True):
            if seed is not None:
                stir(on.policy, seed)
            assert made.update(planned).loss == pytest.approx(value, rel=1e-6, abs=1e-8)
            for mine, theirs in zip(made.optimizer.gradients, gradients, strict=True):
                torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-8)
        set_adapter_state(on.policy.model, start)


def test_a_step_of_several_groups_is_the_same_however_it_is_cut(on: Bench) -> None:
    found = []
    for budget in (WHOLE, SOME, EACH):
        made = learner(on, {"name": "grpo", "beta": 0.2, "importance_correction": CORRECTION}, budget)
        done = made.update(made.plan(on.groups, generator(5, "selection")))
        told = torch.cat(done.tokens.mismatch)
        factors = torch.cat([part.factor_BT for part in done.tokens.importance])
        found.append((done.loss, made.optimizer.gradients, sorted(factors.tolist()), int(told.isnan().sum())))
    for loss, gradients, factors, unknown in found[1:]:
        assert loss == pytest.approx(found[0][0], rel=1e-10)
        torch.testing.assert_close(gradients, found[0][1], rtol=1e-8, atol=1e-10)
        assert factors == pytest.approx(found[0][2], rel=1e-9)
        assert unknown == found[0][3] > 0
    assert max(found[0][2]) == 1.3


def test_inner_updates_are_not_counted_again(on: Bench) -> None:
    made = learner(on, SPECS[0])
    planned = made.plan(on.groups, generator(0))
    assert [len(made.update(planned).tokens.importance) for _ in range(2)] == [1, 0]


class Colder(HFEngine):
    """Samples from a sharper policy than it is asked for, and does not know the first log-prob of a completion."""

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Completion]:
        found = super().generate(requests, sampling.model_copy(update={"temperature": 0.8 * sampling.temperature}))
        return [Completion(c.ids, (math.nan, *c.logprobs[1:]), c.finish_reason) for c in found]


def test_a_run_says_what_it_corrected(tmp_path: Path) -> None:
    loose = {"truncation_rate": 1.0, "mismatch": 3.0}
    policy = tiny_policy()
    stage = rl({"name": "grpo", "importance_correction": CORRECTION}, sentinels=loose)
    run(tmp_path / "corrected", stage, policy=policy, engine=Colder(policy))
    for row in rows_of(tmp_path / "corrected", "rl"):
        assert row["mismatch/unknown"] == 6  # a completion each
        assert row["mismatch/mean"] > 0.01
        assert 0 < row["importance/truncated"] < 1
        assert row["importance/kept"] == 1.0
        assert 0 < row["importance/ess"] < 1
        assert row["importance/max"] > 1.3 > row["importance/mean"] > 0
    run(tmp_path / "plain", rl(steps=1))
    assert not [key for key in rows_of(tmp_path / "plain", "rl")[0] if key.startswith("importance/")]
    assert rows_of(tmp_path / "plain", "rl")[0]["mismatch/unknown"] == 0
    other = tiny_policy()
    with pytest.raises(RunStopped, match="disagree by nan"):  # nothing would say whether the sampler is the trainer
        run(tmp_path / "uncorrected", rl(sentinels=loose), policy=other, engine=Colder(other))


def test_where_sampler_and_trainer_are_one_the_correction_changes_little(tmp_path: Path) -> None:
    run(tmp_path, rl({"name": "s_grpo", "importance_correction": "truncated"}))
    for row in rows_of(tmp_path, "rl"):
        assert row["importance/ess"] == pytest.approx(1.0, abs=1e-6)
        assert row["importance/truncated"] == 0.0


CORRECTED = {"name": "grpo", "importance_correction": "truncated"}


@pytest.mark.parametrize(
    ("stage", "lora", "says"),
    [
        (
            rl(CORRECTED, rollouts={"top_p": 0.9, "allow_truncated": True}),
            {},
            "of the tokens that are left",
        ),
        (rl(CORRECTED, score_temperature=0.5), {}, "score_temperature 0.5 sets them apart on purpose"),
        (rl(CORRECTED), {"dropout": 0.1}, "model.lora.dropout is on one side alone"),
        (rl(CORRECTED, temperature=0), {}, "temperature"),
        (rl({**CORRECTED, "importance_correction": {"name": "truncated", "limit": 2}}), {}, "limit"),
    ],
)
def test_a_ratio_of_unlike_things_is_refused_before_anything_is_written(
    tmp_path: Path, stage: dict[str, Any], lora: dict[str, Any], says: str
) -> None:
    with pytest.raises(UserError, match=says):
        run(tmp_path / "run", stage, model={"name": "tiny", "lora": {**TINY_LORA.model_dump(), **lora}})
    assert not (tmp_path / "run").exists()
