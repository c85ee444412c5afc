"""Tessera's side of a comparison: single updates of groups that were sampled before. Driven by `sides.Side`."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from peak import peak
from sides import answer, asked
from workloads import TEMPERATURE, groups, policy

from tessera.algorithms import build
from tessera.core.seeding import generator
from tessera.core.types import Group
from tessera.policy.adapters import adapter_state, set_adapter_state
from tessera.policy.forest import Kept
from tessera.policy.load import Policy
from tessera.policy.prefix import causal_lm
from tessera.policy.reference import Reference
from tessera.policy.slots import read
from tessera.rollout.engine import Request, Sampling
from tessera.rollout.hf import HFEngine
from tessera.training.optimizer import Optimizer
from tessera.training.settings import ComputeSettings, OptimizerSettings
from tessera.training.step import Learner

METHODS: dict[str, dict[str, Any]] = {
    "grpo": {"name": "grpo", "beta": 0.01},
    "s_grpo": {"name": "s_grpo", "cutoff": 50, "max_selected": 100, "beta": 0.01},
    "t_spmo": {"name": "t_spmo"},
}


def with_trunk(model: Any, group: Group) -> Group:
    """The group with the frozen layers' output, as an engine keeps it while it samples."""
    whole = [(*group.prompt_ids, *r.ids[:-1]) for r in group.rollouts]
    with torch.inference_mode():
        below = [found.below_PH for found in read(causal_lm(model), whole)]
    cut, prompt = len(group.prompt_ids), below[0][: len(group.prompt_ids)].clone()
    both = zip(group.rollouts, below, strict=True)
    return replace(group, rollouts=tuple(replace(r, trunk=Kept(prompt, one[cut:].clone())) for r, one in both))


def kept_bytes(group: Group) -> int:
    """Of what was kept: the prompt's part once."""
    own = sum(r.trunk.rest_TH.nbytes for r in group.rollouts)
    return int(own + group.rollouts[0].trunk.prompt_PH.nbytes)


def learner(on: Policy, spec: Mapping[str, Any], compute: ComputeSettings) -> Learner:
    """A fresh one, whose reference is the model without its adapter, as in TRL."""
    algorithm = build(spec)
    optimizer = Optimizer(on.trainable_parameters(), OptimizerSettings(lr=1e-6), 1)
    reference = Reference(on.model, "initial") if "ref_logp" in algorithm.needs else None
    return Learner(on.model, algorithm, optimizer, reference, temperature=TEMPERATURE, compute=compute)


def update(on: Policy, spec: Mapping[str, Any], group: Group, compute: ComputeSettings, memory: bool) -> dict[str, Any]:
    """One update from ids (and what was kept) to moved weights: seconds, or the peak of memory."""
    made = learner(on, spec, compute)
    if memory:
        kept = kept_bytes(group) if group.rollouts[0].trunk else 0
        with peak() as found:
            done = made.update(made.plan([group], generator(0, "plan")))
        return {"bytes": found.bytes + kept, "kept": kept}
    began = time.perf_counter()
    done = made.update(made.plan([group], generator(0, "plan")))
    if on.device.type == "cuda":
        torch.cuda.synchronize()
    seconds = time.perf_counter() - began
    return {"seconds": seconds, "scored": done.scored, "contributing": done.contributing, "fed": done.fed}


def keeping(on: Policy) -> dict[str, float]:
    """What keeping costs while sampling: seconds of the same 8 completions with and without, medians of five."""
    engine, spent = HFEngine(on), {False: [], True: []}
    prompt = groups("svamp", 8)[0].prompt_ids
    for _ in range(5):
        for keep in (False, True):
            began = time.perf_counter()
            requests = [Request(prompt, i) for i in range(8)]
            engine.generate(requests, Sampling(max_new_tokens=100, temperature=TEMPERATURE, keep_trunk=keep))
            spent[keep].append(time.perf_counter() - began)
    return {"without": sorted(spent[False])[2], "with": sorted(spent[True])[2]}


def main() -> None:
    on = policy(sys.argv[1])
    noise = torch.Generator().manual_seed(1)
    with torch.no_grad():  # an adapter that has learnt: B is not zero
        for p in on.trainable_parameters():
            p.add_(0.01 * torch.randn(p.shape, generator=noise))
    start = adapter_state(on.model)
    answer("ready")
    for wish in asked():
        if wish["do"] == "keeping":
            answer(keeping(on))
            continue
        group = groups(wish["workload"], wish["size"])[wish["group"]]
        if wish["trunk"]:
            group = with_trunk(on.model, group)
        compute = ComputeSettings(**wish["compute"])
        answer(update(on, METHODS[wish["method"]], group, compute, wish["memory"]))
        set_adapter_state(on.model, start)


if __name__ == "__main__":
    main()
