"""AdamW by hand, its schedule by hand, and what is not finite."""

from __future__ import annotations

import io
import math
from typing import Any

import pytest
import torch
from torch import nn

from tessera.core.errors import RunStopped
from tessera.training.optimizer import Optimizer, schedule_factor
from tessera.training.settings import OptimizerSettings


def factors(steps: int, **settings: Any) -> list[float]:
    return [schedule_factor(OptimizerSettings(**settings), step, steps) for step in range(1, steps + 1)]


def test_schedules_by_hand() -> None:
    assert factors(4) == [1, 1, 1, 1]
    # The last of n steps after the warm-up still has 1/n, or learning would end a step early.
    assert factors(4, schedule="linear") == [1, 0.75, 0.5, 0.25]
    cosine = [0.5 * (1 + math.cos(math.pi * k / 4)) for k in range(4)]  # 1, .854, .5, .146
    assert factors(4, schedule="cosine") == pytest.approx(cosine)
    # Two warm-up steps climb in thirds; then four of a linear fall.
    assert factors(6, warmup_steps=2, schedule="linear") == pytest.approx([1 / 3, 2 / 3, 1, 0.75, 0.5, 0.25])
    assert factors(3, warmup_steps=5) == pytest.approx([1 / 6, 2 / 6, 3 / 6])


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
@pytest.mark.parametrize("warmup", [0, 1, 7, 20])
@pytest.mark.parametrize("steps", [1, 2, 13])
def test_no_step_is_without_learning(schedule: str, warmup: int, steps: int) -> None:
    found = factors(steps, schedule=schedule, warmup_steps=warmup)
    assert all(0 < factor <= 1 for factor in found)


def optimizer(value: float = 1.0, steps: int = 10, **settings: Any) -> Optimizer:
    return Optimizer([nn.Parameter(torch.tensor([value, 0.0]))], OptimizerSettings(**settings), steps)


def push(made: Optimizer, gradient: tuple[float, float], loss: float = 0.5) -> float:
    made.parameters[0].grad = torch.tensor(gradient)
    return made.update(loss)


def test_the_rate_follows_the_schedule() -> None:
    made = optimizer(lr=0.1, schedule="linear", warmup_steps=1, steps=3)
    assert [made.at_step(step) for step in (1, 2, 3)] == pytest.approx([0.05, 0.1, 0.05])
    made.at_step(1)
    push(made, (1.0, 0.0))
    # Adam's first step has the size of the rate, whatever the gradient.
    assert made.parameters[0].tolist() == pytest.approx([0.95, 0.0])


def test_two_steps_of_adamw_by_hand() -> None:
    made = optimizer(lr=0.1, betas=(0.5, 0.75), weight_decay=0.2, max_grad_norm=None, eps=1e-8)
    made.at_step(1)
    push(made, (4.0, 0.0))
    # Decay 1 * (1 - 0.1 * 0.2) = 0.98; m = 2 / (1 - 0.5) = 4, v = 4 / (1 - 0.75) = 16: step 0.1 * 4 / 4.
    assert made.parameters[0][0].item() == pytest.approx(0.88)
    push(made, (0.0, 0.0))
    # Decay 0.88 * 0.98 = 0.8624; m = 1 / (1 - 0.25), v = 3 / (1 - 0.5625): step 0.1 * 1.3333 / sqrt(6.8571).
    assert made.parameters[0][0].item() == pytest.approx(0.8624 - 0.1 * (4 / 3) / math.sqrt(48 / 7))


def test_the_norm_is_that_before_clipping_and_gradients_are_cleared() -> None:
    made = optimizer(max_grad_norm=1.0)
    assert push(made, (3.0, 4.0)) == pytest.approx(5.0)
    assert made.parameters[0].grad is None
    # Clipped to (0.6, 0.8): Adam's moment holds a tenth of it.
    assert made.adamw.state[made.parameters[0]]["exp_avg"].tolist() == pytest.approx([0.06, 0.08])


def test_no_clipping_where_none_is_asked_for() -> None:
    made = optimizer(max_grad_norm=None)
    assert push(made, (3.0, 4.0)) == pytest.approx(5.0)
    assert made.adamw.state[made.parameters[0]]["exp_avg"].tolist() == pytest.approx([0.3, 0.4])


@pytest.mark.parametrize("limit", [1.0, None])
@pytest.mark.parametrize(
    ("gradient", "loss"),
    [((float("nan"), 0.0), 0.5), ((float("inf"), 0.0), 0.5), ((1.0, 0.0), float("nan")), ((1.0, 0.0), float("inf"))],
)
def test_what_is_not_finite_moves_nothing(gradient: tuple[float, float], loss: float, limit: float | None) -> None:
    made = optimizer(max_grad_norm=limit)
    with pytest.raises(
        RunStopped, match=r"^loss .* with gradient norm .*: nothing was updated; lower the learning rate"
    ):
        push(made, gradient, loss)
    assert made.parameters[0].tolist() == [1.0, 0.0]
    assert made.parameters[0].grad is None
    assert not made.adamw.state


def test_a_restored_optimizer_goes_on_bit_for_bit() -> None:
    one, other = optimizer(lr=0.1), optimizer(lr=0.1)
    for made in (one, other):
        made.at_step(1)
        push(made, (1.0, -2.0))
    file = io.BytesIO()
    torch.save(other.state(), file)
    fresh = Optimizer([nn.Parameter(other.parameters[0].detach().clone())], OptimizerSettings(lr=0.1), 10)
    fresh.restore(torch.load(io.BytesIO(file.getvalue()), weights_only=True))
    for made in (one, fresh):
        made.at_step(2)
        push(made, (0.3, 0.7))
    assert torch.equal(one.parameters[0], fresh.parameters[0])
    untrained = optimizer(lr=0.1)
    untrained.parameters[0].data.copy_(other.parameters[0].detach())
    push(untrained, (0.3, 0.7))
    assert not torch.equal(one.parameters[0], untrained.parameters[0])


def test_carried_moments_meet_the_stages_own_settings() -> None:
    """Adam after one gradient of 1: m = 0.1, v = 0.001, both to be corrected by 1 - 0.9 and 1 - 0.999. A second of 0:
    m = 0.09 / 0.19 = 0.4737, v = 0.000999 / 0.001999 = 0.4997; a step of rate 2 x 0.4737 / sqrt(0.4997) = 1.3402."""
    weight = nn.Parameter(torch.zeros(1, dtype=torch.float64))
    first = Optimizer([weight], OptimizerSettings(lr=1.0), 1)
    weight.grad = torch.ones_like(weight)
    first.update(0.0)
    second = Optimizer([weight], OptimizerSettings(lr=2.0, weight_decay=0.0), 1)
    second.carry(first.moments())
    before = weight.item()
    weight.grad = torch.zeros_like(weight)
    assert second.at_step(1) == 2.0
    second.update(0.0)
    assert before - weight.item() == pytest.approx(1.3402, abs=1e-4)


def test_half_precision_moves_in_float32_copies() -> None:
    """A step of 1e-4 is lost on a bfloat16 1.0, whose neighbours are 2^-8 below and 2^-7 above; forty of them are
    4e-3, and beyond half the way, 2^-9 = 1.95e-3, to the lower neighbour."""
    made = Optimizer(
        [nn.Parameter(torch.tensor([1.0], dtype=torch.bfloat16))], OptimizerSettings(lr=1e-4, weight_decay=0.0), 100
    )
    (own,), (master,) = made.parameters, made.masters
    seen = []
    for _ in range(40):
        own.grad = torch.ones(1, dtype=torch.bfloat16)  # AdamW steps by lr where the gradient is always the same
        made.update(0.0)
        assert own.grad is None and master.grad is None
        seen.append(float(own.detach()))
    assert float(master.detach()) == pytest.approx(1 - 40 * 1e-4, abs=1e-6)
    assert seen[0] == 1.0 and seen[-1] == 1 - 2**-8
    assert master.dtype is torch.float32


def test_float32_copies_survive_a_checkpoint() -> None:
    def made() -> Optimizer:
        return Optimizer([nn.Parameter(torch.tensor([1.0], dtype=torch.bfloat16))], OptimizerSettings(lr=1e-4), 100)

    def step(optimizer: Optimizer) -> None:
        optimizer.parameters[0].grad = torch.ones(1, dtype=torch.bfloat16)
        optimizer.update(0.0)

    whole, first, second = made(), made(), made()
    for _ in range(3):
        step(whole)
        step(first)
    file = io.BytesIO()
    torch.save(first.state(), file)
    file.seek(0)
    second.restore(torch.load(file, weights_only=True))
    for _ in range(3):
        step(whole)
        step(second)
    assert torch.equal(whole.masters[0], second.masters[0])
    assert float(whole.masters[0].detach()) == pytest.approx(1 - 6e-4, abs=1e-6)
    assert "masters" not in optimizer().state()  # float32 learns in place
