"""Runs with weights in parts: stopped in one process and gone on with by any number, in either precision."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from processes import together
from runs import letters, rl, rows_of, run, sft
from tessera.core.errors import UserError
from tessera.core.types import Problem
from tessera.policy.load import Policy
from tessera.training.interrupt import Interrupt, Interrupted
from tessera.training.ranks import processes
from tiny import tiny_model, tiny_tokenizer

KEPT = {"save_every": 1, "keep_checkpoints": 9}
STAGES = [
    sft(steps=2, batch_size=3),
    rl({"name": "grpo", "beta": 0.1}, steps=3, keep_best=True, evaluate_every=1, updates_per_rollout=2),
]
DTYPES = {"float64": torch.float64, "bfloat16": torch.bfloat16}


def train(folder: Path, dtype: str, **more: Any) -> dict[str, Any]:
    model = {"name": "tiny", "full": True, "shard": True}
    policy = Policy.from_objects(tiny_model(dtype=DTYPES[dtype]), tiny_tokenizer(), full=True)
    rows = ([{"prompt": "1+1=", "answer": "2"}] * 6, [{"prompt": "2+2=", "answer": "4"}] * 2, ())
    return run(folder, *STAGES, policy=policy, model=model, rows=rows, run=KEPT, **more)


def weights(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "model" / "model.safetensors")


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_stopped_run_goes_on_as_if_it_had_not_been(tmp_path: Path, dtype: str) -> None:
    together(lambda rank: train(tmp_path / "whole", dtype))
    asked = iter(range(100))

    def stopping(problem: Problem, text: str) -> float:
        if next(asked) == 8:  # in the second step of RL, by one process alone
            os.kill(os.getpid(), signal.SIGTERM)
        return letters(problem, text)

    def until_stopped(rank: int) -> None:
        with pytest.raises(Interrupted):
            train(tmp_path / "cut", dtype, reward=stopping if rank == 1 else letters)

    together(until_stopped)
    assert 2 < max(row["step"] for row in rows_of(tmp_path / "cut")) < 5
    shutil.copytree(tmp_path / "cut", tmp_path / "alone")
    together(lambda rank: train(tmp_path / "cut", dtype, resume=True))
    train(tmp_path / "alone", dtype, resume=True)
    expected, again, alone = (weights(tmp_path / name) for name in ("whole", "cut", "alone"))
    assert expected.keys() == again.keys() == alone.keys()
    for name, tensor in expected.items():
        assert tensor.dtype is DTYPES[dtype]
        assert torch.equal(again[name], tensor), name
        if dtype == "float64":
            torch.testing.assert_close(alone[name], tensor, rtol=1e-9, atol=1e-9)
    base = dict(tiny_model(dtype=DTYPES[dtype]).state_dict())
    assert any(not torch.equal(base[name], tensor) for name, tensor in expected.items())


def test_eight_bit_moments_are_refused(tmp_path: Path) -> None:
    def refused(rank: int) -> str:
        policy = Policy.from_objects(tiny_model(), tiny_tokenizer(), full=True)
        stage, model = rl(optimizer={"kind": "adamw_8bit"}), {"name": "tiny", "full": True, "shard": True}
        with pytest.raises(UserError) as error:
            run(tmp_path / "run", stage, policy=policy, model=model)
        return str(error.value)

    wrong = "optimizer.kind adamw_8bit does not know weights in parts: use adamw, or leave out model.shard"
    assert together(refused) == [wrong] * 2


def abreast(rank: int) -> list[int]:
    with processes() as ranks:
        interrupt, done = Interrupt(ranks), list[int]()
        with pytest.raises(Interrupted):
            for part in interrupt.between(range(5), abreast=True):
                interrupt.requested = rank == 1 and part == 2
                done.append(part)
        return done


def test_processes_that_pass_layers_together_stop_after_the_same_part() -> None:
    assert together(abreast) == [[0, 1, 2]] * 2


def test_one_process_keeps_them_all(tmp_path: Path) -> None:
    for name in ("whole", "shard"):
        run(tmp_path / name, rl(steps=1), model={"name": "tiny", "shard": name == "shard"})
    files = [(tmp_path / name / "adapter" / "adapter_model.safetensors").read_bytes() for name in ("whole", "shard")]
    assert files[0] == files[1]
