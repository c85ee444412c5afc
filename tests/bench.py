"""Groups sampled by a tiny policy, what plain forwards say of them, and a learner that records its gradients."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from tessera.algorithms import build
from tessera.core.types import Group, Problem
from tessera.policy.adapters import adapter_matrices
from tessera.policy.load import Policy
from tessera.policy.reference import Reference
from tessera.rollout.collect import Collector, Start
from tessera.rollout.engine import Sampling
from tessera.rollout.hf import HFEngine
from tessera.tasks.in_memory import InMemoryTask
from tessera.training.optimizer import Optimizer
from tessera.training.settings import ComputeSettings, OptimizerSettings
from tessera.training.step import Learner
from tiny import tiny_policy

TEMPERATURE = 0.6
PROBLEMS = [Problem("a", "2+2=", None), Problem("b", "What is three plus four?", None), Problem("c", "9-1=", None)]
WHOLE, SOME, EACH = 10**6, 60, 1  # token budgets: one micro-batch, some, one a row


class Recording(Optimizer):
    """Keeps the gradients it was given and moves nothing."""

    gradients: list[Tensor]

    def update(self, loss: float) -> float:
        self.gradients = [p.grad.clone() for p in self.parameters]
        self.adamw.zero_grad()
        return math.sqrt(sum(float(g.square().sum()) for g in self.gradients))


@dataclass
class Bench:
    """A policy that has left its reference, and groups that it sampled."""

    policy: Policy
    reference: Reference
    groups: list[Group] = field(default_factory=list)


def stir(policy: Policy, seed: int) -> None:
    noise = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in adapter_matrices(policy.model):
            p.copy_(0.1 * torch.randn(p.shape, generator=noise, dtype=p.dtype))


def bench(dtype: torch.dtype = torch.float64) -> Bench:
    policy = replace(tiny_policy(dtype=dtype), eos_ids=frozenset(range(6, 17)))
    stir(policy, 1)
    reference = Reference(policy.model)
    stir(policy, 2)
    rewards = iter([0.0, 1.0, 0.25, 1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.5, 0.3, 0.3, 0.3, 0.3, 0.3])
    task = InMemoryTask([{"prompt": "x"}], reward_fn=lambda problem, text: next(rewards))
    collector = Collector(HFEngine(policy), policy, task)
    sampling = Sampling(max_new_tokens=12, temperature=TEMPERATURE)
    groups = collector.collect([Start(problem) for problem in PROBLEMS], 5, sampling, seed=3)
    return Bench(policy, reference, groups)


def learner(on: Bench, spec: Mapping[str, Any], budget: int = WHOLE) -> Learner:
    algorithm = build(spec)
    optimizer = Recording(on.policy.trainable_parameters(), OptimizerSettings(), 10)
    reference = on.reference if "ref_logp" in algorithm.needs else None
    ends, compute = sorted(on.policy.eos_ids), ComputeSettings(tokens_per_microbatch=budget)
    return Learner(
        on.policy.model, algorithm, optimizer, reference, temperature=TEMPERATURE, compute=compute, eos_ids=ends
    )


def full_logp(on: Bench, group: Group, temperature: float = TEMPERATURE) -> Tensor:
    """[G,T] by a plain forward of every row; 0 past the end."""
    width = max(len(r.ids) for r in group.rollouts)
    rows = []
    for r in group.rollouts:
        logits_TV = on.policy.model(torch.tensor([[*r.prompt_ids, *r.ids]])).logits[0] / temperature
        logp_TV = torch.log_softmax(logits_TV, dim=-1)[len(r.prompt_ids) - 1 : -1]
        logp_T = logp_TV.gather(1, torch.tensor(r.ids)[:, None])[:, 0]
        rows.append(torch.nn.functional.pad(logp_T, (0, width - len(r.ids))))
    return torch.stack(rows)


def everything(on: Bench, group: Group) -> dict[str, Tensor]:
    """What `score_group` may be told of a group, by plain forwards: log-probs, entropy, EOS log-probs, truncation."""
    width = max(len(r.ids) for r in group.rollouts)
    entropy, eos = torch.zeros(2, len(group.rollouts), width, dtype=torch.float64)
    with torch.no_grad():
        for i, r in enumerate(group.rollouts):
            logits_TV = on.policy.model(torch.tensor([[*r.prompt_ids, *r.ids]])).logits[0] / TEMPERATURE
            log_TV = torch.log_softmax(logits_TV, dim=-1)[len(r.prompt_ids) - 1 : -1]
            entropy[i, : len(r.ids)] = -(log_TV.exp() * log_TV).sum(1)
            eos[i, : len(r.ids)] = log_TV[:, sorted(on.policy.eos_ids)].logsumexp(1)
        with on.reference.active():
            ref = full_logp(on, group)
    return {
        "rewards": torch.tensor([r.reward for r in group.rollouts], dtype=torch.float64),
        "tokens": torch.nn.utils.rnn.pad_sequence([torch.tensor(r.ids) for r in group.rollouts], batch_first=True),
        "lengths": torch.tensor([len(r.ids) for r in group.rollouts]),
        "truncated": torch.tensor([r.finish_reason == "length" for r in group.rollouts]),
        "ref_logp": ref,
        "entropy": entropy,
        "eos_logp": eos,
    }
