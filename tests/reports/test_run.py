from __future__ import annotations

import errno
import json
import math
from pathlib import Path

import pytest

from tessera.core.errors import RunStopped, UserError
from tessera.reports import files, folder, jsonl
from tessera.reports import run as module
from tessera.reports.run import ROWS, RunFolder

RECIPE = "run: {dir: runs/a}\nstages:\n- {kind: rl, steps: 40}\n"


def start(path: Path, force: bool = False) -> RunFolder:
    return RunFolder.create(path, RECIPE, "f1", force=force)


def test_a_new_run_holds_recipe_environment_and_fingerprint(tmp_path: Path) -> None:
    with start(tmp_path / "runs" / "a") as run:
        assert run.recipe_text() == RECIPE
        assert run.recipe() == {"run": {"dir": "runs/a"}, "stages": [{"kind": "rl", "steps": 40}]}
        assert run.environment()["fingerprint"] == "f1"
        assert run.environment()["cpu_count"] >= 1
        assert run.checkpoints == tmp_path / "runs/a/checkpoints"
        assert run.adapter == tmp_path / "runs/a/adapter"
        assert (run.metrics(), list(run.completions()), run.summary()) == ([], [], None)


def test_a_folder_that_holds_a_run_is_refused_and_left_alone(tmp_path: Path) -> None:
    with start(tmp_path) as run:
        run.log({"step": 1})
    with pytest.raises(UserError, match=r"already holds a run \(recipe.yaml\): use --resume, or give another run.dir"):
        RunFolder.create(tmp_path, "other: 1\n", "f2")
    assert RunFolder.open(tmp_path).recipe_text() == RECIPE
    with RunFolder.open(tmp_path) as again:  # the refusal gave its lock back
        assert again.metrics() == [{"step": 1}]


def test_force_deletes_the_run_and_nothing_else(tmp_path: Path) -> None:
    with start(tmp_path) as run:
        run.log({"step": 1})
        run.write_summary({"status": "finished"})
        (run.checkpoints / "step-000001").mkdir(parents=True)
    (tmp_path / "notes.txt").write_text("mine")
    with start(tmp_path, force=True) as run:
        assert (run.metrics(), run.summary()) == ([], None)
    left = sorted(p.name for p in tmp_path.iterdir())
    assert left == [".lock", "environment.json", "notes.txt", "recipe.yaml"]


def test_force_follows_no_link(tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared" / "weights").write_text("keep")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "adapter").symlink_to(tmp_path / "shared")
    start(tmp_path / "run", force=True).close()
    assert (tmp_path / "shared" / "weights").read_text() == "keep"
    assert not (tmp_path / "run" / "adapter").exists()


def test_a_run_that_could_not_be_written_can_be_created_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, data: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(RunStopped, match="No space left on device"):
        patch.setattr(folder, "atomic_write", refuse)
        start(tmp_path)
    start(tmp_path).close()


def test_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("")
    with pytest.raises(UserError, match=r"cannot write in run folder .*a: File exists"):
        start(tmp_path / "a")


def test_open_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no run folder at .*none: there is no such folder"):
        RunFolder.open(tmp_path / "none")
    with pytest.raises(UserError, match=r"is not a run folder: recipe.yaml and environment.json missing"):
        RunFolder.open(tmp_path)
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    with pytest.raises(UserError, match=r"is not a run folder: environment.json missing"):
        RunFolder.open(tmp_path)


def test_a_run_that_is_written_can_be_read_but_not_written_twice(tmp_path: Path) -> None:
    with start(tmp_path) as run:
        run.log({"step": 1})
        assert RunFolder.open(tmp_path).metrics() == [{"step": 1}]
        for second in (lambda: start(tmp_path), lambda: RunFolder.resume(tmp_path, RECIPE, "f1")):
            with pytest.raises(UserError, match="is in use by process"):
                second()
        with pytest.raises(UserError, match="is in use by process"), RunFolder.open(tmp_path):
            pass


def test_a_folder_open_for_reading_is_not_written(tmp_path: Path) -> None:
    start(tmp_path).close()
    run = RunFolder.open(tmp_path)
    for write in (
        lambda: run.log({"step": 1}),
        lambda: run.log_completions([{"step": 1}]),
        lambda: run.truncate_after(0),
        lambda: run.rollback({"metrics.jsonl": 0, "completions.jsonl": 0}),
        lambda: run.write_summary({}),
    ):
        with pytest.raises(UserError, match="open for reading"):
            write()
    with run:
        run.log({"step": 1})
    assert run.metrics() == [{"step": 1}]


def test_metrics_are_strict_json(tmp_path: Path) -> None:
    with start(tmp_path) as run:
        run.log({"step": 1, "loss": math.nan, "kl": math.inf})
        run.write_summary({"seconds": math.nan})
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 1, "loss": null, "kl": null}\n'
    assert json.loads((tmp_path / "summary.json").read_text()) == {"seconds": None} == run.summary()


def test_resume_needs_the_same_recipe(tmp_path: Path) -> None:
    start(tmp_path).close()
    given = RECIPE.replace("40", "80") + "seed: 2\na: 1\nb: 2\n"
    with pytest.raises(UserError) as caught:
        RunFolder.resume(tmp_path, given, "f2")
    line = str(caught.value)
    assert "stages.0.steps: 40 in the run, 80 given; seed: nothing in the run, 2 given; a: " in line
    assert "; and 1 more; " in line and "b: " not in line
    with pytest.raises(UserError, match="no key, but the data or the code it names"):
        RunFolder.resume(tmp_path, RECIPE, "f2")


def test_an_equal_fingerprint_is_the_same_recipe_whatever_its_text(tmp_path: Path) -> None:
    start(tmp_path).close()
    with RunFolder.resume(tmp_path, RECIPE.replace("runs/a", "elsewhere"), "f1") as run:
        assert run.recipe_text() == RECIPE


def test_resume_forgets_what_came_after_the_checkpoint(tmp_path: Path) -> None:
    with start(tmp_path) as run:
        for step in (0, 1, 2, 2, 3):
            run.log({"step": step})
        run.log_completions([{"step": 2, "text": "a"}, {"step": 3, "text": "b"}])
        run.write_summary({"status": "stopped: full disk"})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')
    assert [row["step"] for row in RunFolder.open(tmp_path).metrics()] == [0, 1, 2, 2, 3]
    with RunFolder.resume(tmp_path, RECIPE, "f1") as run:
        run.truncate_after(2)
        run.log({"step": 3, "again": True})
    assert run.metrics() == [{"step": 0}, {"step": 1}, {"step": 2}, {"step": 2}, {"step": 3, "again": True}]
    assert list(run.completions()) == [{"step": 2, "text": "a"}]
    assert run.summary() is None  # it was of the rows that are gone


def test_rollback_forgets_what_was_written_since(tmp_path: Path) -> None:
    with start(tmp_path) as run:
        assert run.position() == dict.fromkeys(ROWS, 0)
        run.log({"step": 2})  # 12 bytes with its newline
        position = run.position()
        assert position == {**dict.fromkeys(ROWS, 0), "metrics.jsonl": 12}
        run.log({"step": 2, "kind": "eval"})  # of the same step, yet after it
        run.log_completions([{"step": 3}])
        run.write_summary({"status": "stopped: full disk"})
        run.rollback(position)
        assert (run.metrics(), list(run.completions()), run.summary()) == ([{"step": 2}], [], None)


def test_rollback_never_makes_a_file_longer(tmp_path: Path) -> None:
    with start(tmp_path) as run:
        run.log({"step": 1})
        run.rollback({"metrics.jsonl": 500, "completions.jsonl": 500})
        run.log({"step": 2})
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 1}\n{"step": 2}\n'
    assert not (tmp_path / "completions.jsonl").exists()


def test_a_line_cut_by_a_crash_never_joins_the_next(tmp_path: Path) -> None:
    with start(tmp_path) as run:
        run.log({"step": 1})
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2, "x"')
    with RunFolder.resume(tmp_path, RECIPE, "f1") as run:
        run.log({"step": 2})
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 1}\n{"step": 2}\n'


def test_another_environment_on_resume_is_noted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "environment", lambda: {"torch": "2.4"})
    start(tmp_path).close()
    RunFolder.resume(tmp_path, RECIPE, "f1").close()
    assert RunFolder.open(tmp_path).environment() == {"torch": "2.4", "fingerprint": "f1"}
    monkeypatch.setattr(module, "environment", lambda: {"torch": "2.5"})
    for _ in range(2):
        RunFolder.resume(tmp_path, RECIPE, "f1").close()
    assert RunFolder.open(tmp_path).environment() == {
        "torch": "2.4",
        "fingerprint": "f1",
        "resumed": [{"torch": "2.5"}],
    }


def test_a_full_disk_is_one_line_and_the_rows_before_are_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def half(write, data: bytes) -> None:
        write(data[: len(data) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    with start(tmp_path) as run:
        run.log({"step": 1})
        monkeypatch.setattr(jsonl, "_write_all", half)
        with pytest.raises(RunStopped, match=r"could not write .*metrics.jsonl: No space left on device; "):
            run.log({"step": 2})
        with pytest.raises(RunStopped, match=r"completions.jsonl: No space"):
            run.log_completions([{"step": 2}])
        monkeypatch.setattr(files.os, "fsync", lambda handle: half(lambda data: None, b""))
        with pytest.raises(RunStopped, match=r"summary.json: No space"):
            run.write_summary({})
        with pytest.raises(RunStopped, match=r"metrics.jsonl: No space"):
            run.truncate_after(0)
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 1}\n'
    assert not list(tmp_path.glob("*.tmp")) and not list(tmp_path.glob(".*.tmp"))


def test_damage_names_the_file(tmp_path: Path) -> None:
    start(tmp_path).close()
    (tmp_path / "summary.json").write_text("{")
    (tmp_path / "recipe.yaml").write_text("a: [")
    run = RunFolder.open(tmp_path)
    with pytest.raises(UserError, match=r"summary.json cannot be read as JSON: Expecting"):
        run.summary()
    with pytest.raises(UserError, match=r"recipe.yaml is not a YAML mapping") as caught:
        run.recipe()
    assert "\n" not in str(caught.value)


def test_the_report_lands_in_the_folder_without_the_lock(make_run) -> None:
    run = make_run()
    assert run.write_report() == run.path / "report.html"
    assert "<h1>demo</h1>" in (run.path / "report.html").read_text()


def test_ids_of_trackers_are_kept_and_go_with_the_run(tmp_path: Path) -> None:
    with start(tmp_path) as run:
        assert run.trackers() == {}
        run.note_trackers({"mlflow": "a1"})
        (tmp_path / "tensorboard").mkdir()
    with pytest.raises(UserError, match="open for reading"):
        RunFolder.open(tmp_path).note_trackers({})
    with RunFolder.resume(tmp_path, RECIPE, "f1") as run:
        assert run.trackers() == {"mlflow": "a1"}
    with start(tmp_path, force=True) as run:
        assert (run.trackers(), (tmp_path / "tensorboard").exists()) == ({}, False)
