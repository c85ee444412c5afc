"""Rollouts ahead: whose weights sampled, that it overlaps, what a resumed run sees of it, and what is refused.

That steps which sample their own rollouts do so is in test_rl.py and test_rl_rollouts.py."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from beside import Beside
from runs import TRAIN, VALIDATION, completions_of, letters, rl, rows_of, run, without_times
from tessera.core.errors import RunStopped, UserError
from tessera.core.types import Problem
from tessera.training.context import Observer
from tessera.training.interrupt import Interrupted
from tessera.training.optimizer import Optimizer
from tiny import tiny_policy
from tiny_vllm import TinyVLLM, serving

CORRECTED = {"name": "grpo", "importance_correction": "truncated"}


def ahead(algorithm: Any = CORRECTED, **changes: Any) -> dict[str, Any]:
    rollouts = {"ahead": True, **changes.pop("rollouts", {})}
    return rl(algorithm, **{"steps": 5, "optimizer": {"lr": 2e-2}, **changes}, rollouts=rollouts)


def go(folder: Path, stage: Mapping[str, Any], **how: Any) -> Beside:
    policy = tiny_policy()
    engine = Beside(policy, how.pop("before", lambda: None), how.pop("holes", True))
    run(folder, stage, policy=policy, engine=engine, **how)
    return engine


def test_each_step_is_sampled_by_the_weights_of_the_one_before(tmp_path: Path) -> None:
    engine = go(tmp_path, ahead())
    begun = engine.synced  # the weights that each step began with
    assert len(set(begun)) == 5
    assert engine.sampled == [begun[0], *begun[:4]]
    rows = rows_of(tmp_path, "rl")
    assert [row["rollout/staleness"] for row in rows] == [0, 1, 1, 1, 1]
    assert rows[0]["importance/max"] == pytest.approx(1.0, abs=1e-4)  # by its own weights
    assert max(row["importance/max"] for row in rows[1:]) > 1.01
    assert all(row["mismatch/unknown"] > 0 for row in rows)
    assert [len({c["problem_id"] for c in completions_of(tmp_path) if c["step"] == step}) for step in range(1, 6)] == (
        [1] * 5
    )


def test_problems_and_random_streams_are_those_of_a_run_that_samples_its_own(tmp_path: Path) -> None:
    """The second step's rollouts come from the first step's weights, and from nothing else that is different."""
    go(tmp_path / "ahead", ahead(steps=2))
    frozen = ahead(steps=2, rollouts={"ahead": False}, optimizer={"lr": 1e-7})  # its weights hardly move
    go(tmp_path / "own", frozen)
    found = [[(c["problem_id"], c["text"]) for c in completions_of(tmp_path / name)] for name in ("ahead", "own")]
    assert found[0] == found[1]


def test_sampling_goes_on_while_the_trainer_updates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    updated, calls = threading.Semaphore(0), []
    update = Optimizer.update

    def seen(self: Optimizer, loss: float) -> float:
        updated.release()
        return update(self, loss)

    def before() -> None:
        calls.append(threading.current_thread().name)
        if len(calls) > 1:  # sampling for the next step is not done before the update of this one is
            assert updated.acquire(timeout=60)

    monkeypatch.setattr(Optimizer, "update", seen)
    go(tmp_path, ahead(steps=3), before=before)
    assert calls[0] == "MainThread"
    assert all(name.startswith("tessera-ahead") for name in calls[1:])
    row = rows_of(tmp_path, "rl")[-1]
    assert 0 <= row["time/rollout"] <= row["time/step"]
    assert row["speed/rollout"] == pytest.approx(row["tokens/generated"] / row["time/ahead"])


def test_a_server_samples_ahead_what_any_engine_beside_the_trainer_does(tmp_path: Path) -> None:
    with serving(TinyVLLM()) as url:
        run(tmp_path / "served", ahead(), engine={"kind": "vllm_server", "url": url, "retries": 0})
    go(tmp_path / "beside", ahead(), holes=False)
    assert completions_of(tmp_path / "served") == completions_of(tmp_path / "beside")
    assert [row["rollout/staleness"] for row in rows_of(tmp_path / "served", "rl")] == [0, 1, 1, 1, 1]


class Stops(Observer):
    """Asks the run to stop after some steps."""

    def __init__(self, at: int) -> None:
        self.at = at

    def progress(self, what: str, done: int, total: int) -> None:
        if done == self.at:
            raise Interrupted


def only_even(problem: Problem, text: str) -> float:
    return letters(problem, text) if str(problem.prompt)[0] in "02" else 0.0


@pytest.mark.parametrize(
    ("stage", "how"),
    [
        (ahead(), {}),
        (ahead({"name": "s_grpo", "importance_correction": "masked"}, prompts_per_step=2), {}),
        (ahead(rollouts={"max_rounds": 3}, prompts_per_step=2), {"reward": only_even}),
        (ahead(evaluate_every=2, keep_best=True), {"rows": (TRAIN, VALIDATION, ())}),
    ],
    ids=["one group", "two groups", "dynamic sampling", "validation"],
)
def test_a_run_that_was_stopped_goes_on_as_if_it_had_not(
    tmp_path: Path, stage: dict[str, Any], how: dict[str, Any]
) -> None:
    how = {**how, "run": {"save_every": 2}}
    go(tmp_path / "whole", stage, **how)
    for at in (3, 4):  # both times after the checkpoint of step 2
        with pytest.raises(Interrupted):
            go(tmp_path / "parts", stage, observers=[Stops(at)], resume=at > 3, **how)
    go(tmp_path / "parts", stage, resume=True, **how)
    assert_same(tmp_path / "parts", tmp_path / "whole")


KILLED = """
import os, signal, sys
from pathlib import Path
from tessera.training.context import Observer
from test_rollouts import ahead, go


class Kills(Observer):
    def progress(self, what, done, total):
        if done == 3:
            os.kill(os.getpid(), signal.SIGKILL)


go(Path(sys.argv[1]), ahead(), observers=[Kills()], run={"save_every": 2})
"""


def test_a_run_that_was_killed_goes_on_as_if_it_had_not(tmp_path: Path) -> None:
    here = Path(__file__).parent
    path = os.pathsep.join([*map(str, (here, here.parent)), *sys.path])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    killed = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "parts")], env=environment, timeout=120)
    assert killed.returncode == -9
    go(tmp_path / "parts", ahead(), resume=True, run={"save_every": 2})
    go(tmp_path / "whole", ahead(), run={"save_every": 2})
    assert_same(tmp_path / "parts", tmp_path / "whole")


def assert_same(*folders: Path) -> None:
    for found in (completions_of, lambda folder: without_times(rows_of(folder)), adapter_of):
        one, other = map(found, folders)
        assert one == other


def adapter_of(folder: Path) -> bytes:
    return (folder / "adapter" / "adapter_model.safetensors").read_bytes()


def test_an_engine_that_fails_ahead_stops_the_run_at_the_step_that_needs_it(tmp_path: Path) -> None:
    calls = []

    def before() -> None:
        calls.append(1)
        if len(calls) == 3:
            raise RunStopped("the server is gone")

    with pytest.raises(RunStopped, match="the server is gone"):
        go(tmp_path, ahead(), before=before, run={"save_every": 1})
    assert [row["step"] for row in rows_of(tmp_path, "rl")] == [1, 2]
    go(tmp_path, ahead(), resume=True, run={"save_every": 1})
    rows = rows_of(tmp_path, "rl")
    assert [row["rollout/staleness"] for row in rows] == [0, 1, 0, 1, 1]  # sampled anew, and by newer weights
    problems = [c["problem_id"] for c in completions_of(tmp_path)]
    go(tmp_path / "whole", ahead())
    assert problems == [c["problem_id"] for c in completions_of(tmp_path / "whole")]


@pytest.mark.parametrize(
    ("stage", "says"),
    [
        (ahead("grpo"), "which a ratio has to correct: give algorithm.importance_correction: truncated"),
        (ahead(replay={"successes": 1}), "rollouts.ahead keeps the engine busy with the next step"),
    ],
)
def test_what_cannot_be_corrected_or_has_no_engine_free_is_refused(
    tmp_path: Path, stage: dict[str, Any], says: str
) -> None:
    with pytest.raises(UserError, match=says):
        go(tmp_path / "run", stage)
    assert not (tmp_path / "run").exists()


def test_an_engine_that_is_the_trainers_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"ahead needs an engine beside the trainer, such as engine\.kind vllm_server"):
        run(tmp_path / "run", ahead())
    assert not (tmp_path / "run").exists()
