"""The processes of a run. One is alone and sends nothing; several share the rows of a step (docs/scaling.md).

torchrun, or anything that sets the same variables, starts them. Every process holds the model and makes the same plan
from the same gathered rollouts; each samples, grades and scores its own rows, and gradients are summed. What is
computed from all rows is thus computed once and the same everywhere, and no statistic is one of a part.
"""

from __future__ import annotations

import atexit
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor

from tessera.core.errors import RunStopped, TesseraError, UserError
from tessera.core.launcher import place

T = TypeVar("T")

PATIENCE = timedelta(days=1)  # for the slowest process of a step
BUCKET = 2**24  # numbers that are summed in one call: 64 MB in float32


class Ranks:
    """A process that is alone: what all of them would bring is what it has."""

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this process writes the run folder and speaks for all."""
        return self.rank == 0

    def mine(self, count: int) -> range:
        """Which of `count` things, in order, are this process's: shares differ by one at most."""
        return range(count * self.rank // self.size, count * (self.rank + 1) // self.size)

    def gather(self, value: T) -> list[T]:
        """The values of every process, by rank."""
        return [value]

    def lead(self, work: Callable[[], T]) -> T:
        """What `work` returns in the first process, which alone does it. An error of ours is raised in all."""
        return work()

    def any(self, flag: bool) -> bool:
        """Whether any process raises its flag; all of them learn the same."""
        return flag

    def sum(self, tensors: Sequence[Tensor]) -> None:
        """Replace every tensor by its sum over the processes."""

    @contextmanager
    def reachable(self) -> Iterator[None]:
        """Within the context a process that has gone away is a RunStopped where weights in parts meet, too."""
        yield


class Processes(Ranks):
    """One of several processes, joined in torch's default process group.

    Every method is called by all of them in the same order. A process that has gone away is a RunStopped in the others.
    """

    def __init__(self) -> None:
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        # Plain data goes over gloo, which notices at once when a process is gone; one that samples for long is not.
        self._plain = dist.new_group(backend="gloo", timeout=PATIENCE)

    def gather(self, value: T) -> list[T]:
        """See Ranks."""
        found: list[Any] = [None] * self.size
        with self._all_there():
            dist.all_gather_object(found, value, group=self._plain)
        return found

    def lead(self, work: Callable[[], T]) -> T:
        """See Ranks."""
        outcome: list[Any] = [None, None]
        if self.first:
            try:
                outcome[0] = work()
            except TesseraError as error:
                outcome[1] = error
        with self._all_there():
            dist.broadcast_object_list(outcome, group=self._plain)
        if outcome[1] is not None:
            raise outcome[1]
        return cast("T", outcome[0])

    def any(self, flag: bool) -> bool:
        """See Ranks."""
        raised = torch.tensor([int(flag)])
        with self._all_there():
            dist.all_reduce(raised, dist.ReduceOp.MAX, group=self._plain)
        return bool(raised)

    def sum(self, tensors: Sequence[Tensor]) -> None:
        """See Ranks. In float32, or float64 where a tensor is that wide."""
        for bucket in _buckets(tensors):
            wide = torch.promote_types(bucket[0].dtype, torch.float32)
            flat = torch.cat([tensor.reshape(-1).to(wide) for tensor in bucket])
            with self._all_there():
                dist.all_reduce(flat)
            for tensor, part in zip(bucket, flat.split([tensor.numel() for tensor in bucket]), strict=True):
                tensor.copy_(part.view(tensor.shape))

    @contextmanager
    def reachable(self) -> Iterator[None]:
        """See Ranks."""
        try:
            yield
        except RuntimeError as error:
            if not isinstance(error, dist.DistError) and not re.search("gloo|nccl", str(error), re.IGNORECASE):
                raise
            raise _gone(error) from error

    @contextmanager
    def _all_there(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:  # what gloo and NCCL raise, of a peer that closed its connection or is silent
            raise _gone(error) from error


@contextmanager
def processes() -> Iterator[Ranks]:
    """Join the processes that a launcher started; without one, or with one process, Ranks.

    A process group that is there already is used. One that is made stays until the program ends: processes that left it
    at different times could not meet again for another run. On CUDA each process of a machine takes the device of its
    local rank. UserError for launches that this design does not serve.
    """
    if dist.is_available() and dist.is_initialized():
        yield Processes() if dist.get_world_size() > 1 else Ranks()
        return
    if place().size == 1:
        yield Ranks()
        return
    _refuse_wrappers()
    if torch.cuda.is_available():
        torch.cuda.set_device(place().local)
    dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    atexit.register(_leave)
    yield Processes()


def _gone(error: RuntimeError) -> RunStopped:
    why = str(error).strip().partition("\n")[0].rpartition("] ")[2].partition(". ")[0] or type(error).__name__
    return RunStopped(
        f"another process of the run ended or cannot be reached ({why}); its own last line says more; the newest "
        "checkpoint is intact, go on with --resume"
    )


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def _refuse_wrappers() -> None:
    """`accelerate launch` can ask for engines that wrap the model; gradients here are summed without."""
    for variable, name in (("ACCELERATE_USE_DEEPSPEED", "DeepSpeed"), ("ACCELERATE_USE_FSDP", "FSDP")):
        if os.environ.get(variable, "false").lower() in ("1", "true", "yes"):
            raise UserError(
                f"accelerate is configured for {name}, which would wrap a model whose layers are called one by one "
                "here: start with torchrun, or accelerate launch --multi_gpu; model.shard=true divides the weights"
            )


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Neighbours of one type and device, some million numbers at a time."""
    bucket: list[Tensor] = []
    for tensor in tensors:
        alike = bucket and (tensor.dtype, tensor.device) == (bucket[0].dtype, bucket[0].device)
        if bucket and not (alike and sum(t.numel() for t in bucket) + tensor.numel() <= BUCKET):
            yield bucket
            bucket = []
        bucket.append(tensor)
    if bucket:
        yield bucket
