"""The wheel, installed somewhere else: it brings its recipes, and the command runs them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

from command import ENVIRONMENT
from tessera.recipe import read_recipe, shipped_recipes, shipped_sweeps

ROOT = Path(__file__).parents[1]
RECIPE = "nano/s_grpo_svamp_smollm2"


def run(*command: str | Path, cwd: Path) -> str:
    """What a command printed; it must succeed."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env={**environment, **ENVIRONMENT}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel built from the checkout, with the build backend that is installed here."""
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, ROOT, cwd=folder)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of a new environment that holds the wheel; its dependencies are this environment's.

    They come by a .pth file: the .pth file of an editable install, which would lead back to the checkout, is not
    read there.
    """
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder)
    binaries = folder / ("Scripts" if os.name == "nt" else "bin")
    run(sys.executable, "-m", "pip", "--python", binaries / "python", "install", "-q", "--no-deps", "--no-index",
        "--disable-pip-version-check", wheel, cwd=folder)  # fmt: skip
    (own,) = folder.rglob("site-packages")
    theirs = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    (own / "dependencies.pth").write_text("\n".join(theirs) + "\n")
    return binaries


@pytest.fixture
def empty(tmp_path: Path) -> Path:
    """The working directory: ten rows of SVAMP's form."""
    for split, numbers in (("train", range(6)), ("test", range(6, 10))):
        rows = [
            {"id": str(n), "question": f"Ann has {n} pens and buys one. How many?", "answer": n + 1} for n in numbers
        ]
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def test_the_wheel_holds_the_package_its_recipes_and_its_licence(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    modules = {path.relative_to(ROOT / "src").as_posix() for path in (ROOT / "src" / "tessera").rglob("*.py")}
    assert {name for name in names if name.endswith(".py")} == modules
    recipes = {f"tessera/_recipes/{name}.yaml" for name in (*shipped_recipes(), *shipped_sweeps())}
    assert {name for name in names if name.startswith("tessera/_recipes/")} == recipes
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_the_installed_package_is_not_the_checkout(installed: Path, empty: Path) -> None:
    code = (
        "import tessera, importlib.metadata as m; print(tessera.__file__, tessera.__version__, m.version('tessera-rl'))"
    )
    file, version, distributed = run(installed / "python", "-c", code, cwd=empty).split()
    assert Path(file).is_relative_to(installed.parent)
    assert version == distributed


def short_stages() -> list[str]:
    """Overrides that make every stage of the recipe one of a second."""
    short = {"sft": {"steps": 1, "batch_size": 2}, "rl": {"steps": 2, "group_size": 3, "max_new_tokens": 4}}
    stages = read_recipe(RECIPE).stages
    return [f"stages.{s.name}.{key}={value}" for s in stages for key, value in short[s.kind].items()]


def test_a_shipped_recipe_is_listed_checked_and_trained(installed: Path, empty: Path, tiny_folder: Path) -> None:
    listed = [line.split()[0] for line in run(installed / "tessera", "recipes", cwd=empty).splitlines()]
    assert listed == [*shipped_recipes(), *shipped_sweeps()]

    tiny = [f"model.name={tiny_folder}", "model.device=cpu", "task.train=train.jsonl", "task.test=test.jsonl"]
    overrides = [*tiny, "task.validation_size=2", "evaluation.max_new_tokens=4", *short_stages()]
    checked = run(installed / "tessera", "check", RECIPE, *overrides, cwd=empty)
    folder = re.search(r"^data_dir: (.*)$", checked, re.MULTILINE)
    assert folder and Path(folder[1]).is_relative_to(installed.parent)  # the recipe is the wheel's own
    assert Path(folder[1]).parts[-3:] == ("tessera", "_recipes", "nano")
    assert "stage s_grpo composes s_grpo:" in checked
    assert "4 train, 2 validation, 4 test problems" in checked

    run(installed / "tessera", "train", RECIPE, *overrides, cwd=empty)
    run_folder = empty / "runs" / "s_grpo_svamp_smollm2"
    summary = json.loads((run_folder / "summary.json").read_text())
    assert (summary["status"], summary["algorithm"], summary["accuracy"]["final"]["n"]) == ("finished", "s_grpo", 4)
    assert (run_folder / "adapter" / "adapter_model.safetensors").is_file()
    assert "<html" in (run_folder / "report.html").read_text()
