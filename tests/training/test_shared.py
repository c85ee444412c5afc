"""Two processes are one: the same rollouts, loss, gradient, metrics and adapter on the same step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from bench import SOME, TEMPERATURE, Bench, bench
from processes import together
from runs import TEST, TRAIN, VALIDATION, check_close, letters, rl, run, sft
from tessera.algorithms import build
from tessera.core.errors import RunStopped
from tessera.core.seeding import generator
from tessera.core.types import Group, Problem
from tessera.policy.load import Policy
from tessera.policy.sharded import shard
from tessera.training.interrupt import Interrupt
from tessera.training.optimizer import Optimizer
from tessera.training.ranks import Ranks, processes
from tessera.training.settings import ComputeSettings, OptimizerSettings
from tessera.training.step import Learner
from tiny import tiny_model, tiny_policy, tiny_tokenizer

SPECS: dict[str, dict[str, Any]] = {
    "grpo": {"name": "grpo", "beta": 0.1},
    "s_grpo": {"name": "s_grpo", "cutoff": 2, "max_selected": 5, "probability": 0.5, "beta": 0.2},
    "t_spmo": {"name": "t_spmo", "l2": 0.05},
    "cw_grpo": {"name": "cw_grpo"},
    "clip_cov": {"name": "clip_cov", "ratio": 0.3, "cov_low": 0.0},
    "grpo_lambda": {"name": "grpo_lambda", "value_bound": True},  # needs log-probs of ending before the plan
}
UPDATES = 3  # of the same rollouts: ratios, and old log-probs, matter from the second on

# Who sampled which of the 15 rows of three groups.
SPLITS: dict[str, list[int]] = {
    "rows": [0] * 7 + [1] * 8,
    "one group and two": [0] * 5 + [1] * 10,
    "nothing for the first": [1] * 15,
}


def held_by(groups: Sequence[Group], owners: Sequence[int]) -> list[Group]:
    """The groups, every row with the process that sampled it."""
    each = iter(owners)
    return [replace(g, rollouts=tuple(replace(r, rank=next(each)) for r in g.rollouts)) for g in groups]


def updates(on: Bench, spec: dict[str, Any], owners: Sequence[int], ranks: Ranks) -> dict[str, Any]:
    """Losses, gradients as the optimiser is given them, counts and adapter of some updates of one plan."""
    start = [p.detach().clone() for p in on.policy.trainable_parameters()]
    algorithm = build(spec)
    optimizer = Optimizer(
        on.policy.trainable_parameters(), OptimizerSettings(lr=0.05, max_grad_norm=None, eps=1e-3), 10, ranks
    )
    gradients: list[list[Tensor]] = []
    optimizer.adamw.register_step_pre_hook(lambda *_: gradients.append([p.grad.clone() for p in optimizer.parameters]))
    learner = Learner(
        on.policy.model,
        algorithm,
        optimizer,
        on.reference if "ref_logp" in algorithm.needs else None,
        temperature=TEMPERATURE,
        compute=ComputeSettings(tokens_per_microbatch=SOME),
        eos_ids=sorted(on.policy.eos_ids),
        interrupt=Interrupt(ranks),
    )
    planned = learner.plan(held_by(on.groups, owners), generator(5, "selection"))
    made = [learner.update(planned) for _ in range(UPDATES)]
    adapter = [p.detach().clone() for p in on.policy.trainable_parameters()]
    with torch.no_grad():
        for p, before in zip(on.policy.trainable_parameters(), start, strict=True):
            p.copy_(before)
    return {
        "loss": [update.loss for update in made],
        "gradients": gradients,
        "adapter": adapter,
        "counts": [(u.contributing, u.scored, len(torch.cat(u.tokens.weight))) for u in made],
        "clipped": [(u.tokens.clipped_low, u.tokens.clipped_high) for u in made],
        "weight": [torch.cat(u.tokens.weight).sort().values for u in made],
    }


def assert_close(got: list[list[Tensor]], expected: list[list[Tensor]], relative: float) -> None:
    for mine, theirs in zip(got, expected, strict=True):
        scale = max(float(x.norm()) for x in theirs)
        assert scale > 1e-3  # or there would be nothing to compare
        for x, y in zip(mine, theirs, strict=True):
            assert float((x - y).norm()) <= relative * scale


Found = dict[tuple[str, str, str], dict[str, Any]]


@pytest.fixture(scope="module")
def found() -> dict[str, Found]:
    """The updates of every spec in both precisions: by one process, and by both of two, however rows are held."""
    benches = {str(dtype): bench(dtype) for dtype in (torch.float64, torch.float32)}

    def work(rank: int, parted: bool = False) -> Found:
        with processes() as ranks:
            for on in benches.values() if parted else ():
                shard(on.policy.model, on.policy.device)
            splits = SPLITS if ranks.size > 1 else {"alone": [0] * 15}
            return {
                (precision, name, split): updates(on, spec, owners, ranks)
                for precision, on in benches.items()
                for name, spec in SPECS.items()
                for split, owners in splits.items()
            }

    (alone,) = together(work, 1)
    first, second = together(work, 2)
    one, other = together(lambda rank: work(rank, parted=True), 2)
    return {"alone": alone, "first": first, "second": second, "parted first": one, "parted second": other}


@pytest.mark.parametrize("weights", ["", "parted "])
@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize(("precision", "relative"), [("torch.float64", 1e-9), ("torch.float32", 1e-5)])
def test_two_processes_update_as_one(
    found: dict[str, Found], precision: str, relative: float, name: str, split: str, weights: str
) -> None:
    one, two = found["alone"][precision, name, "alone"], found[f"{weights}first"][precision, name, split]
    assert one["counts"] == two["counts"]
    exact = precision == "torch.float64"
    until = UPDATES if exact else 1  # the optimiser's first step makes much of small gradients' last bits
    if exact:  # at a bound, the last bit decides in float32
        assert one["clipped"] == two["clipped"]
    assert two["loss"][:until] == pytest.approx(one["loss"][:until], rel=relative, abs=relative)
    for mine, theirs in zip(two["weight"][:until], one["weight"][:until], strict=True):
        torch.testing.assert_close(mine, theirs, rtol=relative, atol=relative)
    assert_close(two["gradients"][:until], one["gradients"][:until], relative)
    if exact:
        assert_close([two["adapter"]], [one["adapter"]], relative)
    for mine, theirs in zip(two["adapter"], found[f"{weights}second"][precision, name, split]["adapter"], strict=True):
        assert torch.equal(mine, theirs)


def test_the_updates_are_worth_comparing(found: dict[str, Found]) -> None:
    of = {name: found["alone"]["torch.float64", name, "alone"] for name in SPECS}
    assert all(len(set(one["loss"])) == UPDATES for one in of.values())
    assert any(low + high for low, high in of["grpo"]["clipped"][1:])
    assert len(set(of["cw_grpo"]["weight"][0].tolist())) > 10
    assert {0.0, 1.0} == set(of["clip_cov"]["weight"][0].tolist())  # some tokens are dropped, by their covariance


STAGES: dict[str, list[dict[str, Any]]] = {
    "grpo": [sft(steps=2), rl({"name": "grpo", "beta": 0.1}, steps=2, prompts_per_step=3, evaluate_every=1)],
    "s_grpo": [rl({"name": "s_grpo", "cutoff": 2, "max_selected": 3}, steps=3, rollouts={"max_rounds": 2})],
    "t_spmo": [rl("t_spmo", steps=2, replay={"successes": 1, "failures": 1}, optimizer={"max_grad_norm": 0.01})],
    "cw_grpo": [rl("cw_grpo", steps=2, prompts_per_step=2, updates_per_rollout=2)],
    "clip_cov": [rl("clip_cov", steps=2, prompts_per_step=2, updates_per_rollout=2)],
    "full": [sft(steps=2), rl({"name": "grpo", "beta": 0.1}, steps=2, prompts_per_step=2, updates_per_rollout=2)],
}
WAYS = {"2": 2, "3": 3, "2 parts": 2, "3 parts": 3}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")

    def train(name: str, way: str) -> dict[str, Any]:
        return run(
            folder / f"{name}-{way}",
            *STAGES[name],
            policy=_policy(full=name == "full"),
            rows=(TRAIN, VALIDATION, TEST),
            evaluation={"success": 0.5},
            run={"diagnostics_every": 1, "max_rows": 5},
            model={"name": "tiny", "full": name == "full", "shard": "parts" in way},
        )

    def work(way: str) -> list[dict[str, Any]]:
        return [train(name, way) for name in STAGES]

    for way, size in {"1": 1, **WAYS}.items():
        summaries = together(lambda _, way=way: work(way), size)
        assert all(found == summaries[0] for found in summaries)
    return folder


def _policy(full: bool) -> Policy:
    if not full:
        return tiny_policy(dtype=torch.float64)
    return Policy.from_objects(tiny_model(dtype=torch.float64), tiny_tokenizer(), full=True)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", STAGES)
def test_a_run_of_several_processes_ends_as_a_run_of_one(trained: Path, name: str, way: str) -> None:
    check_close(trained / f"{name}-{way}", trained / f"{name}-1")


def test_the_runs_share_the_work(tmp_path: Path) -> None:
    """Six rows of one prompt: three each, and each process grades its own."""

    def train(rank: int) -> int:
        graded = []

        def reward(problem: Problem, text: str) -> float:
            graded.append(text)
            return letters(problem, text)

        run(tmp_path / "run", rl(steps=1), reward=reward)
        return len(graded)

    assert together(train) == [3, 3]


def test_an_error_of_one_process_is_told_by_all(tmp_path: Path) -> None:
    def train(rank: int) -> str:
        def reward(problem: Problem, text: str) -> float:
            return float("nan") if rank == 1 else 1.0

        with pytest.raises(RunStopped) as stopped:
            run(tmp_path / "run", rl(steps=1, sentinels={"reward_failures": 0.1}), reward=reward)
        return str(stopped.value)

    first, second = together(train)
    assert first == second
    assert first.startswith("the reward failed on 3 of 6 completions of a step")
