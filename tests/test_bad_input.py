"""What a user gets wrong: one line on stderr, exit code 2, and no file has changed."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from command import COUNTING, files, rl_stage, tessera, write_recipe

HOLD = """
import sys
from pathlib import Path
from tessera.reports.lock import FolderLock
lock = FolderLock(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def project(tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory: recipe.yaml, counting.py, and rows.jsonl with other.jsonl, ten sums in all."""
    monkeypatch.chdir(tmp_path)
    stages = [{"kind": "sft", "name": "warm", "steps": 1}, rl_stage(steps=1)]
    write_recipe(tmp_path / "recipe.yaml", tiny_folder, stages=stages)
    (tmp_path / "counting.py").write_text(COUNTING)
    rows = [json.dumps({"prompt": f"{n} + 1 =", "answer": n + 1}) for n in range(10)]
    (tmp_path / "rows.jsonl").write_text("\n".join(rows[:6]))
    (tmp_path / "other.jsonl").write_text("\n".join(rows[6:]))
    return tmp_path


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> Path:
    """A folder with recipe.yaml and its finished run in runs/recipe; tests copy it."""
    folder = tmp_path_factory.mktemp("finished")
    write_recipe(folder / "recipe.yaml", tiny_folder, stages=[rl_stage(steps=1)])
    done = tessera("train", folder / "recipe.yaml", f"run.dir={folder / 'runs' / 'recipe'}")
    assert done.code == 0, done.err
    return folder


@pytest.fixture
def with_run(tmp_path: Path, finished: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory: recipe.yaml, and its finished run in runs/recipe."""
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(project: Path, *arguments: str) -> str:
    """The one line that the command is refused with."""
    before = files(project)
    outcome = tessera(*arguments)
    assert outcome.code == 2, outcome
    assert outcome.out == ""
    assert outcome.err.startswith("error: ") and outcome.err.endswith("\n")
    assert outcome.err.count("\n") == 1, outcome.err
    assert files(project) == before
    return outcome.err.removeprefix("error: ").rstrip("\n")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["train"], "give a recipe: a file, or a name that `tessera recipes` lists"),
        (["trian", "recipe.yaml"], "No such command 'trian'. Did you mean 'train'?"),
        (["train", "recipe.yaml", "--forse"], "No such option: --forse"),
        (["check"], "Missing argument"),
        (["train", "recipes/gropo_svamp_qwen2-1.5b"], "(did you mean 'grpo_svamp_qwen2-1.5b'?)"),
        (["eval", "reciep.yaml"], "unknown recipe 'reciep.yaml'"),
        (["train", "--resume", "runs/none"], "--resume runs/none: there is no run in this folder"),
        (["train", "recipe.yaml", "--force", "--resume", "runs/x"], "give one of them"),
        (["report", "runs/none"], "no run folder at runs/none: there is no such folder"),
        (["report", "."], ". is not a run folder: environment.json missing"),
        (["eval", "recipe.yaml", "--split", "tset"], "unknown split 'tset' (did you mean 'test'?)"),
        (["eval", "recipe.yaml", "--out", "recipe.yaml"], "recipe.yaml is a file: an evaluation is kept in a folder"),
        (["eval", "recipe.yaml", "--suite", "aritmetic"], "unknown suite 'aritmetic' (did you mean 'arithmetic'?)"),
        (["eval", "recipe.yaml", "--suite", "arithmetic"], "no folder data: the files of suite arithmetic are looked"),
        (
            ["eval", "recipe.yaml", "task.digits=2", "--suite", "arithmetic"],
            "task.digits=2 is about a task of your own",
        ),
        (["eval", "recipe.yaml", "--samples", "0"], "samples = 0: Input should be greater than 0"),
        (["eval", "recipe.yaml", "--samples", "2"], "2 samples at temperature 0 are the same answer"),
        (["eval", "smollm2-135m-instruct"], "name what to ask: --suite NAME, or task.name=NAME"),
        (["eval", "smollm2-135m-instruct", "stages.rl.steps=1"], "unknown option of the evaluation of smollm2-135m"),
        (["eval", "./no-model", "task.name=arithmetic"], "model './no-model': no such folder or GGUF file"),
        (
            ["compare", "recipe.yaml", "data"],
            "recipe.yaml is neither a run folder, nor the folder of a sweep",
        ),
        (["tasks", "svmap"], "unknown task 'svmap' (did you mean 'svamp'?)"),
        (["tasks", "svamp", "train=x"], "options (train=x) go with --validate"),
        (["tasks", "svamp", "--validate", "--data", "x"], "--data goes with --validate and without a task's name"),
        (["tasks", "--validate", "--data", "none"], "none holds no NAME/*.jsonl"),
        (["tasks", "jsonl", "reward=exact_match", "--validate"], "task jsonl needs the option 'train'"),
    ],
)
def test_wrong_arguments(project: Path, arguments: list[str], line: str) -> None:
    assert line in refused(project, *arguments)


@pytest.mark.parametrize(
    ("override", "line"),
    [
        # Keys, at every depth, by the nearest name; a stage is numbered, and shows nothing that nobody wrote.
        ("sed=1", "unknown option of recipe recipe.yaml 'sed' (did you mean 'seed'?)"),
        ("run.dirr=x", "unknown option of recipe recipe.yaml 'run.dirr' (did you mean 'dir'?)"),
        ("model.lora.rnk=4", "unknown option of recipe recipe.yaml 'model.lora.rnk' (did you mean 'rank'?)"),
        ("stages.warm.bacth_size=2", "'stages.0.bacth_size' (did you mean 'batch_size'?)"),
        ("stages.1.stps=2", "unknown option of recipe recipe.yaml 'stages.1.stps' (did you mean 'steps'?)"),
        ("stages.rl.optimizer.lrr=1", "'stages.1.optimizer.lrr' (did you mean 'lr'?)"),
        ("stages.rl.plateau.windw=3", "'stages.1.plateau.windw' (did you mean 'window'?)"),
        ("stages.rl.replay.sucesses=3", "'stages.1.replay.sucesses' (did you mean 'successes'?)"),
        ("stages.rl.algorithm.bta=0.1", "unknown key of algorithm grpo 'bta' (did you mean 'beta'?)"),
        ("task.digts=2", "unknown option of task arithmetic 'digts' (did you mean 'digits'?)"),
        ("stages.wram.steps=2", "unknown stage in override stages.wram.steps 'wram' (did you mean 'warm'?)"),
        ("stages.7.steps=2", "unknown stage in override stages.7.steps '7'"),
        ("model.name.x=1", "override model.name.x: name is '"),
        # Names.
        ("stages.rl.algorithm=gropo", "unknown algorithm 'gropo' (did you mean 'grpo'?)"),
        ("stages.rl.algorithm.weight=unifrm", "unknown weight 'unifrm' (did you mean 'uniform'?)"),
        ("task.name=arithmetc", "unknown task 'arithmetc' (did you mean 'arithmetic'?)"),
        ("model.name=smollm2-135m-instrct", "(did you mean the embedded 'smollm2-135m-instruct'?)"),
        ("model.name=./nowhere", "model './nowhere': no such folder or GGUF file"),
        ("stages.rl.kind=sftt", "unknown kind of stages.1 'sftt' (did you mean 'sft'?)"),
        ("task=counting.py:Conting", "unknown class in counting.py: 'Conting' (did you mean 'Counting'?)"),
        ("task=cuonting.py:Counting", "no such file: 'cuonting.py'"),
        # Values.
        ("seed", "override 'seed' must be key=value, such as task.digits=2"),
        ("seed=[1", "override seed: '[1' is not YAML: expected ',' or ']'"),
        ("model={name: a, name: b}", "is not YAML: key 'name' stands twice (line 1, column 1)"),
        ("seed=1.5", "recipe recipe.yaml: seed = 1.5: Input should be a valid integer"),
        ("model=x", "recipe recipe.yaml: model = 'x': Input should be a mapping of keys"),
        ("stages=3", "recipe recipe.yaml: stages = 3: Input should be a list"),
        ("stages=[]", "stages = []: Input should have more entries"),
        ("stages=[{steps: 3}]", "stages.0 needs the key 'kind': sft, rl, eval"),
        ("stages=[{kind: rl, steps: 3}]", "recipe recipe.yaml needs the option 'stages.0.algorithm'"),
        ("stages.rl.steps=ten", "stages.1.steps = 'ten': Input should be a valid integer"),
        (
            "stages.rl.score_temperature=x",
            "stages.1.score_temperature = 'x': Input should be 'sampling' or a valid number",
        ),
        ("stages.rl.optimizer.lr=.inf", "stages.1.optimizer.lr = inf: Input should be a finite number"),
        ("stages.rl.name=warm", "stages need different names, got ['warm', 'warm']"),
        ("stages.rl.keep_best=true", "stage rl: keep_best needs evaluate_every"),
        ("stages.rl.keep_best=true & stages.rl.evaluate_every=999", "keep_best needs evaluate_every, of at most its"),
        ("stages.rl.algorithm={name: grpo} & stages.rl.reference=initial", "names a reference, and grpo compares with"),
        (
            "stages.rl.algorithm={name: grpo} & stages.rl.refresh_reference=2",
            "leave out reference and refresh_reference",
        ),
        ("task.operation=division", "operation = 'division': Input should be 'addition'"),
        ("task.train_size=100", "110 problems are asked for, and 36 exist with digits = 1"),
        ("task.prompt.template=What?", "it must hold {question} exactly once, and holds it 0 times"),
        ("data_dir=nowhere", "no such file: 'nowhere' (looked in"),
        ("run.dir=rows.jsonl/run", "cannot write in run folder rows.jsonl/run: Not a directory"),
        # What does not go together.
        ("stages.rl.group_size=1", "'group_normalized' compares the completions of a group: it needs group size >= 2"),
        ("stages.rl.max_new_tokens=600", "new tokens exceed the model's 512; lower max_new_tokens or drop the problem"),
        ("evaluation.max_new_tokens=510", "new tokens exceed the model's 512"),
        (
            "model.lora.targets=[q_prj]",
            "LoRA targets ['q_prj'] match no linear module of the adapted layers; there are:",
        ),
        ("model.lora=null", "model.lora is null: training needs an adapter"),
        ("task.validation_size=0 & stages.rl.evaluate_every=1", "and task arithmetic has no such split"),
        ("stages.warm.data=none.jsonl", "no such file: 'none.jsonl'"),
        ("stages.warm.data=rows.jsonl", "rows.jsonl, line 1 has no column 'completion'"),
        ("chat_template_kwargs.thinking=false", "chat_template_kwargs ['thinking'] given, but problem"),
        (
            "task.prompt.style=chat & chat_template_kwargs.thinkin=0",
            "the chat template reads no variable 'thinkin' (did you mean 'thinking'?)",
        ),
    ],
)
def test_wrong_recipes(project: Path, override: str, line: str) -> None:
    assert line in refused(project, "train", "recipe.yaml", *override.split(" & "))


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", "recipe bad.yaml must be a mapping of keys, got NoneType"),
        ("- a\n- b\n", "recipe bad.yaml must be a mapping of keys, got list"),
        ("seed: 1\nmodel: {name: x\n", "recipe bad.yaml is not YAML: "),
        ("seed: 1\nstages: []\nseed: 2\n", "recipe bad.yaml is not YAML: key 'seed' stands twice (line 1, column 1)"),
        ("seed: 1\n", "recipe bad.yaml needs the option 'task'"),
        ("sed: 1\n", "unknown option of recipe bad.yaml 'sed' (did you mean 'seed'?)"),
        ("caf\xe9: 1\n", "recipe bad.yaml cannot be read: 'utf-8' codec can't decode"),
    ],
)
def test_a_recipe_file_that_is_none(project: Path, text: str, line: str) -> None:
    (project / "bad.yaml").write_text(text, encoding="latin-1")
    assert line in refused(project, "train", "bad.yaml")


GOOD = '{"prompt": "1 + 1 =", "answer": 2}\n'


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (None, "no such file: 'bad.jsonl'"),
        ("", "bad.jsonl is empty; it must hold one JSON object a line"),
        (GOOD + "{'prompt': 1}\n", "bad.jsonl, line 2 is not JSON: "),
        (GOOD + "\n" + GOOD + "[1]\n", "bad.jsonl, line 4 is a JSON list; each line must be an object"),
        ('{"prompt": "1"}\n', "bad.jsonl, line 1 has no column 'answer'; its columns are 'prompt'"),
        (GOOD + '{"prompt": "x", "answer": "two"}\n', "reward last_integer cannot grade the answer 'two'"),
        ('{"prompt": "' + "9" * 600 + '", "answer": 2}\n', "exceed the model's 512"),
    ],
)
def test_bad_data(project: Path, content: str | None, line: str) -> None:
    if content is not None:
        (project / "bad.jsonl").write_text(content)
    task = "task={name: jsonl, reward: last_integer, train: bad.jsonl}"
    assert line in refused(project, "train", "recipe.yaml", task, "stages.warm.steps=1")


def test_train_and_test_that_share_a_question(project: Path) -> None:
    task = "task={name: jsonl, reward: last_integer, train: rows.jsonl, test: rows.jsonl}"
    line = refused(project, "train", "recipe.yaml", task)
    assert "train and test share 6 problems, such as 'train-0' and 'test-0': '0 + 1 ='" in line


def test_an_option_that_a_users_task_does_not_take(project: Path) -> None:
    line = refused(project, "train", "recipe.yaml", "task={name: counting.py:Counting, fail: 1}")
    assert line == "unknown option of task counting.py:Counting 'fail' (did you mean 'fails'?)"


def test_a_folder_that_holds_a_run(with_run: Path) -> None:
    line = refused(with_run, "train", "recipe.yaml")
    assert line == "runs/recipe already holds a run: go on with --resume runs/recipe, or give another run.dir"
    assert "is the folder of a run, not a recipe: go on with --resume runs/recipe" in refused(
        with_run, "train", "runs/recipe"
    )


def test_force_deletes_nothing_for_a_recipe_that_cannot_run(with_run: Path) -> None:
    line = refused(with_run, "train", "recipe.yaml", "--force", "model.lora.targets=[q_prj]")
    assert "LoRA targets ['q_prj'] match no linear module" in line


def test_resuming_another_recipe_names_what_differs(with_run: Path) -> None:
    line = refused(with_run, "train", "--resume", "runs/recipe", "stages.rl.steps=9", "seed=5")
    assert "cannot resume runs/recipe with another recipe: seed: 1 in the run, 5 given; " in line
    assert "stages.0.steps: 1 in the run, 9 given; " in line


def test_what_is_wrong_with_a_folder_is_said_before_a_model_is_loaded(with_run: Path) -> None:
    model = "model.name=./nowhere"
    assert "already holds a run" in refused(with_run, "train", "recipe.yaml", model)
    assert "model.name: '" in refused(with_run, "train", "--resume", "runs/recipe", model)


def test_resuming_with_other_data_says_so(with_run: Path, tiny_folder: Path) -> None:
    write_recipe(with_run / "rows.yaml", tiny_folder, stages=[rl_stage(steps=1)],
                 task={"name": "jsonl", "reward": "last_integer", "train": "rows.jsonl"})  # fmt: skip
    (with_run / "rows.jsonl").write_text(GOOD)
    assert tessera("train", "rows.yaml").code == 0
    (with_run / "rows.jsonl").write_text(GOOD.replace("2}", "3}"))
    line = refused(with_run, "train", "--resume", "runs/rows")
    assert "with another recipe: no key, but the data or the code it names" in line


def test_a_run_in_use_by_another_process(with_run: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, "runs/recipe"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        for arguments in (["--resume", "runs/recipe"], ["recipe.yaml", "--force"]):
            line = refused(with_run, "train", *arguments)
            assert line == f"run folder runs/recipe is in use by process {holder.pid}"
    finally:
        holder.communicate()
    assert tessera("train", "--resume", "runs/recipe").code == 0


def test_an_unfinished_run_has_nothing_to_evaluate(with_run: Path) -> None:
    shutil.rmtree(with_run / "runs" / "recipe" / "adapter")
    assert "runs/recipe has no final adapter yet: the run is not finished" in refused(with_run, "eval", "runs/recipe")


def test_a_split_without_problems(project: Path) -> None:
    line = refused(project, "eval", "recipe.yaml", "task.validation_size=0", "--split", "validation")
    assert line == "task arithmetic has no validation problems"
