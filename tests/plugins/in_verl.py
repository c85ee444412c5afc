"""verl's own functions with the plug-in, against `score_group`. Run by test_verl.py where verl is installed."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tensordict import TensorDict
from torch import Tensor
from verl import DataProto
from verl.trainer.config import AlgoConfig
from verl.trainer.ppo.core_algos import get_policy_loss_fn
from verl.trainer.ppo.ray_trainer import compute_advantage
from verl.workers.config import ActorConfig, PolicyLossConfig
from verl.workers.utils.losses import ppo_loss

import tessera
from tessera.algorithms import build
from tessera.core.errors import UserError
from tessera.plugins import verl as plugin
from tessera.plugins.verl_fit import MODES

G, T, P = 6, 9, 3
EXACT = 1e-5
OWN: dict[str, dict[str, Any]] = {
    "s_grpo": {"cutoff": 2, "max_selected": 4, "probability": 1.0},  # nothing left to chance
    "dr_grpo": {"max_tokens": 20},
    "grpo_lambda, weight": {"name": "grpo_lambda", "update": "weight", "advantage_floor": None},
    "tr_grpo, outside the clip": {"name": "tr_grpo", "clip_form": "ratio", "scale": "divide", "tau": 2.0},
    "grpo, wide": {"name": "grpo", "clip_low": None, "clip_high": 0.05},
    "rloo, mean of tokens": {"name": "rloo", "aggregation": "batch_token_mean"},
}
FITS = ("grpo", "bnpo", "cispo", "dapo", "gspo", "grpo_lambda", "rloo", "tr_grpo", "dr_grpo", "s_grpo")
CASES = {name: {**plugin.default_spec(name), **OWN.get(name, {})} for name in FITS} | {
    label: {**plugin.default_spec(spec["name"]), **spec} for label, spec in OWN.items() if "name" in spec
}
for label, spec in CASES.items():
    plugin.register(f"case {label}", spec)


class Group:
    """A group of ragged rows with random log-probs, and what verl makes of them."""

    def __init__(self, seed: int, groups: int = 1) -> None:
        draw = torch.Generator().manual_seed(seed)
        rows = G * groups
        self.lengths = torch.randint(2, T + 1, (rows,), generator=draw)
        self.lengths[0] = T
        self.mask = torch.arange(T) < self.lengths[:, None]
        self.mask[0, 3] = False  # written by a tool
        self.old = -torch.rand(rows, T, generator=draw, dtype=torch.float64) * 3
        self.logp = self.old + 0.3 * torch.randn(rows, T, generator=draw, dtype=torch.float64)
        self.ref = self.old + 0.3 * torch.randn(rows, T, generator=draw, dtype=torch.float64)
        self.rewards = torch.randint(0, 4, (rows,), generator=draw) / 3.0
        self.groups = torch.arange(groups).repeat(G)  # scattered, as verl's balancing leaves them
        self.logp.requires_grad_()

    def advantages(self, name: str) -> Tensor:
        """By verl's compute_advantage: the reward on the last token, groups by uid."""
        rewards = torch.zeros(len(self.mask), T)
        rewards[torch.arange(len(rewards)), self.lengths - 1] = self.rewards
        batch = TensorDict({"token_level_rewards": rewards, "response_mask": self.mask.long()}, batch_size=len(rewards))
        uid = np.array([f"question {g}" for g in self.groups.tolist()], dtype=object)
        data = DataProto(batch=batch, non_tensor_batch={"uid": uid})
        data = compute_advantage(data, adv_estimator=name, config=AlgoConfig())
        assert torch.equal(data.batch["advantages"], data.batch["returns"])
        return data.batch["advantages"]

    def by_verl(self, label: str, mode: str, parts: int = 1, ranks: int = 1, **actor: Any) -> tuple[float, Tensor]:
        """Loss and gradient by verl's ppo_loss, the rows in `parts` micro-batches, each on one of `ranks`."""
        advantages = self.advantages(label)
        self.logp.grad = None
        losses = []
        for rows in torch.arange(len(self.mask)).chunk(parts):
            config = actor_config(label, mode, **actor)
            data = self.data(rows, advantages, ranks)
            loss, metrics = ppo_loss(config, {"log_probs": self.flat(rows)}, data)
            (loss / ranks).backward()
            losses.append(loss.item() / ranks)
            assert 0.0 <= metrics["actor/pg_clipfrac"].values[0] <= 1.0
        assert self.logp.grad is not None
        return sum(losses), self.logp.grad.clone()

    def data(self, rows: Tensor, advantages: Tensor, ranks: int) -> TensorDict:
        """What the actor's engine hands to ppo_loss for some rows."""
        attention = torch.cat([torch.ones(len(rows), P), (torch.arange(T) < self.lengths[rows, None]).float()], dim=1)
        tensors = {
            "prompts": torch.zeros(len(rows), P, dtype=torch.long),
            "responses": torch.zeros(len(rows), T, dtype=torch.long),
            "attention_mask": attention.long(),
            "response_mask": self.mask[rows].long(),
            "old_log_probs": self.old[rows],
            "advantages": advantages[rows],
            "ref_log_prob": self.ref[rows],
        }
        made = TensorDict(tensors, batch_size=len(rows))
        made.set_non_tensor("dp_size", ranks)
        made.set_non_tensor("batch_num_tokens", int(self.mask.sum()))
        made.set_non_tensor("global_batch_size", len(self.mask))
        return made

    def flat(self, rows: Tensor) -> Tensor:
        """Log-probs as the model gives them: prompt and response, each one position before its token."""
        zeros = self.logp.new_zeros(P - 1), self.logp.new_zeros(1)
        return torch.cat([torch.cat([zeros[0], self.logp[i, : self.lengths[i]], zeros[1]]) for i in rows.tolist()])

    def by_tessera(self, spec: dict[str, Any]) -> tuple[float, Tensor]:
        """The mean of `score_group` over the groups."""
        self.logp.grad = None
        losses = []
        for g in self.groups.unique():
            i = (self.groups == g).nonzero()[:, 0]
            losses.append(
                tessera.score_group(
                    spec["name"], config=spec, rewards=self.rewards[i], tokens=torch.zeros(len(i), T, dtype=torch.long),
                    logp=self.logp[i], lengths=self.lengths[i], mask=self.mask[i], old_logp=self.old[i],
                    ref_logp=self.ref[i],
                ).value
            )  # fmt: skip
        loss = torch.stack(losses).mean()
        loss.backward()
        assert self.logp.grad is not None
        return float(loss.detach()), self.logp.grad.clone()


def actor_config(label: str, mode: str, **actor: Any) -> ActorConfig:
    fixed: dict[str, Any] = {"strategy": "fsdp", "rollout_n": G, "ppo_micro_batch_size_per_gpu": 1}
    return ActorConfig(loss_agg_mode=mode, policy_loss=PolicyLossConfig(loss_mode=label), **fixed, **actor)


def mode(spec: dict[str, Any]) -> str:
    return MODES[build(spec).aggregation.name]


def same(got: tuple[float, Tensor], wanted: tuple[float, Tensor]) -> None:
    assert got[0] == pytest.approx(wanted[0], rel=EXACT, abs=EXACT)
    assert float(wanted[1].norm()) > 1e-3
    assert float((got[1] - wanted[1]).norm()) <= EXACT * float(wanted[1].norm())


@pytest.mark.parametrize("label", list(CASES))
@pytest.mark.parametrize("seed", range(5))
def test_loss_and_gradient_are_those_of_score_group(label: str, seed: int) -> None:
    group = Group(seed)
    wanted = group.by_tessera(CASES[label])
    same(group.by_verl(f"case {label}", mode(CASES[label])), wanted)
    same(group.by_verl(f"case {label}", mode(CASES[label]), parts=3, ranks=2), wanted)


@pytest.mark.parametrize("label", [label for label, spec in CASES.items() if mode(spec) != "token-mean"])
def test_so_they_are_of_several_groups_that_lie_scattered(label: str) -> None:
    batch = Group(7, groups=3)
    same(batch.by_verl(f"case {label}", mode(CASES[label]), parts=4), batch.by_tessera(CASES[label]))


@pytest.mark.parametrize("name", ["grpo", "grpo_lambda", "dapo", "dr_grpo"])
def test_verls_own_penalty_is_the_algorithms(name: str) -> None:
    group, spec = Group(3), CASES[name]
    asks = {"loss_scale_factor": 20} if name == "dr_grpo" else {}
    got = group.by_verl(
        f"case {name}", mode(spec), parts=2, use_kl_loss=True, kl_loss_coef=0.3, kl_loss_type="low_var_kl", **asks
    )
    same(got, group.by_tessera({**spec, "beta": 0.3}))


def test_a_selection_by_chance_is_the_same_in_every_pass_and_known_by_its_zeros() -> None:
    torch.manual_seed(0)
    plugin.register("half", {"name": "s_grpo", "cutoff": 0, "max_selected": 99, "probability": 0.5, "beta": 0.0})
    group = Group(1)
    advantages = group.advantages("half")
    drawn = (advantages != 0) & group.mask
    assert 0.2 < float(drawn.sum() / group.mask.sum()) < 0.8
    loss, _ = get_policy_loss_fn("half")(
        old_log_prob=group.old, log_prob=group.logp, advantages=advantages, response_mask=group.mask,
        loss_agg_mode="seq-mean-token-mean", config=actor_config("half", "seq-mean-token-mean"),
    )  # fmt: skip
    loss.backward()
    # -A / (G |T_i|) at every drawn token, whatever the policy that sampled: the ratio is detached.
    counts = drawn.sum(dim=1, keepdim=True).clamp(min=1)
    assert torch.allclose(group.logp.grad, -advantages.double() * drawn / (G * counts), atol=1e-6)


def test_a_correction_that_verl_was_asked_for_multiplies_the_loss() -> None:
    group = Group(2)
    calls = {
        "old_log_prob": group.old, "log_prob": group.logp, "advantages": group.advantages("case dapo"),
        "response_mask": group.mask, "loss_agg_mode": "token-mean", "config": actor_config("case dapo", "token-mean"),
    }  # fmt: skip
    plain, _ = get_policy_loss_fn("case dapo")(**calls)
    twice, _ = get_policy_loss_fn("case dapo")(**calls, rollout_is_weights=torch.full_like(group.old, 2.0))
    assert float(twice) == pytest.approx(2 * float(plain))


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("t_spmo", "it needs the tokens of the completions"),
        ("cw_grpo", "weight covariance_kernel compares tokens of the whole step"),
        ("clip_cov", "weight covariance_clip compares tokens of the whole step"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_reason_where_verl_looks_it_up(name: str, reason: str) -> None:
    with pytest.raises(UserError, match=f"{name} does not fit verl's interface: {reason}"):
        get_policy_loss_fn(f"tessera_{name}")(old_log_prob=None)
    with pytest.raises(UserError, match=reason):
        Group(0).advantages(f"tessera_{name}")


@pytest.mark.parametrize(
    ("label", "asks", "reason"),
    [
        ("grpo", {"mode": "token-mean"}, "loss_agg_mode is 'token-mean', and grpo averages by 'seq-mean-token-mean'"),
        ("dapo", {"clip_ratio_high": 0.5}, "clip_ratio_high = 0.5 is of verl's own losses: give clip_high of dapo"),
        ("s_grpo", {"ppo_epochs": 2}, "s_grpo's surrogate has no ratio: one update a rollout"),
    ],
)
def test_settings_of_the_actor_that_contradict_are_refused(label: str, asks: dict[str, Any], reason: str) -> None:
    asks = {"mode": mode(CASES[label]), **asks}
    with pytest.raises(UserError, match=reason):
        Group(0).by_verl(f"case {label}", asks.pop("mode"), **asks)


def test_the_scale_of_verls_own_estimators_is_refused() -> None:
    with pytest.raises(UserError, match="norm_adv_by_std_in_grpo is of verl's own estimators"):
        plugin.advantages(
            build("grpo"), token_level_rewards=torch.zeros(2, 2), response_mask=torch.ones(2, 2),
            index=["a", "a"], config=AlgoConfig(norm_adv_by_std_in_grpo=False),
        )  # fmt: skip


def test_verl_loads_the_plugin_by_its_entry_point(tmp_path: Path) -> None:
    declared = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))
    points = declared["project"]["entry-points"]["verl.plugins"]
    info = tmp_path / "declared-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: declared\nVersion: 1\n")
    lines = "".join(f"{name} = {target}\n" for name, target in points.items())
    (info / "entry_points.txt").write_text(f"[verl.plugins]\n{lines}")
    code = "import verl; from verl.trainer.ppo.core_algos import POLICY_LOSS_REGISTRY as r; print('tessera_grpo' in r)"
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path}
    )
    assert done.stdout.split() == ["True"], done.stderr
