"""Training steps with the real TRL: loss and gradient are those of Tessera's own update on the same rollouts."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

trl = pytest.importorskip("trl", minversion="1.16")
os.environ.update(TRL_EXPERIMENTAL_SILENCE="1", HF_HUB_DISABLE_TELEMETRY="1")

from datasets import Dataset  # noqa: E402
from transformers import TrainerCallback  # noqa: E402

from bench import TEMPERATURE, Bench, bench, everything, full_logp, learner, stir  # noqa: E402
from tessera.algorithms import registered  # noqa: E402
from tessera.core.errors import UserError  # noqa: E402
from tessera.core.seeding import generator  # noqa: E402
from tessera.core.types import Group, Rollout  # noqa: E402
from tessera.plugins.trl import TesseraGRPOTrainer  # noqa: E402
from tessera.training.optimizer import Optimizer  # noqa: E402
from tiny import tiny_model, tiny_policy, tiny_tokenizer  # noqa: E402

RATE, SIZE = 0.05, 4
EXACT = 1e-5
ON_POLICY = {"s_grpo", "t_spmo"}
SPECS: dict[str, dict[str, Any]] = {name: {"name": name} for name in registered()} | {
    "dr_grpo": {"name": "dr_grpo", "max_tokens": 12},
    "s_grpo": {"name": "s_grpo", "cutoff": 2, "max_selected": 5, "probability": 0.5},
    "cw_grpo, step": {"name": "cw_grpo", "scope": "step", "beta": 0.2},
    "clip_cov": {"name": "clip_cov", "ratio": 0.2, "cov_low": 0.0},
    "grpo_lambda, value bound": {"name": "grpo_lambda", "value_bound": True},
    "grpo_lambda, weight": {"name": "grpo_lambda", "update": "weight"},
    "tr_grpo, random": {"name": "tr_grpo", "variant": "random", "kl_form": "scaled"},
    "dapo, entropy": {"name": "dapo", "selection": {"name": "high_entropy", "fraction": 0.4}},
    "dapo, corrected": {"name": "dapo", "beta": 0.1, "importance_correction": {"name": "truncated", "cap": 1.1}},
    "gspo, corrected": {"name": "gspo", "importance_correction": "masked"},
    "grpo, complete": {"name": "grpo", "beta": 0.1, "selection": "complete"},
}


class Moving(Optimizer):
    """Plain gradient descent that remembers its gradients."""

    def __init__(self, parameters: list[torch.nn.Parameter]) -> None:
        self.parameters, self.seen = parameters, []

    def update(self, loss: float) -> float:
        self.seen.append([p.grad.clone() for p in self.parameters])
        with torch.no_grad():
            for p in self.parameters:
                p -= RATE * p.grad
                p.grad = None
        return 1.0


class Watch(TrainerCallback):
    """Keeps the gradients that TRL's optimiser is about to use."""

    def __init__(self) -> None:
        self.gradients: list[list[Tensor]] = []

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, *, model: Any, **_: Any) -> None:
        self.gradients.append([p.grad.clone() for p in model.parameters() if p.requires_grad])


class Watched(TesseraGRPOTrainer):
    """Adds up the losses of the micro-batches of each optimiser step."""

    def compute_loss(self, *args: Any, **kwargs: Any) -> Tensor:
        loss = super().compute_loss(*args, **kwargs)
        if self.model.training:
            self.losses = getattr(self, "losses", {})
            self.losses[self.state.global_step] = self.losses.get(self.state.global_step, 0.0) + loss.item()
        return loss


@pytest.fixture
def on(sampled: Bench) -> Iterator[Bench]:
    """The same in every test, whose updates are undone."""
    before = [p.detach().clone() for p in sampled.policy.trainable_parameters()]
    yield replace(sampled)
    with torch.no_grad():
        for p, value in zip(sampled.policy.trainable_parameters(), before, strict=True):
            p.copy_(value)


@pytest.fixture(scope="module")
def sampled() -> Bench:
    return rollouts_of_three()


def rollouts_of_three() -> Bench:
    """Three groups of four, ragged, in float64, from a sampler that is a little off; the policy did not write the
    third token of the first long one."""
    made, noise = bench(), torch.Generator().manual_seed(4)
    groups = [[off(r, noise) for r in group.rollouts[:SIZE]] for group in made.groups]
    long = next(i for i, r in enumerate(groups[0]) if len(r.ids) > 4)
    groups[0][long] = not_written(groups[0][long], 2)
    made.groups = [replace(group, rollouts=tuple(rows)) for group, rows in zip(made.groups, groups, strict=True)]
    return made


def off(rollout: Rollout, noise: torch.Generator) -> Rollout:
    shift = 0.5 * torch.randn(len(rollout.ids), generator=noise)
    return replace(rollout, logprobs=tuple(x + float(s) for x, s in zip(rollout.logprobs, shift, strict=True)))


def not_written(rollout: Rollout, t: int) -> Rollout:
    sampled = tuple(s and k != t for k, s in enumerate(rollout.sampled))
    kept = tuple(x if s else None for x, s in zip(rollout.logprobs, sampled, strict=True))
    return replace(rollout, sampled=sampled, logprobs=kept)


def trainer(
    groups: Sequence[Group],
    spec: Mapping[str, Any] | str,
    folder: Path,
    *,
    rewards: list[Any] | None = None,
    **asks: Any,
) -> tuple[Watched, Watch]:
    """A trainer whose policy is the bench's, and whose rollouts are `groups` in every generation."""
    policy = tiny_policy(dtype=torch.float64)
    learns = policy.trainable_parameters()
    stir(policy, 2)
    now = [p.detach().clone() for p in learns]
    stir(policy, 1)  # where TRL takes its reference
    rollouts = [r for group in groups for r in group.rollouts]
    rate, ranks = asks.pop("rate", RATE), asks.pop("ranks", 1)

    def own(trainer: Any) -> list[Rollout]:
        at = trainer.accelerator.process_index * len(rollouts) // ranks
        return rollouts[at : at + len(rollouts) // ranks]

    def sample(prompts: list[Any], trainer: Any) -> dict[str, list[Any]]:
        mine = own(trainer)
        return {
            "prompt_ids": [list(r.prompt_ids) for r in mine],
            "completion_ids": [list(r.ids) for r in mine],
            "logprobs": [[math.nan if x is None else x for x in r.logprobs] for r in mine],
            "env_mask": [[int(s) for s in r.sampled] for r in mine],
        }

    accumulation = asks.pop("gradient_accumulation_steps", 1)
    per_generation = asks.setdefault("steps_per_generation", accumulation)
    args = trl.GRPOConfig(
        output_dir=str(folder),
        per_device_train_batch_size=len(rollouts) // per_generation // ranks,
        gradient_accumulation_steps=accumulation,
        num_generations=SIZE,
        max_steps=asks.pop("max_steps", 1),
        temperature=TEMPERATURE,
        lr_scheduler_type="constant",
        max_grad_norm=0.0,
        bf16=False,
        use_cpu=True,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        logging_steps=1,
        **asks,
    )
    watch = Watch()
    optimizer = torch.optim.SGD(learns, lr=rate)
    made = Watched(
        policy.model,
        lambda completions, **_: [r.reward for r in own(made)] if rewards is None else rewards,
        args,
        algorithm=spec,
        train_dataset=Dataset.from_list([{"prompt": "a"}] * 6),
        eval_dataset=Dataset.from_list([{"prompt": "a"}] * 3),
        processing_class=policy.tokenizer,
        callbacks=[watch],
        optimizers=(optimizer, None),
        rollout_func=sample,
    )
    made.eos_token_ids = list(range(6, 17))
    with torch.no_grad():
        for p, value in zip(learns, now, strict=True):
            p.copy_(value)
    return made, watch


def tessera_updates(on: Bench, spec: Mapping[str, Any], count: int) -> tuple[list[float], list[list[Tensor]]]:
    made = learner(on, spec)
    made.optimizer = moving = Moving(on.policy.trainable_parameters())
    planned = made.plan(on.groups, generator(42, "selection", 0, 0))
    return [made.update(planned).loss for _ in range(count)], moving.seen


def not_same(got: Sequence[Tensor], wanted: Sequence[Tensor]) -> float:
    """The largest difference of two gradients, in parts of the largest tensor."""
    scale = max(float(g.norm()) for g in wanted)
    assert scale > 1e-3  # or there would be nothing to compare
    return max(float((mine - theirs).norm()) for mine, theirs in zip(got, wanted, strict=True)) / scale


def same(got: Sequence[Tensor], wanted: Sequence[Tensor]) -> None:
    assert not_same(got, wanted) <= EXACT


@pytest.mark.parametrize(("name", "accumulation"), zip(SPECS, itertools.cycle((1, 2, 4))), ids=list(SPECS))
def test_losses_and_gradients_are_those_of_tesseras_updates(
    on: Bench, tmp_path: Path, name: str, accumulation: int
) -> None:
    # Per-device batches of 12, 6 and 3 rows, out of groups of 4; each generation in two updates where that has meaning.
    updates = 1 if SPECS[name]["name"] in ON_POLICY else 2
    asks = {"gradient_accumulation_steps": accumulation, "num_iterations": updates, "max_steps": updates}
    made, watch = trainer(on.groups, SPECS[name], tmp_path, **asks)
    made.train()
    losses, gradients = tessera_updates(on, SPECS[name], updates)
    assert list(made.losses.values()) == pytest.approx(losses, rel=EXACT, abs=EXACT)
    for got, wanted in zip(watch.gradients, gradients, strict=True):
        same(got, wanted)
    if updates == 2:
        assert not_same(*gradients) > 100 * EXACT  # the policy has moved, and the ratios are not 1


@pytest.mark.parametrize("name", ["grpo", "dapo", "cw_grpo, step", "t_spmo"])
def test_a_generation_may_last_several_steps_or_a_step_several_generations(
    on: Bench, tmp_path: Path, name: str
) -> None:
    losses, gradients = tessera_updates(on, SPECS[name], 1)
    if name not in ON_POLICY:  # two steps of half a generation each: their mean is the generation's
        made, watch = trainer(on.groups, SPECS[name], tmp_path, steps_per_generation=2, max_steps=2, rate=0.0)
        made.train()
        assert (made.losses[0] + made.losses[1]) / 2 == pytest.approx(losses[0], rel=EXACT, abs=EXACT)
        same([(a + b) / 2 for a, b in zip(*watch.gradients, strict=True)], gradients[0])
    made, watch = trainer(
        on.groups, SPECS[name], tmp_path, steps_per_generation=2, gradient_accumulation_steps=4, rate=0.0
    )
    made.train()
    assert made.losses[0] == pytest.approx(losses[0], rel=EXACT, abs=EXACT)
    same(watch.gradients[0], gradients[0])


def test_a_completion_without_a_reward_takes_no_part(on: Bench, tmp_path: Path) -> None:
    rollouts = [r for group in on.groups for r in group.rollouts]
    rewards = [None if i in (1, 4, 5, 6) else r.reward for i, r in enumerate(rollouts)]  # one left of the second group
    made, watch = trainer(on.groups, "grpo", tmp_path, rewards=rewards)
    made.train()
    known = iter(rewards)
    on.groups = [
        replace(group, rollouts=tuple(replace(r, reward=next(known)) for r in group.rollouts)) for group in on.groups
    ]
    losses, gradients = tessera_updates(on, {"name": "grpo"}, 1)
    assert made.losses[0] == pytest.approx(losses[0], rel=EXACT, abs=EXACT)
    same(watch.gradients[0], gradients[0])


def test_without_credit_there_is_no_penalty_on_the_adapter_either(on: Bench, tmp_path: Path) -> None:
    made, watch = trainer(on.groups, "t_spmo", tmp_path, rewards=[1.0] * 12, gradient_accumulation_steps=2)
    made.train()
    assert made.losses[0] == 0.0
    assert not any(bool(g.any()) for g in watch.gradients[0])


def test_what_trl_logs_is_of_the_algorithm(on: Bench, tmp_path: Path) -> None:
    spec = {"name": "s_grpo", "cutoff": 3, "max_selected": 0, "beta": 0.3}
    made, _ = trainer(on.groups, spec, tmp_path, gradient_accumulation_steps=2)
    made.train()
    row = made.state.log_history[0]
    kl, entropy, tokens = [], [], 0
    for group in on.groups:
        known = everything(on, group)
        difference = known["ref_logp"] - full_logp(on, group).detach()
        for i, r in enumerate(group.rollouts):
            at = [t for t, written in enumerate(r.sampled) if written]
            kl += [float(difference[i, t].exp() - difference[i, t] - 1) for t in at[:3]]
            entropy += [float(known["entropy"][i, t]) for t in at]
            tokens += len(at[:3])
    # Means of two micro-batches of six rows: those of all rows where the micro-batches are the same size; the sums are.
    assert row["tokens/contributing"] == tokens
    assert row["kl"] == pytest.approx(sum(kl) / len(kl), rel=0.3)
    assert row["entropy"] == pytest.approx(sum(entropy) / len(entropy), rel=0.3)
    assert row["clip_ratio/high_mean"] == 0.0
    assert row["reward"] == pytest.approx(sum(r.reward for g in on.groups for r in g.rollouts) / 12)
    assert made.args.beta == 0.3


def test_evaluation_leaves_the_plan_of_training_alone(on: Bench, tmp_path: Path) -> None:
    made, watch = trainer(
        on.groups, "cw_grpo", tmp_path, gradient_accumulation_steps=2, num_iterations=2, max_steps=2,
        per_device_eval_batch_size=12, eval_strategy="steps", eval_steps=1,
    )  # fmt: skip
    made.train()
    losses, gradients = tessera_updates(on, {"name": "cw_grpo"}, 2)
    assert [made.losses[0], made.losses[1]] == pytest.approx(losses, rel=EXACT, abs=EXACT)
    same(watch.gradients[1], gradients[1])
    assert made.state.log_history[1]["eval_loss"] == pytest.approx(losses[1], abs=1.0)


@pytest.mark.parametrize(
    ("spec", "asks", "message"),
    [
        ("grpo", {"loss_type": "dr_grpo"}, "loss_type = 'dr_grpo' is of TRL's objective, not of grpo's"),
        ({"name": "t_spmo", "replay": {}}, {}, "replay is not part of an algorithm and does not carry over"),
        ("s_grpo", {"num_iterations": 2}, "must be a multiple of steps_per_generation"),
        ("tr_grpo", {"beta": 0.04}, "beta = 0.04 is not tr_grpo's, which is 0.001"),
        ("grpq", {}, "did you mean 'grpo'"),
    ],
)
def test_what_cannot_carry_over_is_refused_by_name(
    on: Bench, tmp_path: Path, spec: Any, asks: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        trainer(on.groups, spec, tmp_path, **asks)


def test_a_penalty_on_the_adapter_needs_one(on: Bench, tmp_path: Path) -> None:
    args = trl.GRPOConfig(output_dir=str(tmp_path), num_generations=4, use_cpu=True, bf16=False, report_to=[])
    with pytest.raises(UserError, match="penalty is over an adapter's matrices: give peft_config"):
        TesseraGRPOTrainer(
            tiny_model(), lambda **_: [], args, algorithm="t_spmo",
            train_dataset=Dataset.from_list([{"prompt": "a"}]), processing_class=tiny_tokenizer(),
        )  # fmt: skip
