"""Every algorithm on every family: an update of packed rows is `score_group` on one padded forward of whole rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import pytest
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

import tessera
from bench import EACH, TEMPERATURE, WHOLE, Bench, learner, stir
from tessera.algorithms import build, registered
from tessera.core.seeding import generator
from tessera.core.types import Group, Problem, Rollout
from tessera.policy.adapters import adapter_matrices, decoder_layers
from tessera.policy.reference import Reference
from tessera.policy.trunk import FAMILIES, packs
from tessera.rollout.engine import Request, Sampling
from tessera.rollout.hf import HFEngine
from tiny import TINY_FAMILIES, tiny_family

PROMPT = (1, 40, 41, 42, 43)
# Completions of 1 to 9 tokens, some of which begin alike or are the same; "-" is what a tool wrote.
ROWS = [
    ("aabcdefgh", ".........", 1.0),
    ("aabcd", ".....", 0.0),
    ("aab", "...", 0.5),
    ("abxyzuv", "..---..", 0.0),
    ("abxyzu", "..---.", 1.0),
    ("c", ".", 0.0),
    ("aab", "...", 1.0),
]
# Where the defaults would do nothing on so small a group.
SPECS = {
    "s_grpo": {"cutoff": 1, "max_selected": 3, "probability": 0.5},
    "cw_grpo": {"beta": 0.1},
    "dr_grpo": {"max_tokens": 9},
    "clip_cov": {"cov_low": -1.0, "cov_high": 1.0, "ratio": 0.3},
}


def group() -> Group:
    rollouts = []
    for text, written, reward in ROWS:
        sampled = tuple(mark == "." for mark in written)
        ids = tuple(ord(c) - 26 for c in text)
        logprobs = tuple(0.0 if mine else None for mine in sampled)
        rollouts.append(Rollout(PROMPT, ids, sampled, logprobs, "stop", "", reward))
    return Group(Problem("a", "a", None), PROMPT, tuple(rollouts))


@cache
def family(name: str) -> Bench:
    policy = replace(tiny_family(name), eos_ids=frozenset({50, 51}))
    stir(policy, 1)
    reference = Reference(policy.model)
    stir(policy, 2)
    return Bench(policy, reference, [group()])


def logits(on: Bench) -> Tensor:
    """[G,T,V] over the temperature, by one forward of all rows, padded on the right."""
    rollouts = on.groups[0].rollouts
    rows = [torch.tensor([*r.prompt_ids, *r.ids]) for r in rollouts]
    attended = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
    out = on.policy.model(pad_sequence(rows, batch_first=True), attention_mask=attended).logits
    return out[:, len(PROMPT) - 1 : -1] / TEMPERATURE


def expected(on: Bench, name: str) -> tuple[float, list[Tensor]]:
    rollouts = on.groups[0].rollouts
    tokens = pad_sequence([torch.tensor(r.ids) for r in rollouts], batch_first=True)
    log_GTV = torch.log_softmax(logits(on), dim=-1)
    with torch.no_grad(), on.reference.active():
        reference = torch.log_softmax(logits(on), dim=-1).gather(2, tokens[..., None])[..., 0]
    loss = tessera.score_group(
        name,
        rewards=torch.tensor([r.reward for r in rollouts]),
        tokens=tokens,
        logp=log_GTV.gather(2, tokens[..., None])[..., 0],
        lengths=torch.tensor([len(r.ids) for r in rollouts]),
        mask=pad_sequence([torch.tensor(r.sampled) for r in rollouts], batch_first=True),
        ref_logp=reference,
        entropy=-(log_GTV.exp() * log_GTV).sum(-1).detach(),
        eos_logp=log_GTV[..., [50, 51]].logsumexp(-1).detach(),
        truncated=torch.tensor([r.finish_reason == "length" for r in rollouts]),
        config=SPECS.get(name, {}),
        seed=5,
    ).value
    if "parameters" in build({"name": name}).needs:
        loss = loss + 0.01 * sum(p.square().sum() for p in adapter_matrices(on.policy.model))
    on.policy.model.zero_grad()
    loss.backward()
    gradients = [p.grad.clone() for p in on.policy.trainable_parameters()]
    on.policy.model.zero_grad()
    return float(loss.detach()), gradients


def assert_near(loss: float, gradients: Sequence[Tensor], right: tuple[float, list[Tensor]]) -> None:
    assert loss == pytest.approx(right[0], rel=1e-5, abs=1e-5)
    mine, theirs = (torch.cat([g.flatten() for g in every]) for every in (gradients, right[1]))
    assert float(theirs.norm()) > 1e-3  # or there would be nothing to compare
    assert float((mine - theirs).norm()) <= 1e-5 * float(theirs.norm())


@pytest.mark.parametrize("name", registered())
@pytest.mark.parametrize("model_type", sorted(FAMILIES))
def test_every_algorithm_on_every_family_is_its_slow_twin(model_type: str, name: str) -> None:
    on = family(model_type)
    right = expected(on, name)
    for budget in (WHOLE, EACH):
        made = learner(on, {**SPECS.get(name, {}), "name": name}, budget)
        done = made.update(made.plan(on.groups, generator(5, "selection")))
        assert_near(done.loss, made.optimizer.gradients, right)


@pytest.mark.parametrize("model_type", sorted(FAMILIES))
def test_what_was_kept_while_sampling_replaces_the_frozen_layers(model_type: str) -> None:
    on = family(model_type)
    requests = [Request((1, 40, 41), 0), Request((1, 40, 41), 1), Request((1, 40, 41), 2), Request((1, 44), 3)]
    ran: list[int] = []
    layer = decoder_layers(on.policy.model)[1][0]
    handle = layer.register_forward_hook(lambda *_: ran.append(1))
    found = {}
    for keep in (False, True):
        sampled = HFEngine(on.policy).generate(requests, Sampling(max_new_tokens=9, keep_trunk=keep))
        rollouts = [
            Rollout(r.prompt_ids, c.ids, (True,) * len(c.ids), c.logprobs, "stop", "", float(i), trunk=c.trunk)
            for i, (r, c) in enumerate(zip(requests, sampled, strict=True))
        ]
        made = learner(on, {"name": "grpo", "beta": 0.3})
        planned = made.plan([Group(Problem("a", "a", None), (1, 40, 41), tuple(rollouts[:3]))], generator(5))
        ran.clear()
        done = made.update(planned)
        again = made.update(planned)
        assert again.loss == pytest.approx(done.loss, abs=1e-6)
        # The frozen layer ran for what was not kept: once, for policy, reference and both updates.
        assert len(ran) == (0 if keep else 1)
        found[keep] = (done.loss, made.optimizer.gradients)
        assert all((r.trunk is not None) == keep for r in rollouts)
        assert all(r.trunk.prompt_PH is None for r in rollouts[:3] if keep)  # taken, and let go
    handle.remove()
    assert_near(*found[True], found[False])


def test_rows_leave_the_batch_and_keep_what_was_theirs() -> None:
    """Rows end at different steps, so the batch is narrowed while it is sampled; what each kept is what a forward of it
    gives."""
    policy = replace(tiny_family("llama"), eos_ids=frozenset(range(6, 40)))
    requests = [Request((1, 40, 41 + i % 2), i) for i in range(12)]
    sampled = HFEngine(policy).generate(requests, Sampling(max_new_tokens=12, keep_trunk=True))
    assert len({len(c.ids) for c in sampled}) > 3
    caught: list[Tensor] = []
    second = decoder_layers(policy.model)[1][1]
    handle = second.register_forward_pre_hook(lambda module, inputs: caught.append(inputs[0]))
    for request, completion in zip(requests, sampled, strict=True):
        caught.clear()
        with torch.no_grad():
            policy.model(torch.tensor([[*request.prompt_ids, *completion.ids[:-1]]]))
        kept = torch.cat([completion.trunk.prompt_PH, completion.trunk.rest_TH])
        torch.testing.assert_close(kept, caught[0][0], rtol=1e-5, atol=1e-5)
    handle.remove()


@pytest.mark.parametrize("model_type", ["gpt2", "granite", "cohere"])
def test_another_family_is_scored_row_by_row_and_says_so(
    model_type: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tessera.policy.trunk._told", set())
    on = family(model_type)
    made = learner(on, {"name": "grpo", "beta": 0.3})
    done = made.update(made.plan(on.groups, generator(5, "selection")))
    assert_near(done.loss, made.optimizer.gradients, expected_with(on, {"beta": 0.3}))
    said = [record.message for record in caplog.records if "row by row" in record.message]
    assert len(said) == 1
    assert f"models of type {model_type} are scored row by row" in said[0]
    assert done.padding > 0
    assert model_type in TINY_FAMILIES
    assert not packs(on.policy.model.get_base_model())


def expected_with(on: Bench, config: dict[str, float]) -> tuple[float, list[Tensor]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SPECS, "grpo", config)
        return expected(on, "grpo")
