"""What torchrun, or another launcher of several processes, says of this one."""

from __future__ import annotations

import os
from typing import NamedTuple

_NEEDED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


class Place(NamedTuple):
    """This process among those that were started together: number `rank`, from 0, of `size`; `local` on its machine."""

    rank: int = 0
    size: int = 1
    local: int = 0


def place() -> Place:
    """Where a launcher put this process; alone without one."""
    if any(name not in os.environ for name in _NEEDED):
        return Place()
    rank, size, local = (int(os.environ.get(name, "0")) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    return Place(rank, size, local)


def lacks_others() -> bool:
    """Whether accelerate was asked for several processes and started this one alone, as it does with --cpu."""
    accelerated = "ACCELERATE_DYNAMO_BACKEND" in os.environ  # set by every launch
    return accelerated and "MASTER_PORT" in os.environ and "RANK" not in os.environ
