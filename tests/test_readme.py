"""The README's example runs as it stands, with a tiny model in place of the real one; its commands exist."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from command import tessera
from pages import pages
from tessera.recipe import read_recipe
from tiny import save_tiny

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
MODEL = '"smollm2-135m-instruct"'


def block(page: str, language: str) -> str:
    found = re.search(rf"```{language}\n(.*?)```", page, re.DOTALL)
    assert found is not None
    return found[1]


def test_the_example_runs(tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    code = block(README, "python")
    assert code.count(MODEL) == 1 and code.count("steps=20") == 1
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(code.replace(MODEL, repr(str(tiny_folder))).replace("steps=20", "steps=2"), names)
    summary = names["summary"]
    assert (summary["status"], summary["steps"], summary["algorithm"]) == ("finished", 2, "s_grpo")
    assert (summary["accuracy"]["base"]["n"], summary["gain"]["from"]) == (100, "base")
    assert "'base': {'value':" in capsys.readouterr().out
    assert (tmp_path / "runs" / "sequences" / "report.html").is_file()
    reward, problem = names["reward"], type("P", (), {"answer": 42})()
    assert [reward(problem, text) for text in (" 42", "42, 43", " 42 ,", "It is 42", "420", "")] == [1, 1, 1, 0, 0, 0]


def test_the_commands_exist_and_name_a_recipe_with_its_stage() -> None:
    commands = [line.split()[1:] for line in README.splitlines() if line.startswith("    tessera ")]
    names = {"chat", "check", "compare", "eval", "export", "merge", "recipes", "report", "train", "view"}
    assert {words[0] for words in commands} == names
    for words in commands:
        assert tessera(words[0], "--help").code == 0
    (trained,) = [words for words in commands if words[0] == "train" and words[1] != "--resume"]
    assert read_recipe(trained[1], trained[2:]) != read_recipe(trained[1])


def test_ci_runs_the_test_command() -> None:
    command = re.search(r"## Test it\n\n    (.*)\n", README)
    assert command is not None and command[1] == "make test"
    assert (ROOT / ".ci" / "run").read_text().rstrip().endswith(f"exec {command[1]}")


def slug(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("page", sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]), ids=lambda p: p.name)
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#]*)(#[^)]*)?\)", text):
        linked = page.parent / target if target else page
        assert linked.exists(), target
        headings = re.findall(r"^#+ (.*)$", linked.read_text(encoding="utf-8"), re.MULTILINE) if anchor else ()
        assert not anchor or anchor[1:] in {slug(heading) for heading in headings}


@pytest.mark.parametrize("page", pages(), ids=lambda p: p.name)
def test_tables_are_whole(page: Path) -> None:
    """A row stands under a head with its line, and all have as many cells."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for table in re.findall(r"(?:^\|.*\n?)+", text, re.MULTILINE):
        rows = table.splitlines()
        assert len(rows) > 1 and re.fullmatch(r"[|:\- ]+", rows[1]), table
        assert len({row.replace("\\|", "").count("|") for row in rows}) == 1, table


def test_the_task_of_the_contributing_page_is_sound(tmp_path: Path) -> None:
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    (tmp_path / "own.py").write_text(block(page.partition("## A task")[2], "python"))
    outcome = tessera("tasks", f"{tmp_path / 'own.py'}:Reversal", "--validate")
    assert outcome.code == 0, outcome.out
    (tmp_path / "recipe.yaml").write_text(
        f"model: {{name: {save_tiny(tmp_path / 'model')}, device: cpu}}\ntask: {{name: own.py:Reversal, length: 3}}\n"
        "stages: [{kind: rl, algorithm: grpo, steps: 1, group_size: 2, max_new_tokens: 3}]\n"
        f"run: {{dir: {tmp_path / 'run'}}}\n"
    )
    assert tessera("train", tmp_path / "recipe.yaml").code == 0


def test_the_piece_and_the_algorithm_of_the_contributing_page_work(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from tessera.algorithms import registry as algorithms
    from tessera.algorithms import score_group
    from tessera.pieces import registry as pieces

    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    monkeypatch.setitem(pieces._PIECES, "weight", {**pieces._PIECES["weight"]})
    monkeypatch.setattr(algorithms, "_ALGORITHMS", {**algorithms._ALGORITHMS})
    imports = (
        "from typing import Annotated\nimport torch\nfrom torch import Tensor\nfrom pydantic import Field\n"
        "from tessera.core.batch import Scored\nfrom tessera.pieces import make\n"
        "from tessera.pieces.registry import piece\nfrom tessera.algorithms.base import Algorithm\n"
        "from tessera.algorithms.registry import Config, build, register\n"
    )
    names: dict[str, Any] = {}
    exec(imports + block(page.partition("## A piece")[2], "python"), names)
    exec(imports + block(page.partition("## An algorithm")[2], "python"), names)
    tokens = torch.tensor([[1, 2, 3], [1, 2, 4]])
    loss = score_group("early", rewards=torch.tensor([0.0, 1.0]), tokens=tokens, logp=torch.full((2, 3), -1.0),
                       lengths=torch.tensor([3, 3]), config={"halving": 1})  # fmt: skip
    assert loss.weight.tolist() == [[1, 0.5, 0.25]] * 2
