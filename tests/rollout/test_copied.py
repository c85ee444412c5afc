"""Sampling from a rounded copy: the copy's weights, when they follow the trainer's, and what a run logs of the two."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from runs import TEST, TRAIN, check_same, rl, rows_of, run
from tessera.core.errors import UserError
from tessera.policy.adapters import adapter_matrices, adapter_state
from tessera.policy.load import ModelConfig, Policy, load_policy
from tessera.rollout.copied import CopyEngine, rounded
from tessera.rollout.engine import Request, Sampling
from tessera.rollout.hf import HFEngine
from tessera.training.context import Observer
from tessera.training.interrupt import Interrupted
from tiny import TINY_LORA, tiny_family, tiny_policy

HALF = {"kind": "in_process", "dtype": "bfloat16"}
REQUESTS = [Request((1, 40, 41, 42), 0), Request((1, 40, 41, 42), 1), Request((1, 30), 2)]
SAMPLING = Sampling(max_new_tokens=12, keep_trunk=True)


def stir(policy: Policy, seed: int) -> None:
    noise = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in adapter_matrices(policy.model):
            p.copy_(0.3 * torch.randn(p.shape, generator=noise))


def test_frozen_weights_are_rounded_once_and_nothing_of_the_trainer_changes() -> None:
    policy = tiny_policy()
    before = {name: p.clone() for name, p in policy.model.named_parameters()}
    copy = rounded(policy, torch.bfloat16)
    assert copy.dtype is torch.bfloat16
    own, theirs = dict(policy.model.named_parameters()), dict(copy.model.named_parameters())
    assert own.keys() == theirs.keys()
    for name, p in own.items():
        assert p.dtype is torch.float32 and torch.equal(p, before[name])
        assert theirs[name].data_ptr() != p.data_ptr()
        assert theirs[name].requires_grad == p.requires_grad
        assert theirs[name].dtype is (torch.float32 if p.requires_grad else torch.bfloat16)
        assert torch.equal(theirs[name], p if p.requires_grad else p.to(torch.bfloat16))
    for (name, one), (_, other) in zip(policy.model.named_buffers(), copy.model.named_buffers(), strict=True):
        assert one.dtype == other.dtype and torch.equal(one, other), name  # rotary angles stay in float32


def test_a_sync_brings_the_adapter_as_it_is_and_no_sync_leaves_the_old_one() -> None:
    policy = tiny_policy()
    engine = CopyEngine(policy, torch.bfloat16)
    assert engine.fingerprint() == policy.fingerprint()
    old = engine.generate(REQUESTS, SAMPLING)
    stir(policy, 1)
    assert engine.fingerprint() != policy.fingerprint()
    assert engine.generate(REQUESTS, SAMPLING) == old
    engine.sync()
    assert engine.fingerprint() == policy.fingerprint()
    for name, tensor in adapter_state(policy.model).items():
        assert torch.equal(tensor, adapter_state(engine.policy.model)[name])
    assert engine.generate(REQUESTS, SAMPLING) != old


@pytest.mark.parametrize("seed", [1, 2])
def test_it_samples_what_a_model_loaded_in_bfloat16_samples(tiny_folder: Path, seed: int) -> None:
    own, twin = (
        load_policy(ModelConfig(name=str(tiny_folder), dtype=dtype, device="cpu", lora=TINY_LORA))
        for dtype in ("float32", "bfloat16")
    )
    engine = CopyEngine(own, torch.bfloat16)
    stir(own, seed)
    stir(twin, seed)
    engine.sync()
    found = engine.generate(REQUESTS, SAMPLING)
    assert found == HFEngine(twin).generate(REQUESTS, SAMPLING)
    assert [done.logprobs for done in found] != [done.logprobs for done in HFEngine(own).generate(REQUESTS, SAMPLING)]


def test_nothing_is_kept_for_the_trainer_whose_frozen_layers_are_others() -> None:
    policy = tiny_policy()
    assert all(done.trunk is not None for done in HFEngine(policy).generate(REQUESTS, SAMPLING))
    assert all(done.trunk is None for done in CopyEngine(policy, torch.bfloat16).generate(REQUESTS, SAMPLING))


def test_a_family_whose_layers_are_not_known_is_sampled_too() -> None:
    policy = tiny_family("gpt2")
    found = CopyEngine(policy, torch.bfloat16).generate(REQUESTS, SAMPLING)
    twin = HFEngine(tiny_family("gpt2", torch.bfloat16)).generate(REQUESTS, SAMPLING)
    assert [done.ids for done in found] == [done.ids for done in twin]


def test_weights_that_are_in_that_dtype_or_in_few_bits_are_refused() -> None:
    with pytest.raises(UserError, match=r"the model is in torch\.bfloat16 already: leave out engine\.dtype"):
        CopyEngine(tiny_policy(dtype=torch.bfloat16), torch.bfloat16)
    policy = tiny_policy()
    policy.model.get_base_model().is_quantized = True  # type: ignore[operator, union-attr]
    with pytest.raises(UserError, match=r"weights of tiny are quantised, and engine\.dtype rounds whole ones"):
        CopyEngine(policy, torch.bfloat16)


def test_a_run_compares_copy_and_trainer_and_corrects_for_it(tmp_path: Path) -> None:
    stage = rl({"name": "grpo", "importance_correction": "truncated"}, steps=3, optimizer={"lr": 0.05})
    run(tmp_path / "own", stage)
    run(tmp_path / "copy", stage, engine=HALF)
    first, *_, last = rows_of(tmp_path / "copy", "rl")
    own, *_ = rows_of(tmp_path / "own", "rl")
    assert own["mismatch/mean"] < 1e-5 and own["importance/max"] == pytest.approx(1, abs=1e-4)
    assert 1e-4 < first["mismatch/mean"] < 0.1
    assert first["importance/max"] > 1 + 1e-4
    assert 1e-4 < last["mismatch/mean"] < 0.1  # the copy has followed three updates


def test_a_run_goes_on_bit_for_bit(tmp_path: Path) -> None:
    class Stop(Observer):
        def row(self, row: Mapping[str, Any]) -> None:
            if row["kind"] == "rl" and row["step"] == 2:
                raise KeyboardInterrupt

    stages, splits = (rl(steps=4, evaluate_every=2),), (TRAIN, TEST[:2], TEST[2:])
    run(tmp_path / "whole", *stages, rows=splits, engine=HALF, run={"save_every": 1})
    with pytest.raises((KeyboardInterrupt, Interrupted)):
        run(tmp_path / "x", *stages, rows=splits, engine=HALF, run={"save_every": 1}, observers=[Stop()])
    run(tmp_path / "x", *stages, rows=splits, engine=HALF, run={"save_every": 1}, resume=True)
    check_same(tmp_path / "x", tmp_path / "whole")


@pytest.mark.parametrize("other", [{"full": True, "lora": None}, {"quantize": "8bit"}, {"shard": True}])
def test_what_has_no_whole_frozen_weights_is_refused(tmp_path: Path, other: dict[str, Any]) -> None:
    with pytest.raises(
        UserError, match=f"engine.dtype rounds whole weights that are frozen, not with model.{next(iter(other))}"
    ):
        run(tmp_path / "x", rl(), engine=HALF, model={"name": "tiny", **other})
    assert not (tmp_path / "x").exists()
