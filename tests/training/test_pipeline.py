"""Stages one after another: what they hand on, what is evaluated between them, and how a run ends or goes on."""

from __future__ import annotations

import itertools
import json
import shutil
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from runs import TEST, TRAIN, VALIDATION, completions_of, letters, rl, rows_of, run, sft, without_times
from tessera.core.errors import RunStopped, UserError
from tessera.core.types import Problem
from tessera.evaluation.estimators import paired_difference_interval
from tessera.policy.adapters import adapter_state
from tessera.reports.run import RunFolder
from tessera.training import checkpoint, pipeline
from tessera.training.context import Observer, RunContext
from tessera.training.interrupt import Interrupted
from tessera.training.optimizer import Optimizer
from tiny import tiny_policy

ROWS = (TRAIN, (), TEST)


class Notes(Observer):
    """Keeps messages, and lets a test look in after each row."""

    def __init__(self, look: Any = lambda row: None) -> None:
        self.said: list[str] = []
        self.look = look

    def message(self, text: str) -> None:
        self.said.append(text)

    def row(self, row: Mapping[str, Any]) -> None:
        self.look(row)


def summary_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "summary.json").read_text())


def adapter_bytes(folder: Path) -> bytes:
    return (folder / "adapter" / "adapter_model.safetensors").read_bytes()


def half(problem: Problem, text: str) -> float:
    """Solved when the first character is in the first half of the alphabet of codes."""
    return float(text[:1] < "O")


def test_stages_follow_each_other_evaluated_before_between_and_after(tmp_path: Path) -> None:
    notes = Notes()
    stages = (sft(steps=2), rl(steps=3, name="first"), rl("t_spmo", steps=2, name="second"))
    summary = run(tmp_path, *stages, rows=ROWS, reward=half, observers=[notes])
    rows = rows_of(tmp_path)
    assert [(r["kind"], r["step"], r["stage"], r["stage_index"], r.get("label")) for r in rows] == [
        ("eval", 0, "sft", 0, "base"),
        ("sft", 1, "sft", 0, None),
        ("sft", 2, "sft", 0, None),
        ("eval", 2, "sft", 0, "sft"),
        ("rl", 3, "first", 1, None),
        ("rl", 4, "first", 1, None),
        ("rl", 5, "first", 1, None),
        ("eval", 5, "first", 1, "first"),
        ("rl", 6, "second", 2, None),
        ("rl", 7, "second", 2, None),
        ("eval", 7, "second", 2, "final"),
    ]
    assert notes.said[1:] == [
        "stage sft: sft, up to 2 steps", "stage first: rl, up to 3 steps", "stage second: rl, up to 2 steps",
    ]  # fmt: skip
    assert (summary["status"], summary["algorithm"], summary["steps"]) == ("finished", "grpo, t_spmo", 7)
    assert (summary["model"], summary["task"]) == ("tiny", "sums")
    assert "selection    unique_pairs" in summary["composition"]
    assert list(summary["accuracy"]) == ["base", "sft", "first", "final"]
    assert summary == summary_of(tmp_path)
    assert (tmp_path / "report.html").stat().st_size > 1000


def test_the_gain_is_that_of_the_last_stage_on_the_same_problems(tmp_path: Path) -> None:
    # Before, the first problem is solved; after, the second and the third.
    turn = iter([1, 0, 0, 0, 0, *[0, 1, 0, 1, 0, 1], 0, 1, 1, 0, 0])
    found = run(tmp_path, rl(steps=1), rows=ROWS, reward=lambda problem, text: float(next(turn)))["gain"]
    expected = paired_difference_interval([True] + [False] * 4, [False, True, True, False, False])
    assert (found["from"], found["to"], found["difference"]) == ("base", "final", pytest.approx(0.2))
    assert found["ci"] == [expected.low, expected.high]
    assert expected.low < 0.2 < expected.high


def test_without_test_problems_there_is_no_gain(tmp_path: Path) -> None:
    summary = run(tmp_path, rl(steps=1))
    assert (summary["gain"], summary["accuracy"]) == (None, {})


def test_each_stage_begins_with_the_policy_of_the_last_and_an_optimiser_of_its_own(tmp_path: Path) -> None:
    seen: dict[tuple[str, int], dict[str, torch.Tensor]] = {}
    policy = tiny_policy()
    notes = Notes(lambda row: seen.update({(row["kind"], row["step"]): adapter_state(policy.model)}))
    run(tmp_path, sft(steps=2), rl(steps=1, optimizer={"lr": 5e-3}), policy=policy, observers=[notes])
    moved = [(seen["rl", 3][name] - tensor).abs().max().item() for name, tensor in seen["sft", 2].items()]
    assert max(moved) <= 5.1e-3  # one step of a fresh Adam, from where the first stage ended
    assert max(moved) > 4e-3


def test_the_saved_adapter_is_the_policys(tmp_path: Path) -> None:
    policy = tiny_policy()
    run(tmp_path, policy=policy)
    saved = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert all(torch.equal(saved[name], tensor) for name, tensor in adapter_state(policy.model).items())


def test_checkpoints_are_made_as_often_as_asked_and_the_newest_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[tuple[int, int]] = []
    save = checkpoint.save

    def watch(folder: Path, saved: checkpoint.Checkpoint, keep: int) -> Path:
        made.append((saved.state["stage"], saved.state["step"]))
        return save(folder, saved, keep)

    monkeypatch.setattr(checkpoint, "save", watch)
    run(tmp_path, sft(steps=3), rl(steps=5), run={"save_every": 2, "keep_checkpoints": 3})
    # At the start of each stage, every other step, at its end; and when all is done.
    assert made == [(0, 0), (0, 2), (0, 3), (1, 3), (1, 5), (1, 7), (1, 8), (2, 8)]
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["step-00000007-stage-01", "step-00000008-stage-01", "step-00000008-stage-02"]


def test_a_run_that_stops_itself_says_why_in_its_summary(tmp_path: Path) -> None:
    def reward(problem: Problem, text: str) -> float:
        if len(completions_of(tmp_path)) >= 12:  # of two steps
            raise OSError("the grader is away")
        return letters(problem, text)

    with pytest.raises(RunStopped) as stopped:
        run(tmp_path, reward=reward)
    assert summary_of(tmp_path)["status"] == f"stopped: {stopped.value}"
    assert [row["step"] for row in rows_of(tmp_path)] == [1, 2]
    assert not (tmp_path / "adapter").exists()
    assert (tmp_path / "report.html").exists()


def test_what_stopped_the_run_is_said_also_where_nothing_can_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*given: Any) -> None:
        raise RunStopped("could not write summary.json")

    monkeypatch.setattr(RunFolder, "write_summary", refuse)
    with pytest.raises(RunStopped, match="the reward failed on 6 of 6"):
        run(tmp_path, reward=lambda problem, text: float("nan"))


def test_an_adapter_that_cannot_be_saved_is_one_line_and_the_run_can_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*given: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "save_adapter", full)
        with pytest.raises(RunStopped) as stopped:
            run(tmp_path / "a")
    assert str(stopped.value).startswith(f"could not save {tmp_path / 'a' / 'adapter'}: No space left on device; ")
    assert run(tmp_path / "a", resume=True)["status"] == "finished"
    run(tmp_path / "b")
    assert adapter_bytes(tmp_path / "a") == adapter_bytes(tmp_path / "b")


def test_a_device_that_runs_out_of_memory_is_one_line_and_the_run_can_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_large(*given: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nMore about it")

    with monkeypatch.context() as patch:
        patch.setattr("tessera.training.step.Learner.update", too_large)
        with pytest.raises(RunStopped, match=r"Tried to allocate 2 GiB\.\): lower tokens_per_microbatch, max_rows"):
            run(tmp_path)
    assert run(tmp_path, resume=True)["status"] == "finished"


def test_a_bug_is_a_crash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*given: Any) -> None:
        raise IndexError("a bug")

    monkeypatch.setattr("tessera.training.rl.RLRunner._log", broken)
    with pytest.raises(IndexError, match="a bug"):
        run(tmp_path)
    assert not (tmp_path / "summary.json").exists()


STAGES = (rl(steps=5, evaluate_every=2, name="one"), rl(steps=2, name="two"))
SPLITS = (TRAIN, TEST, [{"prompt": "9*9=", "answer": "81"}])


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    run(folder, *STAGES, rows=SPLITS, run={"save_every": 2})
    return folder


def assert_same(folder: Path, whole: Path) -> None:
    assert summary_of(folder)["status"] == "finished"
    assert adapter_bytes(folder) == adapter_bytes(whole)
    assert without_times(rows_of(folder)) == without_times(rows_of(whole))
    assert completions_of(folder) == completions_of(whole)


def resume(folder: Path, *observers: Observer) -> None:
    run(folder, *STAGES, rows=SPLITS, run={"save_every": 2}, resume=True, observers=observers)


@pytest.mark.parametrize("at", [("eval", 0), ("rl", 2), ("eval", 4), ("rl", 5), ("eval", 5), ("rl", 6)], ids=str)
def test_a_request_to_stop_is_obeyed_and_saved_wherever_it_comes(
    tmp_path: Path, whole: Path, at: tuple[str, int]
) -> None:
    def look(row: Mapping[str, Any]) -> None:
        if (row["kind"], row["step"]) == at:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(Interrupted):
        run(tmp_path, *STAGES, rows=SPLITS, run={"save_every": 2}, observers=[Notes(look)])
    assert summary_of(tmp_path)["status"] == "interrupted"
    assert rows_of(tmp_path)[-1]["step"] == at[1]
    notes = Notes()
    resume(tmp_path, notes)
    assert_same(tmp_path, whole)
    assert (f"going on after step {at[1]}" in notes.said) == (at != ("eval", 0))  # nothing was saved before


@pytest.mark.parametrize("call", [3, 9, 16, 34])
def test_sampling_that_is_cut_short_leaves_no_trace(tmp_path: Path, whole: Path, call: int) -> None:
    """In the first, second and third step of a stage, and in the first of the next. Nothing but the interruption makes
    a checkpoint between them, so what it saves is what the run goes on from: the same problems, the same streak of
    steps, no rows of the cut step."""
    calls = itertools.count(1)

    def reward(problem: Problem, text: str) -> float:
        if problem.prompt in {row["prompt"] for row in TRAIN} and next(calls) == call:
            signal.raise_signal(signal.SIGINT)
        return letters(problem, text)

    how: dict[str, Any] = {"rows": SPLITS, "run": {"save_every": 100}}
    with pytest.raises(Interrupted):
        run(tmp_path, *STAGES, reward=reward, **how)
    step = (call - 1) // 6
    found = checkpoint.newest(tmp_path / "checkpoints").state
    assert (found["step"], found["runner"]["sampler"]["position"]) == (step, step % 5)
    assert len(rows_of(tmp_path, "rl")) == step
    run(tmp_path, *STAGES, resume=True, **how)
    assert_same(tmp_path, whole)


def test_rollouts_written_before_the_request_are_written_once(tmp_path: Path, whole: Path) -> None:
    written = itertools.count(1)
    log_groups = RunContext.log_groups

    def log_and_stop(self: RunContext, groups: Any) -> None:
        log_groups(self, groups)
        if next(written) == 3:
            signal.raise_signal(signal.SIGINT)

    how: dict[str, Any] = {"rows": SPLITS, "run": {"save_every": 100}}
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(RunContext, "log_groups", log_and_stop)
        run(tmp_path, *STAGES, **how)
    assert len(completions_of(tmp_path)) == 12
    run(tmp_path, *STAGES, resume=True, **how)
    assert_same(tmp_path, whole)


def test_a_damaged_checkpoint_costs_steps_and_changes_nothing(tmp_path: Path, whole: Path) -> None:
    """Of a run that died while its last stage was at work; its folder as the crash left it."""
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    for path in sorted((folder / "checkpoints").iterdir()):
        (path / "state.json").write_text("{")
    notes = Notes()
    resume(folder, notes)  # from the beginning, since none is whole
    assert_same(folder, whole)
    assert not any("going on" in text for text in notes.said)


def test_a_finished_run_can_be_resumed_and_stays(tmp_path: Path, whole: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    shutil.rmtree(folder / "adapter")
    (folder / "summary.json").unlink()
    resume(folder)
    assert_same(folder, whole)


def test_rows_after_the_newest_checkpoint_are_dropped(tmp_path: Path, whole: Path) -> None:
    """What a crash left behind its last checkpoint is written again, not twice."""
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    for name in ("metrics.jsonl", "completions.jsonl"):
        with (folder / name).open("a") as file:
            file.write('{"kind": "rl", "step": 8}\n{"kind": "rl", "st')
    resume(folder)
    assert_same(folder, whole)


def test_an_rl_stage_without_an_algorithm_is_refused(tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch, pytest.raises(UserError, match="stage rl needs an algorithm"):
        patch.setattr("tessera.launch._algorithm", lambda stage, folder: None)
        run(tmp_path)


PENALISED = {"name": "grpo", "beta": 0.1}
APART = {"first": "start_of_stage", "second": "initial"}


def first_kl(folder: Path, reference: str) -> tuple[float, dict[str, Any]]:
    """KL in the first RL step after a supervised stage, and what the summary says of the stage."""
    summary = run(folder, sft(steps=4, optimizer={"lr": 1e-2}), rl(PENALISED, steps=1, reference=reference))
    return rows_of(folder, "rl")[0]["kl"], summary["stages"][1]["reference"]


def test_after_sft_there_is_no_kl_to_the_start_of_the_stage_and_some_to_the_initial_model(tmp_path: Path) -> None:
    start, initial = (first_kl(tmp_path / name, reference) for name, reference in APART.items())
    assert start[0] == 0
    assert initial[0] > 1e-4
    assert (start[1]["policy"], initial[1]["policy"]) == ("start_of_stage", "initial")
    assert start[1]["sha256"] != initial[1]["sha256"]
    assert initial[1]["sha256"] == pipeline.Reference(tiny_policy().model, "initial").fingerprint()


def test_kl_may_be_taken_to_an_adapter_in_a_folder(tmp_path: Path) -> None:
    """That of a run of the supervised stage alone: after the same stage there is none to it."""
    run(tmp_path / "alone", sft(steps=4, optimizer={"lr": 1e-2}))
    _, start = first_kl(tmp_path / "own", "start_of_stage")
    kl, about = first_kl(tmp_path / "path", str(tmp_path / "alone" / "adapter"))
    assert kl == 0
    assert about["sha256"] == start["sha256"]


def test_a_reference_that_was_exchanged_does_not_go_on(tmp_path: Path) -> None:
    policy = tiny_policy()
    pipeline.save_adapter(policy.model, tmp_path / "other")
    stages = (sft(), rl(PENALISED, steps=4, reference=str(tmp_path / "other")))

    def look(row: Mapping[str, Any]) -> None:
        if row["step"] == 5:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(Interrupted):
        run(tmp_path / "run", *stages, observers=[Notes(look)])
    with torch.no_grad():
        policy.trainable_parameters()[0][0, 0] += 1e-4
    pipeline.save_adapter(policy.model, tmp_path / "other")
    with pytest.raises(UserError, match=r"stage rl began with the reference policy .*/other of hash \w{16}; what is"):
        run(tmp_path / "run", *stages, resume=True)


def test_another_frozen_model_is_no_initial_reference_to_go_on_with(tmp_path: Path) -> None:
    stages = (sft(), rl(PENALISED, steps=2, reference="initial"))

    def look(row: Mapping[str, Any]) -> None:
        if row["step"] == 4:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(Interrupted):
        run(tmp_path, *stages, observers=[Notes(look)])
    with pytest.raises(UserError, match="stage rl began with the reference policy initial of hash"):
        run(tmp_path, *stages, resume=True, policy=tiny_policy(seed=1))


def test_an_optimiser_is_carried_over_where_asked(tmp_path: Path) -> None:
    """Adam's first step goes its full rate wherever a gradient is; one with carried moments does not."""
    moved = {}
    for carry in (False, True):
        policy, seen = tiny_policy(), {}
        notes = Notes(lambda row, seen=seen, policy=policy: seen.update({row["step"]: adapter_state(policy.model)}))
        second = sft(name="more", steps=1, optimizer={"lr": 5e-3, "carry": carry})
        run(tmp_path / str(carry), sft(steps=3), second, policy=policy, observers=[notes])
        moved[carry] = torch.cat([(seen[4][name] - tensor).flatten() for name, tensor in seen[3].items()]).abs()
    assert (moved[False] > 4.9e-3).float().mean() > 0.9
    assert (moved[True] > 4.9e-3).float().mean() < 0.5


def test_what_was_read_of_a_checkpoint_is_not_held_while_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def look(row: Mapping[str, Any]) -> None:
        if row["step"] == 2:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(Interrupted):
        run(tmp_path, sft(steps=4), observers=[Notes(look)])
    held: list[checkpoint.Checkpoint] = []
    newest = checkpoint.newest
    monkeypatch.setattr(checkpoint, "newest", lambda folder: held.append(newest(folder)) or held[0])
    seen: list[tuple[int, int]] = []
    notes = Notes(lambda row: seen.append((len(held[0].tensors), len(held[0].optimizer))))
    assert run(tmp_path, sft(steps=4), resume=True, observers=[notes])["status"] == "finished"
    assert set(seen) == {(0, 0)}


def test_moments_are_kept_for_a_stage_that_carries_on_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With all weights they are twice the model; of four stages the second carries on with the first, over an eval."""
    kept: list[int] = []
    moments = Optimizer.moments
    monkeypatch.setattr(Optimizer, "moments", lambda self: kept.append(1) or moments(self))  # type: ignore[func-returns-value]
    carrying = sft(name="b", steps=1, optimizer={"carry": True})
    stages = (sft(name="a", steps=1), {"kind": "eval", "name": "e"}, carrying, sft(name="c", steps=1))
    run(tmp_path, *stages, rows=ROWS)
    assert len(kept) == 1


def test_stages_that_evaluate_stand_anywhere(tmp_path: Path) -> None:
    check = {"kind": "eval", "name": "held", "split": "validation", "size": 3, "max_new_tokens": 2}
    longer = {"kind": "eval", "name": "longer", "max_new_tokens": 9}
    stages = ({**check, "name": "before"}, sft(steps=1), check, rl(steps=1), longer)
    summary = run(tmp_path, *stages, rows=(TRAIN, VALIDATION, TEST), reward=half)
    found = [(r["label"], r["split"], r["step"], r["accuracy/n"]) for r in rows_of(tmp_path, "eval")]
    assert found == [
        ("base", "test", 0, 5), ("before", "validation", 0, 3), ("sft", "test", 1, 5), ("held", "validation", 1, 3),
        ("final", "test", 2, 5), ("longer", "test", 2, 5),
    ]  # fmt: skip
    lengths = {row["label"]: row["completion_length/mean"] for row in rows_of(tmp_path, "eval")}
    assert lengths["held"] <= 2 < lengths["final"] <= 6 < lengths["longer"] <= 9
    assert [(pair["from"], pair["to"]) for pair in summary["pairs"]] == [
        ("base", "sft"), ("base", "final"), ("sft", "final"),
    ]  # fmt: skip
    assert summary["gain"] == summary["pairs"][2]


def test_a_run_killed_while_it_evaluates_goes_on_from_the_stage_before(tmp_path: Path) -> None:
    stages = (sft(steps=2), {"kind": "eval", "name": "mid"}, rl(steps=2, optimizer={"lr": 1e-3, "carry": True}))
    how: dict[str, Any] = {"rows": ROWS, "reward": half}
    run(tmp_path / "whole", *stages, **how)

    def look(row: Mapping[str, Any]) -> None:
        if row.get("label") == "mid":
            raise KeyError("killed")

    with pytest.raises(KeyError):
        run(tmp_path / "run", *stages, **how, observers=[Notes(look)])
    run(tmp_path / "run", *stages, **how, resume=True)
    assert_same(tmp_path / "run", tmp_path / "whole")
