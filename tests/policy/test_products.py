"""Products by oneDNN against torch's own, with gradient, and what goes torch's way."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from tessera.policy import products
from tessera.policy.products import adopt, linear, release


def layer(bias: bool, learns: bool = False) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(48, 32, bias=bias).requires_grad_(learns)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", [(48,), (1, 48), (7, 48), (2, 5, 48)])
def test_value_and_gradient_are_torchs(shape: tuple[int, ...], bias: bool) -> None:
    own = layer(bias)
    noise = torch.Generator().manual_seed(1)
    x = torch.randn(shape, generator=noise, requires_grad=True)
    out = linear(x, own.weight, own.bias)
    expected = nn.functional.linear(x, own.weight, own.bias)
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-5)
    wanted = torch.randn(out.shape, generator=noise)
    (got,), (theirs,) = torch.autograd.grad(out, x, wanted), torch.autograd.grad(expected, x, wanted)
    torch.testing.assert_close(got, theirs, rtol=0, atol=1e-5)


def test_a_weight_may_be_turned_and_a_gradient_expanded() -> None:
    """As in the mean row of the head, and in a sum's gradient, whose strides are 0."""
    x, weight = torch.randn(3, 32, requires_grad=True), layer(False).weight
    torch.testing.assert_close(linear(x, weight.t()), x @ weight, rtol=0, atol=1e-5)
    (got,) = torch.autograd.grad(linear(x, weight.t()).sum(), x)
    torch.testing.assert_close(got, weight.t().sum(dim=0).expand(3, 32), rtol=0, atol=1e-5)


@pytest.mark.parametrize("what", ["learns", "float64", "empty", "autocast"])
def test_what_goes_torchs_way(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "_onednn", lambda *_: pytest.fail("not for this one"))
    own, x = layer(True, learns=what == "learns"), torch.randn(0 if what == "empty" else 2, 48)
    if what == "float64":
        own, x = own.double(), x.double()
    with torch.autocast("cpu", torch.bfloat16, enabled=what == "autocast"):
        out, expected = linear(x, own.weight, own.bias), nn.functional.linear(x, own.weight, own.bias)
    assert torch.equal(out, expected)
    assert out.requires_grad == (what == "learns")


def test_adopted_layers_use_it_until_released_and_can_be_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Sequential(layer(True), nn.ReLU())
    adopt(model)
    twin = copy.deepcopy(model)
    with torch.no_grad():
        twin[0].weight.zero_()
    x = torch.randn(2, 48)
    assert torch.equal(twin(x), torch.relu(twin[0].bias).expand(2, 32))  # the copy reads its own weights
    torch.testing.assert_close(model(x), torch.relu(nn.functional.linear(x, model[0].weight, model[0].bias)))
    monkeypatch.setattr(products, "_onednn", lambda *_: torch.zeros(2, 32))
    assert not model(x).any()
    release(model)
    assert model(x).any()
