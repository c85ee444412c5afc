"""Tensors in parts: shares, whole ones from shares and back, over two real processes."""

from __future__ import annotations

from typing import Any

import torch

from processes import together
from tessera.policy.parts import agreed, gathered, in_parts, local, placed
from tessera.training.ranks import processes


def parted(rank: int) -> dict[str, Any]:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard, distribute_tensor

    with processes():
        whole = torch.arange(6.0).view(3, 2)
        own = distribute_tensor(whole, init_device_mesh("cpu", (2,)), [Shard(0)])
        state = {"a": [own, (own, 7)], "b": whole}
        kept, left = gathered(state), gathered(state, keep=False)
        again = placed(2 * whole, like=own)
        return {
            "in parts": (in_parts(own), in_parts(whole), in_parts(again)),
            "local": local(own).tolist(),
            "again": local(again).tolist(),
            "gathered": (kept["a"][0].tolist(), kept["a"][1][1], kept["b"] is whole, kept["a"][0] is kept["a"][1][0]),
            "left": (left["a"][0].numel(), left["b"] is whole),
            "agreed": (agreed(f"of {rank}", [whole, own]), agreed(f"of {rank}", [whole])),
        }


def test_shares_are_of_rows_and_make_the_whole_again() -> None:
    shares = ([[0.0, 1.0], [2.0, 3.0]], [[4.0, 5.0]])  # three rows: two and one
    for rank, told in enumerate(together(parted)):
        assert told["in parts"] == (True, False, True)
        assert told["local"] == shares[rank]
        assert told["again"] == [[2 * x for x in row] for row in shares[rank]]
        assert told["gathered"] == ([[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]], 7, True, True)
        assert told["left"] == (0, True)
        assert told["agreed"] == ("of 0 of 1", f"of {rank}")


def test_alone_everything_is_as_it_is() -> None:
    tensor = torch.ones(2)
    assert local(tensor) is tensor
    assert placed(tensor, like=torch.zeros(2)) is tensor
    assert gathered({"a": (tensor,)})["a"][0] is tensor
