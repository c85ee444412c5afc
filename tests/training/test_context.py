"""What a stage works with: seeds of a place, dropout of a place, rows, evaluations, and who is told."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from runs import TEST, TRAIN, VALIDATION, letters, rows_of
from tessera.core.types import Problem
from tessera.policy.adapters import LoraSettings
from tessera.reports.run import RunFolder
from tessera.rollout.collect import Collector, Start
from tessera.rollout.engine import Sampling
from tessera.rollout.hf import HFEngine
from tessera.tasks.base import LoadedTask
from tessera.tasks.in_memory import InMemoryTask
from tessera.training.context import Observer, RunContext
from tessera.training.interrupt import Interrupted
from tessera.training.settings import EvaluationSettings, RunSettings
from tiny import TINY_LORA, tiny_policy


class Notes(Observer):
    """Keeps everything."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def row(self, row: Mapping[str, Any]) -> None:
        self.seen.append(dict(row))

    def progress(self, what: str, done: int, total: int) -> None:
        self.seen.append((what, done, total))

    def message(self, text: str) -> None:
        self.seen.append(text)

    def resumed(self, step: int) -> None:
        self.seen.append(("resumed", step))


def grade(problem: Problem, text: str) -> float:
    if problem.prompt == "4-1=":
        raise ValueError("no")
    return letters(problem, text)


def context(folder: RunFolder, seed: int = 5, **changes: Any) -> RunContext:
    policy = tiny_policy(lora=LoraSettings(**{**TINY_LORA.model_dump(), "dropout": 0.5}))
    task = LoadedTask.load("sums", InMemoryTask(TRAIN, VALIDATION, TEST, reward_fn=grade))
    engine = HFEngine(policy)
    parts: dict[str, Any] = {
        "policy": policy,
        "engine": engine,
        "collector": Collector(engine, policy, task.task),
        "task": task,
        "folder": folder,
        "run": RunSettings(dir=str(folder.path)),
        "evaluation": EvaluationSettings(success=0.5),
        "stage_names": ["warm", "learn"],
        "seed": seed,
        "observers": [Notes()],
        "max_new_tokens": 5,
    }
    return RunContext(**{**parts, **changes})


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[RunFolder]:
    with RunFolder.create(tmp_path / "run", "seed: 5\n", "fingerprint") as folder:
        yield folder


def test_a_seed_belongs_to_its_place(folder: RunFolder) -> None:
    run = context(folder)
    here = run.seed_of("rollout"), run.stage_seed("rollout")
    assert run.seed_of("rollout") == here[0]
    assert len({*here, run.seed_of("plan"), run.seed_of("rollout", 1), context(folder, seed=6).seed_of("rollout")}) == 5
    run.state.step += 1  # counts over all stages, and decides nothing
    assert run.seed_of("rollout") == here[0]
    run.state.stage_step += 1
    assert (run.seed_of("rollout") == here[0], run.stage_seed("rollout") == here[1]) == (False, True)
    run.state.stage, run.state.stage_step = 1, 0
    assert (run.seed_of("rollout") == here[0], run.stage_seed("rollout") == here[1]) == (False, False)


def test_dropout_of_a_place_is_its_own_and_leaves_the_generators_alone(folder: RunFolder) -> None:
    run = context(folder)
    dropouts = [m for name, m in run.policy.model.named_modules() if isinstance(m, torch.nn.Dropout)]
    drawn = []
    for names in (("plan",), ("plan",), ("replay-plan", 0)):
        torch.manual_seed(len(drawn))
        before = torch.get_rng_state()
        with run.learning(*names):
            assert all(m.training for m in dropouts)
            assert not run.policy.model.training
            drawn.append(dropouts[0](torch.ones(64)))
        assert torch.equal(torch.get_rng_state(), before)
        assert not any(m.training for m in dropouts)
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert {0.0, 2.0} == set(drawn[0].tolist())


def test_dropout_ends_with_an_error(folder: RunFolder) -> None:
    run = context(folder)
    with pytest.raises(ZeroDivisionError), run.learning():
        _ = 1 / 0
    assert not any(m.training for m in run.policy.model.modules())


def test_a_row_says_where_it_belongs(folder: RunFolder) -> None:
    run = context(folder)
    run.state.step, run.state.stage = 7, 1
    told = run.log("rl", {"loss": float("nan"), "reward/mean": 0.5})
    run.state.stage = 2  # the run is over
    run.log("eval", {})
    first, second = rows_of(folder.path)
    assert first == {
        "kind": "rl", "step": 7, "stage": "learn", "stage_index": 1, "seconds": told["seconds"], "loss": None,
        "reward/mean": 0.5,
    }  # fmt: skip
    assert (second["stage"], second["stage_index"]) == ("learn", 1)
    assert run.observers[0].seen[0]["reward/mean"] == 0.5


def test_time_adds_up_over_resumptions(folder: RunFolder) -> None:
    run = context(folder)
    run.state.seconds = 100.0
    time.sleep(0.02)
    first = run.elapsed()
    assert 100.02 <= first < 101
    assert run.elapsed() >= first


def test_observers_are_told_and_the_plain_one_does_nothing(folder: RunFolder) -> None:
    run = context(folder, observers=[Notes(), Observer()])
    run.state.stage = 1
    run.message("hello")
    run.progress(3, 9)
    run.resumed(7)
    run.log("rl", {})
    assert run.observers[0].seen[:3] == ["hello", ("learn", 3, 9), ("resumed", 7)]


def test_rollouts_are_on_record_with_what_they_earned(folder: RunFolder) -> None:
    run = context(folder)
    run.state.step = 4
    bad = next(p for p in run.task.validation if p.prompt == "4-1=")
    prefix = tuple(run.policy.tokenizer("ab", add_special_tokens=False)["input_ids"])
    groups = run.collector.collect([Start(run.task.train[0]), Start(bad, prefix)], 2, Sampling(max_new_tokens=3), 0)
    run.log_groups(groups)
    rows = list(folder.completions())
    assert [(row["step"], row["stage"], row["group"], row["problem_id"]) for row in rows] == [
        (4, "warm", 0, "train-0"), (4, "warm", 0, "train-0"), (4, "warm", 1, bad.id), (4, "warm", 1, bad.id),
    ]  # fmt: skip
    first, last = rows[0], rows[3]
    rollout = groups[0].rollouts[0]
    assert first["prompt"] == "<bos>0+0="
    assert (first["text"], first["reward"], first["error"]) == (rollout.text, rollout.reward, None)
    assert (first["tokens"], first["finish_reason"]) == (len(rollout.ids), rollout.finish_reason)
    assert last["prompt"] == "<bos>4-1=ab"
    assert last["text"].startswith("ab")
    assert (last["reward"], last["error"]) == (None, "ValueError: no")


def test_evaluations_ask_what_they_should_and_are_kept(folder: RunFolder) -> None:
    run = context(folder, evaluation=EvaluationSettings(success=0.5, test_size=3))
    found = run.test("base")
    (row,) = rows_of(folder.path)
    assert (row["kind"], row["split"], row["label"], row["accuracy/n"]) == ("eval", "test", "base", 3)
    assert [row[f"accuracy/{key}"] for key in ("value", "ci_low", "ci_high")] == [found.value, *found.interval]
    assert (row["truncation_rate"], row["completion_length/mean"]) == (found.truncation_rate, found.mean_length)
    assert run.state.evaluated == {"base": list(found.correct)}
    assert max(len(group.rollouts[0].ids) for group in found.groups) == 5  # the RL stages' limit, where none is named


def test_a_reward_that_fails_in_an_evaluation_is_warned_of(folder: RunFolder, caplog: pytest.LogCaptureFixture) -> None:
    run = context(folder)
    with caplog.at_level(logging.WARNING, logger="tessera"):
        found = run.validate()
    assert found.failed == 1
    assert caplog.messages[-1] == "the reward failed on 1 of 4 validation completions: unsolved"
    assert run.state.evaluated == {}  # validation chooses; it is no result


def test_a_split_that_is_not_there_is_no_evaluation(folder: RunFolder) -> None:
    run = context(folder)
    run.task = replace(run.task, validation=(), test=())
    assert run.validate() is None
    assert run.test("base") is None
    assert rows_of(folder.path) == []


def test_a_test_is_not_begun_after_a_request_to_stop(folder: RunFolder) -> None:
    run = context(folder)
    run.interrupt.requested = True
    with pytest.raises(Interrupted):
        run.test("base")
    assert (rows_of(folder.path), run.state.evaluated) == ([], {})
