"""What processes tell each other, in real ones over gloo, and how a process finds out that it is alone."""

from __future__ import annotations

import os
import signal
import time
from datetime import timedelta
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from processes import together
from tessera.core.errors import RunStopped, UserError
from tessera.policy.forest import Row
from tessera.policy.logprobs import score
from tessera.policy.sharded import shard
from tessera.training import ranks
from tessera.training.ranks import Ranks, processes
from tiny import tiny_policy


def test_alone_nothing_is_sent() -> None:
    alone = Ranks()
    tensor = torch.ones(3)
    alone.sum([tensor])
    assert (alone.first, list(alone.mine(4)), alone.gather("x"), alone.lead(lambda: 7)) == (
        True,
        [0, 1, 2, 3],
        ["x"],
        7,
    )
    assert (alone.any(True), alone.any(False), tensor.tolist()) == (True, False, [1, 1, 1])
    with processes() as found:
        assert type(found) is Ranks
        assert not dist.is_initialized()


@pytest.mark.parametrize("size", [1, 2, 3, 5])
@pytest.mark.parametrize("count", [0, 1, 4, 7, 15])
def test_shares_are_whole_in_order_and_even(size: int, count: int) -> None:
    shares = []
    for rank in range(size):
        one = Ranks()
        one.rank, one.size = rank, size
        shares.append(one.mine(count))
    assert [i for share in shares for i in share] == list(range(count))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def talk(rank: int) -> dict[str, Any]:
    with processes() as found:
        tensors = [torch.full((2, 3), rank + 1.0), torch.tensor([1e-12, 1.0], dtype=torch.float64), torch.zeros(0)]
        half = torch.tensor([1.0 if rank else 256.0], dtype=torch.bfloat16)
        found.sum([*tensors, half])
        try:
            failed = found.lead(lambda: _fail(rank))
        except UserError as error:
            failed = str(error)
        return {
            "rank": found.rank,
            "gathered": found.gather({"of": rank}),
            "flags": [found.any(rank == 1), found.any(rank == 9)],
            "led": found.lead(lambda: f"by {rank}"),
            "failed": failed,
            "sums": [tensor.tolist() for tensor in (*tensors, half)],
            "patience": found._plain._get_backend(torch.device("cpu")).options._timeout,
        }


def _fail(rank: int) -> str:
    raise UserError(f"no disk in {rank}")


def test_what_processes_tell_each_other() -> None:
    for rank, told in enumerate(together(talk, 3)):
        assert told["rank"] == rank
        assert told["patience"] == timedelta(days=1)  # torch's own half hour would end runs that sample for longer
        assert told["gathered"] == [{"of": 0}, {"of": 1}, {"of": 2}]
        assert told["flags"] == [True, False]
        assert (told["led"], told["failed"]) == ("by 0", "no disk in 0")
        # 1 + 2 + 3 = 6; 3e-12 and 3 in float64; 256 + 1 + 1 = 258 by way of 257, which bfloat16 would round to 256.
        assert told["sums"] == [[[6.0] * 3] * 2, [3e-12, 3.0], [], [258.0]]


def test_buckets_keep_the_order_and_part_types(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranks, "BUCKET", 5)
    tensors: list[Tensor] = [torch.zeros(n) for n in (2, 3, 1, 9, 1)] + [torch.zeros(1, dtype=torch.float64)]
    sizes = [[tensor.numel() for tensor in bucket] for bucket in ranks._buckets(tensors)]
    assert sizes == [[2, 3], [1], [9], [1], [1]]


def lost(rank: int) -> tuple[str, float]:
    with processes() as found:
        found.any(False)
        if rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        began = time.monotonic()
        with pytest.raises(RunStopped) as stopped:
            found.gather(rank)
        return str(stopped.value), time.monotonic() - began


def test_a_process_that_is_gone_stops_the_others_at_once() -> None:
    (text, seconds), gone = together(lost)
    assert gone is None
    assert text.startswith("another process of the run ended or cannot be reached (")
    assert text.endswith("go on with --resume")
    assert "\n" not in text
    assert seconds < 5


def lost_in_a_layer(rank: int) -> list[str]:
    row = [Row((1, 30, 31), (60, 61, 62), (0, 1, 2))]
    with processes() as found:
        policy = tiny_policy()
        shard(policy.model, torch.device("cpu"))
        found.any(False)
        if rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        said = []
        for wrong in (lambda: score(policy.model, row), lambda: torch.zeros(2) @ torch.zeros(3)):
            try:
                with found.reachable():
                    wrong()
            except (RunStopped, RuntimeError) as error:
                said.append(f"{type(error).__name__}: {error}")
        return said


def test_a_process_that_is_gone_while_layers_pass_stops_the_others_and_a_bug_is_a_bug() -> None:
    (gone, bug), nobody = together(lost_in_a_layer)
    assert nobody is None
    assert gone.startswith("RunStopped: another process of the run ended or cannot be reached (")
    assert gone.endswith("go on with --resume") and "\n" not in gone
    assert bug.startswith("RuntimeError: ") and "size" in bug


def joined_already(rank: int) -> tuple[list[int], bool]:
    dist.init_process_group("gloo")
    with processes() as found:
        gathered = found.gather(rank)
    return gathered, dist.is_initialized()


def test_a_process_group_that_is_there_is_used_and_left() -> None:
    assert together(joined_already) == [([0, 1], True)] * 2


def meet_again(rank: int) -> list[list[int]]:
    met = []
    for n in range(3):
        with processes() as found:
            met.append(found.gather(10 * n + rank))
        time.sleep(0.3 * (1 - rank))  # the second is first at the next meeting
    return met


def test_processes_meet_again_for_another_run() -> None:
    assert together(meet_again) == [[[0, 1], [10, 11], [20, 21]]] * 2


@pytest.mark.parametrize("engine", ["DEEPSPEED", "FSDP"])
def test_an_engine_that_wraps_the_model_is_refused(monkeypatch: pytest.MonkeyPatch, engine: str) -> None:
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "x", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv(f"ACCELERATE_USE_{engine}", "true")
    with pytest.raises(UserError, match=r"accelerate is configured for .*: start with torchrun"), processes():
        pass


def over_nccl(rank: int) -> list[float]:
    with processes() as found:
        there = torch.ones(3, device="cuda")
        found.sum([there])
        return there.tolist()


@pytest.mark.gpu
def test_sums_over_nccl() -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two CUDA devices")
    assert together(over_nccl) == [[2.0] * 3] * 2
