from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from command import COUNTING, rl_stage
from processes import together
from runs import rl, run
from tessera import launch
from tessera.core.errors import UserError
from tessera.core.launcher import place
from tessera.core.types import Problem
from tessera.launch import prepare, start
from tessera.recipe import check_recipe
from tessera.tasks.base import LoadedTask
from tessera.tasks.in_memory import InMemoryTask
from tessera.training.context import Observer
from tessera.training.interrupt import Interrupted
from tiny import tiny_policy

ROWS = [{"prompt": f"{n} + 1 =", "answer": n + 1} for n in range(4)]


def in_memory(test: int = 0, validation: int = 0) -> LoadedTask:
    task = InMemoryTask(
        ROWS,
        [{"prompt": f"v{n}", "answer": n} for n in range(validation)],
        [{"prompt": f"t{n}", "answer": n} for n in range(test)],
        reward_fn="last_integer",
    )
    return LoadedTask.load("in_memory", task)


def recipe(*stages: dict[str, Any], run_dir: Path | str = "runs/x", **changes: Any) -> Any:
    data = {"task": "in_memory", "stages": list(stages) or [rl_stage()], "run": {"dir": str(run_dir)}, **changes}
    return check_recipe(data, "x")


def test_stages_are_prepared_in_order() -> None:
    prepared = prepare(recipe({"kind": "sft", "steps": 1}, rl_stage(max_new_tokens=9)), in_memory())
    assert [a and a.name for a in prepared.algorithms] == [None, "grpo"]
    assert [len(learnt) for learnt in prepared.learns] == [4, 0]
    assert prepared.recipe.max_new_tokens == prepared.recipe.evaluation_tokens == 9


def test_a_supervised_stage_alone_evaluates_with_300_tokens() -> None:
    assert prepare(recipe({"kind": "sft", "steps": 1}), in_memory()).recipe.evaluation_tokens == 300
    sized = recipe({"kind": "sft", "steps": 1}, evaluation={"max_new_tokens": 5})
    assert prepare(sized, in_memory()).recipe.evaluation_tokens == 5


@pytest.mark.parametrize(
    ("stage", "asked"),
    [
        (rl_stage(), ["t0", "t1"]),
        (rl_stage(evaluate_every=2), ["t0", "t1", "v0", "v1", "v2"]),
        ({"kind": "sft", "steps": 1, "stop_accuracy": 0.5}, ["t0", "t1", "v0", "v1", "v2"]),
    ],
)
def test_what_evaluations_ask(stage: dict[str, Any], asked: list[str]) -> None:
    sizes = recipe(stage, evaluation={"test_size": 2, "validation_size": 3})
    assert [problem.prompt for problem, _ in prepare(sizes, in_memory(test=4, validation=5)).evaluated] == asked


def test_stages_that_evaluate_ask_their_own_problems_at_their_own_length() -> None:
    check = {"kind": "eval", "split": "validation", "size": 1, "max_new_tokens": 7}
    sizes = recipe(rl_stage(max_new_tokens=9), check, evaluation={"test_size": 1})
    asked = prepare(sizes, in_memory(test=4, validation=5)).evaluated
    assert [(problem.prompt, length) for problem, length in asked] == [("t0", 9), ("v0", 7)]
    with pytest.raises(UserError, match="stage eval looks at validation accuracy, and task in_memory has no such"):
        prepare(sizes, in_memory(test=4))


def test_a_file_to_learn_from_is_found_beside_the_recipe_and_is_part_of_the_fingerprint(tmp_path: Path) -> None:
    rows = tmp_path / "warm.jsonl"
    rows.write_text('{"prompt": "2 + 2 =", "completion": " 4"}\n')
    given = recipe({"kind": "sft", "steps": 1, "data": "warm.jsonl"}, data_dir=str(tmp_path))
    prepared = prepare(given, in_memory())
    assert prepared.stages[0].data == str(rows)  # type: ignore[union-attr]
    assert prepared.recipe.stages[0].data == "warm.jsonl"  # type: ignore[union-attr]
    assert [(e.problem.prompt, e.text) for e in prepared.learns[0]] == [("2 + 2 =", " 4")]
    rows.write_text('{"prompt": "2 + 2 =", "completion": " 5"}\n')
    assert prepare(given, in_memory()).fingerprint != prepared.fingerprint


def test_data_in_memory_cannot_be_read_from_a_recipe() -> None:
    with pytest.raises(UserError, match="the data of this run was in memory: go on from Python"):
        prepare(recipe())


def test_a_supervised_stage_needs_gold_answers(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(
        COUNTING + "\n\nclass Open(Counting):\n    def problems(self, split):\n"
        "        return [Problem('1', 'Say something.', None)] if split == 'train' else []\n"
    )
    stage = {"kind": "sft", "steps": 1}
    with pytest.raises(UserError, match="problem '1' has no gold answer to learn from: give the stage `data`"):
        prepare(recipe(stage, task=f"{tmp_path / 'own.py'}:Open"))


def test_nothing_is_written_when_a_completion_to_learn_exceeds_the_context(tmp_path: Path) -> None:
    rows = tmp_path / "warm.jsonl"
    rows.write_text('{"prompt": "x", "completion": "%s"}\n' % ("9" * 600))
    stage = {"kind": "sft", "steps": 1, "data": str(rows)}
    prepared = prepare(recipe(stage, run_dir=tmp_path / "run", evaluation={"max_new_tokens": 4}), in_memory())
    # <bos> and x; 600 digits and the end of the text.
    with pytest.raises(UserError, match="2 prompt tokens \\+ 601 new tokens exceed the model's 512"):
        start(prepared, policy=tiny_policy())
    assert not (tmp_path / "run").exists()


def test_nothing_is_written_for_a_policy_that_cannot_learn(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"model\.lora is null"):
        start(prepare(recipe(run_dir=tmp_path / "run"), in_memory()), policy=tiny_policy(lora=None))
    assert not (tmp_path / "run").exists()


def test_start_says_where_the_run_is_and_returns_its_summary(tmp_path: Path) -> None:
    class Listener(Observer):
        def message(self, text: str) -> None:
            heard.append(text)

    heard: list[str] = []
    stage = rl_stage(steps=1)
    summary = start(prepare(recipe(stage, run_dir=tmp_path / "run"), in_memory()), policy=tiny_policy(),
                    observers=[Listener()])  # fmt: skip
    assert heard[0] == f"run folder {tmp_path / 'run'}"
    assert (summary["status"], summary["steps"], summary["algorithm"]) == ("finished", 1, "grpo")


def test_a_run_is_resumed_where_it_is_or_replaced(tmp_path: Path) -> None:
    prepared = prepare(recipe(rl_stage(steps=1), run_dir=tmp_path / "run"), in_memory())
    with pytest.raises(UserError, match="no run folder at"):
        start(prepared, resume=True, policy=tiny_policy())
    start(prepared, policy=tiny_policy())
    with pytest.raises(UserError, match="already holds a run: go on with --resume"):
        start(prepared, policy=tiny_policy())
    assert start(prepared, resume=True, policy=tiny_policy())["steps"] == 1
    assert start(prepared, force=True, policy=tiny_policy())["steps"] == 1


def test_the_fingerprint_covers_every_split() -> None:
    def fingerprint(**rows: list[dict[str, Any]]) -> str:
        task = InMemoryTask(**{"train": ROWS, **rows}, reward_fn="last_integer")  # type: ignore[arg-type]
        return prepare(recipe(), LoadedTask.load("in_memory", task)).fingerprint

    more = [{"prompt": "new", "answer": 1}]
    assert len({fingerprint(), fingerprint(train=more), fingerprint(test=more), fingerprint(validation=more)}) == 4
    assert isinstance(in_memory().train[0], Problem)


def test_processes_that_would_run_different_things_are_refused(tmp_path: Path) -> None:
    def unlike(rank: int) -> str:
        with pytest.raises(UserError) as refused:
            run(tmp_path / "run", rl(steps=1 + rank))
        return str(refused.value)

    def one_device(rank: int) -> str:
        with pytest.raises(UserError) as refused:
            run(tmp_path / "run", model={"name": "tiny", "device": "cuda:0"})
        return str(refused.value)

    assert (
        together(unlike)
        == ["process 1 read another recipe or other data than process 0: give all of them the same"] * 2
    )
    assert together(one_device) == ["model.device cuda:0 is one device for 2 processes: write cuda"] * 2
    assert not (tmp_path / "run").exists()


def test_a_folder_that_is_taken_is_refused_in_all_processes(tmp_path: Path) -> None:
    def train(rank: int) -> str:
        run(tmp_path / "run", rl(steps=1))
        with pytest.raises(UserError) as refused:
            run(tmp_path / "run", rl(steps=1))
        return str(refused.value)

    first, second = together(train)
    assert first == second
    assert "already holds a run" in first


def test_processes_that_were_stopped_leave_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A launcher kills the rest when one has ended: here the trackers of the first would be lost."""
    trackers = launch.tracking

    @contextmanager
    def slow(*given: Any) -> Iterator[Any]:
        try:
            with trackers(*given) as opened:
                yield opened
        finally:
            if place().rank == 0:
                time.sleep(0.5)
                (tmp_path / "closed").touch()

    def asked(problem: Problem, text: str) -> float:
        os.kill(os.getpid(), signal.SIGTERM)
        return 0.0

    def train(rank: int) -> bool:
        with pytest.raises(Interrupted):
            run(tmp_path / "run", rl(steps=1), reward=asked)
        return (tmp_path / "closed").exists()

    monkeypatch.setattr(launch, "tracking", slow)
    assert together(train) == [True, True]


def test_a_process_that_accelerate_left_alone_is_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name, value in {"ACCELERATE_DYNAMO_BACKEND": "NO", "MASTER_PORT": "29500"}.items():
        monkeypatch.setenv(name, value)
    run(tmp_path / "run", rl(steps=1))
    assert "accelerate launch started one process, as it does on a CPU: for more give it --multi_gpu" in caplog.text


def test_a_run_with_other_files_for_its_tools_is_another(tmp_path: Path) -> None:
    database = tmp_path / "x.db"
    asked = recipe(environment={"tools": {"sql": {"database": str(database)}}})
    prepared, found = prepare(asked, in_memory()), []
    for content in (b"one", b"two", b"one"):
        database.write_bytes(content)
        found.append(prepared.fingerprint)
    assert found[0] == found[2] != found[1]
    assert prepare(recipe(), in_memory()).fingerprint == recipe().fingerprint(
        [*in_memory().train, *in_memory().validation, *in_memory().test]
    )
