"""Evaluations as a user runs them: kept, killed, gone on with, and counted again."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from command import spawn, tessera, write_recipe
from tessera.comparison import compare
from tessera.core.errors import UserError
from tessera.evaluation.scores import score
from tessera.evaluations import Evaluated, Wanted, run_evaluation
from tessera.policy import load
from tiny import save_tiny

TASK = ("task.name=arithmetic", "task.digits=2", "task.train_size=1", "task.test_size=40", "task.validation_size=0")


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def evaluated(model: Path, *overrides: str, told: list[Any] | None = None, **more: Any) -> Evaluated:
    given = {"max_new_tokens": 4, "out": Path("e"), "at_once": 16, **more}
    said = [] if told is None else told
    return run_evaluation(Wanted(str(model), (*TASK, *overrides), **given), lambda *line: said.append(line))


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "completions.jsonl").read_text().splitlines()]


def test_killed_and_started_again_it_asks_no_question_twice(tiny_folder: Path) -> None:
    """The same rows and numbers as an evaluation that nobody stopped."""
    whole = evaluated(tiny_folder, out=Path("whole"), samples=4, temperature=1.0, max_new_tokens=300)
    command = ("eval", tiny_folder, *TASK, "--samples", "4", "--temperature", "1", "--max-new-tokens", "300")
    process = spawn(*command, "--at-once", "4", "--out", "killed")
    kept = Path("killed/completions.jsonl")
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (kept.exists() and kept.stat().st_size):
        time.sleep(0.01)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    process.communicate()
    with kept.open("a") as file:
        file.write('{"part": "arithmetic", "torn')
    before = [line for line in kept.read_text().splitlines() if line.endswith("}")]
    assert 0 < len(before) < 160
    with pytest.raises(UserError, match="not finished"):
        compare(Path("killed"), Path("whole"))
    process = spawn(*command, "--at-once", "16", "--out", "killed")
    _, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (0, "")
    assert kept.read_text().splitlines()[: len(before)] == before
    rows = rows_of(Path("killed"))
    assert len({(row["problem_id"], row["sample"]) for row in rows}) == len(rows) == 160
    assert rows == whole.rows
    result = json.loads(Path("killed/result.json").read_text())
    assert {**result, "environment": None} == {**whole.result, "environment": None}


def test_half_a_question_is_asked_again(tiny_folder: Path) -> None:
    whole = evaluated(tiny_folder, samples=2, temperature=1.0)
    lines = (whole.folder / "completions.jsonl").read_text().splitlines(keepends=True)
    (whole.folder / "completions.jsonl").write_text("".join(lines[:5]))  # two questions, and half of the third
    (whole.folder / "result.json").unlink()
    told: list[Any] = []
    again = evaluated(tiny_folder, samples=2, temperature=1.0, told=told)
    assert again.rows == whole.rows
    assert [asked for _, asked, _, _ in told] == [10, 18, 26, 34, 40]  # two were there; eight a time


def test_the_numbers_are_a_recount_of_what_was_kept(tiny_folder: Path) -> None:
    found = evaluated(tiny_folder, samples=4, temperature=1.0)
    rows = rows_of(found.folder)
    (part,) = json.loads((found.folder / "result.json").read_text())["parts"]
    assert part == {**part, **json.loads(json.dumps(score(rows, 4)))}
    assert list(part["metrics"]) == ["avg@4", "pass@2", "pass@4", "maj@4"]
    assert part["value"] == sum(row["solved"] for row in rows) / 160
    assert f"| arithmetic | avg@4 | {part['value']:.1%} |" in (found.folder / "report.md").read_text()


def test_a_finished_evaluation_loads_no_model(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = evaluated(tiny_folder)

    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("weights are loaded")

    monkeypatch.setattr(load, "load_base", refuse)
    assert evaluated(tiny_folder).rows == found.rows


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"max_new_tokens": 5}, "parts.0.max_new_tokens: 4 in the folder, 5 given"),
        ({"samples": 2, "temperature": 0.5}, "parts.0.samples: 1 in the folder, 2 given"),
        ({"first": 3}, "parts.0.first: None in the folder, 3 given"),
    ],
)
def test_a_changed_setting_is_refused_and_nothing_is_lost(
    tiny_folder: Path, changes: dict[str, Any], line: str
) -> None:
    rows = evaluated(tiny_folder).rows
    with pytest.raises(UserError, match=line):
        evaluated(tiny_folder, **changes)
    assert rows_of(Path("e")) == rows
    assert len(evaluated(tiny_folder, first=3, force=True).rows) == 3


def test_other_questions_or_weights_are_a_changed_setting(tiny_folder: Path, tmp_path: Path) -> None:
    model = save_tiny(tmp_path / "model")
    evaluated(model)
    with pytest.raises(UserError, match=r"parts\.0\.data"):
        evaluated(model, "task.seed=1")
    save_tiny(model, seed=1)
    with pytest.raises(UserError, match="weights: "):
        evaluated(model)


def test_a_run_is_evaluated_with_its_adapter_and_a_recipe_without(tiny_folder: Path) -> None:
    """A high learning rate moves the adapter far enough to change what is answered."""
    warm = {"kind": "sft", "steps": 5, "batch_size": 4, "optimizer": {"lr": 0.1}}
    recipe = write_recipe(Path("far.yaml"), tiny_folder, stages=[warm])
    assert tessera("train", recipe).code == 0
    before, after = (run_evaluation(Wanted(source), lambda *line: None) for source in ("far.yaml", "runs/far"))
    assert (before.folder, after.folder) == (Path("runs/evaluations/far-base-arithmetic"),
                                             Path("runs/evaluations/far-arithmetic"))  # fmt: skip
    assert [row["problem_id"] for row in before.rows] == [row["problem_id"] for row in after.rows]
    assert [row["text"] for row in before.rows] != [row["text"] for row in after.rows]
    metrics = [json.loads(line) for line in Path("runs/far/metrics.jsonl").read_text().splitlines()]
    final = next(row for row in metrics if row.get("label") == "final")
    assert after.result["parts"][0]["value"] == final["accuracy/value"]  # what the run itself measured
