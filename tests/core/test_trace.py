"""Eligibility sums against the matrix that they stand for, and what they cost."""

from __future__ import annotations

import time

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tessera.core.trace import TraceKind, eligibility_sum


def dense(x_BT: Tensor, keep_BT: Tensor, decay: float, kind: str, floor: float) -> Tensor:
    """The [T,T] matrix of each row, entry by entry."""
    out_BT = torch.zeros_like(x_BT)
    for b, row in enumerate(keep_BT.tolist()):
        at = [t for t, on in enumerate(row) if on]
        for t, column in enumerate(at):
            for j, earlier in enumerate(at[: t + 1]):
                near = decay ** (t - j) if kind == "recent" else max(decay ** (t - j), decay**j)
                out_BT[b, column] += (1.0 if j == t else max(floor, near)) * x_BT[b, earlier]
    return out_BT


@pytest.mark.parametrize("kind", ["recent", "both"])
@pytest.mark.parametrize("length", [0, 1, 2, 63, 64, 65, 200])
def test_it_is_the_matrix(length: int, kind: TraceKind) -> None:
    rng = torch.Generator().manual_seed(length)
    x_BT = torch.randn(3, length, generator=rng, dtype=torch.float64)
    keep_BT = torch.rand(3, length, generator=rng) < 0.8
    given = torch.where(keep_BT, x_BT, torch.nan)
    for decay in (0.0, 0.5, 0.99, 1.0):
        for floor in (0.0, 0.1, 0.7, 1.0):
            found = eligibility_sum(given, keep_BT, decay, kind, floor)
            torch.testing.assert_close(found, dense(x_BT, keep_BT, decay, kind, floor), rtol=1e-10, atol=1e-10)


def test_by_hand() -> None:
    # a = 1/2 on 1, 2, 4: recent 1, 2 + 1/2, 4 + 1 + 1/4; both: tr(2,0) = max(1/4, 1) = 1, tr(1,0) = 1
    x_BT, keep_BT = torch.tensor([[1.0, 2.0, 4.0]]), torch.ones(1, 3, dtype=torch.bool)
    assert eligibility_sum(x_BT, keep_BT, 0.5, "recent").tolist() == [[1.0, 2.5, 5.25]]
    assert eligibility_sum(x_BT, keep_BT, 0.5, "both").tolist() == [[1.0, 3.0, 6.0]]
    assert eligibility_sum(x_BT, keep_BT, 0.5, "recent", 0.5).tolist() == [[1.0, 2.5, 5.5]]


@pytest.mark.parametrize("kind", ["recent", "both"])
def test_its_gradient(kind: TraceKind) -> None:
    x_BT = torch.randn(2, 70, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    keep_BT = torch.rand(2, 70, generator=torch.Generator().manual_seed(1)) < 0.8
    assert torch.autograd.gradcheck(lambda x: eligibility_sum(x, keep_BT, 0.9, kind, 0.3), (x_BT,))


def test_single_precision_holds_over_long_rows() -> None:
    x_BT = torch.rand(1, 4096, generator=torch.Generator().manual_seed(0))
    keep_BT = torch.ones(1, 4096, dtype=torch.bool)
    for kind in ("recent", "both"):
        exact = eligibility_sum(x_BT.double(), keep_BT, 0.99, kind)
        torch.testing.assert_close(eligibility_sum(x_BT, keep_BT, 0.99, kind).double(), exact, rtol=1e-5, atol=1e-5)


class Largest(TorchDispatchMode):
    """Remembers the largest tensor that was made, and how many elements all had."""

    def __init__(self) -> None:
        super().__init__()
        self.largest = self.total = 0

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        made = function(*arguments, **(keywords or {}))
        if isinstance(made, Tensor):
            self.largest, self.total = max(self.largest, made.numel()), self.total + made.numel()
        return made


def test_cost_and_memory_grow_with_the_length_and_not_its_square() -> None:
    work = {}
    for length in (1024, 4096):
        with Largest() as seen:
            eligibility_sum(torch.rand(2, length), torch.ones(2, length, dtype=torch.bool), 0.99, "both", 0.1)
        assert seen.largest <= 2 * 2 * length
        work[length] = seen.total
    assert work[4096] <= 4.2 * work[1024]


def test_a_long_trace_takes_a_moment() -> None:
    x_BT = torch.rand(8, 4096, requires_grad=True)
    start = time.process_time()
    eligibility_sum(x_BT, torch.ones(8, 4096, dtype=torch.bool), 0.99, "both").sum().backward()
    assert time.process_time() - start < 1
