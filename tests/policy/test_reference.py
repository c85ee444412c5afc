"""The reference policy: frozen where it should be, gone from the model when its context ends."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from tessera.core.errors import UserError
from tessera.policy.adapters import LoraSettings, adapter_matrices, adapter_state, save_adapter
from tessera.policy.forest import Row
from tessera.policy.load import Policy
from tessera.policy.logprobs import score
from tessera.policy.reference import Reference
from tiny import TINY_LORA, tiny_policy

ROWS = [Row((1, 30, 31), (60, 61, 62), (0, 1, 2))]


def stir(policy: Policy, seed: int) -> None:
    noise = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in adapter_matrices(policy.model):
            p.copy_(0.3 * torch.randn(p.shape, generator=noise))


def logp(policy: Policy) -> Tensor:
    with torch.no_grad():
        return score(policy.model, ROWS).logp_N


@pytest.fixture
def policy() -> Policy:
    policy = tiny_policy()
    stir(policy, 1)
    return policy


def test_the_start_of_the_stage_stays_while_the_policy_moves(policy: Policy) -> None:
    start = logp(policy)
    reference = Reference(policy.model)
    stir(policy, 2)
    moved = logp(policy)
    with reference.active():
        inside = score(policy.model, ROWS).logp_N
    assert torch.equal(inside, start)
    assert not torch.equal(moved, start)
    assert torch.equal(logp(policy), moved)


def test_the_initial_reference_is_the_base_model(policy: Policy) -> None:
    base = logp(tiny_policy(lora=None))
    with Reference(policy.model, "initial").active():
        inside = score(policy.model, ROWS).logp_N
    assert torch.equal(inside, base)
    assert not torch.equal(logp(policy), base)


@pytest.mark.parametrize("kind", ["start_of_stage", "initial"])
def test_a_refresh_takes_the_policy_as_it_is(policy: Policy, kind: str) -> None:
    reference = Reference(policy.model, kind)
    stir(policy, 2)
    then = logp(policy)
    reference.refresh()
    stir(policy, 3)
    with reference.active():
        assert torch.equal(score(policy.model, ROWS).logp_N, then)


def test_no_gradient_is_recorded_inside_and_the_policy_learns_outside(policy: Policy) -> None:
    reference = Reference(policy.model)
    with reference.active():
        assert not score(policy.model, ROWS).logp_N.requires_grad
    score(policy.model, ROWS).logp_N.sum().backward()
    gradients = [p.grad for p in policy.trainable_parameters()]
    optimizer = torch.optim.SGD(policy.trainable_parameters(), lr=1.0)
    before = adapter_state(policy.model)
    optimizer.step()
    after = adapter_state(policy.model)
    assert all(not torch.equal(before[name], after[name]) for name in before)
    assert len(gradients) == len(before)
    with reference.active():  # the optimiser moved the policy, not the copy
        assert all(torch.equal(tensor, before[name]) for name, tensor in adapter_state(policy.model).items())


def test_the_policy_returns_after_an_error(policy: Policy) -> None:
    reference = Reference(policy.model)
    stir(policy, 2)
    held, moved = [p.data_ptr() for p in policy.trainable_parameters()], logp(policy)
    with pytest.raises(ZeroDivisionError), reference.active():
        _ = 1 / 0
    assert torch.equal(logp(policy), moved)
    assert [p.data_ptr() for p in policy.trainable_parameters()] == held


def test_a_reference_sees_no_dropout() -> None:
    policy = tiny_policy(lora=LoraSettings(**{**TINY_LORA.model_dump(), "dropout": 0.9}))
    stir(policy, 1)
    quiet = logp(policy)
    reference = Reference(policy.model)
    dropouts = [m for name, m in policy.model.named_modules() if "lora_dropout" in name]
    for module in dropouts:
        module.train()
    assert not torch.equal(logp(policy), quiet)
    with reference.active():
        assert torch.equal(score(policy.model, ROWS).logp_N, quiet)
    assert all(module.training for module in dropouts)
    assert not policy.model.training


def test_a_saved_state_is_taken_over(policy: Policy) -> None:
    reference = Reference(policy.model)
    saved = {name: tensor.double() for name, tensor in reference.state.items()}  # read back in another precision
    start = logp(policy)
    stir(policy, 2)
    other = Reference(policy.model)
    assert other.fingerprint() != reference.fingerprint()
    other.restore(saved)
    assert other.fingerprint() == reference.fingerprint()
    with other.active():
        assert torch.equal(score(policy.model, ROWS).logp_N, start)


def test_only_what_learns_is_copied(policy: Policy) -> None:
    state = Reference(policy.model).state
    assert sorted(tuple(t.shape) for t in state.values()) == sorted(
        tuple(p.shape) for p in policy.trainable_parameters()
    )
    assert Reference(policy.model, "initial").state is None


def test_the_fingerprint_names_kind_and_weights(policy: Policy) -> None:
    first = Reference(policy.model).fingerprint()
    assert first == Reference(policy.model).fingerprint()
    assert first != Reference(policy.model, "initial").fingerprint()
    with torch.no_grad():
        adapter_matrices(policy.model)[0][0, 0] += 1e-6
    assert first != Reference(policy.model).fingerprint()


def test_a_saved_adapter_is_a_reference_and_the_policy_keeps_its_own(policy: Policy, tmp_path: Path) -> None:
    save_adapter(policy.model, tmp_path / "adapter")
    saved, whole = logp(policy), Reference(policy.model).fingerprint()
    stir(policy, 2)
    moved = logp(policy)
    reference = Reference(policy.model, str(tmp_path / "adapter"))
    assert torch.equal(logp(policy), moved)
    assert reference.fingerprint() == whole  # of the weights, wherever they are from
    with reference.active():
        assert torch.equal(score(policy.model, ROWS).logp_N, saved)


@pytest.mark.parametrize(("changes", "said"), [({"alpha": 16}, "lora_alpha 16, .* has 8"), ({"rank": 2}, "r 2, .* 4")])
def test_an_adapter_of_another_scale_is_no_reference(tmp_path: Path, changes: dict[str, int], said: str) -> None:
    """The same matrices would mean another policy."""
    other = tiny_policy(lora=LoraSettings(**{**TINY_LORA.model_dump(), **changes}))
    save_adapter(other.model, tmp_path / "adapter")
    with pytest.raises(UserError, match=f"has {said}"):
        Reference(tiny_policy().model, str(tmp_path / "adapter"))


def test_the_initial_fingerprint_is_of_the_frozen_weights(policy: Policy) -> None:
    first = Reference(policy.model, "initial").fingerprint()
    stir(policy, 5)
    assert Reference(policy.model, "initial").fingerprint() == first
    assert Reference(tiny_policy(seed=1).model, "initial").fingerprint() != first
