"""The documentation says what is there: every key with its default, every file, every command."""

from __future__ import annotations

import re
import runpy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from tessera.algorithms import build, registered
from tessera.core.errors import UserError
from tessera.environments import settings as environment
from tessera.environments.mcp_tool import McpSettings
from tessera.pieces import CORRECTION, KINDS, make, names
from tessera.policy.adapters import LoraSettings
from tessera.policy.load import ModelConfig
from tessera.recipe import Published, Recipe, check_recipe
from tessera.rollout import engines
from tessera.tasks.mixture import Part
from tessera.tasks.prompts import PromptFormat
from tessera.tasks.registry import TASKS
from tessera.tasks.sources import Source
from tessera.tracking.settings import MLflowSettings, TensorBoardSettings, TrackioSettings, WandbSettings
from tessera.training import settings

ROOT = Path(__file__).parents[1]
RECIPES = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
TRACKERS = (TensorBoardSettings(), WandbSettings(), TrackioSettings(), MLflowSettings())
COMMON = {"optimizer", "compute"}


def tables(text: str) -> dict[str, dict[str, str]]:
    """By heading, the key tables of a page: the default of each key, as written."""
    found = {}
    for section in re.split(r"^#+ ", text, flags=re.MULTILINE)[1:]:
        rows = re.findall(r"^\| `(\w+)` \| (.+?) \| ", section, re.MULTILINE)
        if "| key | default |" in section:
            assert len(dict(rows)) == len(rows)
            found[section.partition("\n")[0].replace("`", "")] = dict(rows)
    return found


def defaults(model: type[BaseModel], of: set[str] | None = None, but: frozenset[str] | set[str] = frozenset()) -> Any:
    """What the table of `model` has to say."""
    fields = {field.alias or name: field for name, field in model.model_fields.items()}
    return {key: shown(f.get_default(call_default_factory=True)) for key, f in fields.items()
            if key not in but and (of is None or key in of)}  # fmt: skip


def shown(default: Any) -> Any:
    if default is PydanticUndefined:
        return "required"
    if isinstance(default, BaseModel):
        return "below"
    return list(default) if isinstance(default, tuple) else default


def read(cell: str) -> Any:
    """The default that a cell of a table gives."""
    written = re.fullmatch(r"`(.*)`", cell)
    if written is None:
        return cell
    value = yaml.safe_load(written[1])
    return float(value) if isinstance(value, str) and re.fullmatch(r"\d+e-\d+", value) else value


SECTIONS: Mapping[str, Any] = {
    "The file": defaults(Recipe),
    "model": defaults(ModelConfig),
    "model.lora": defaults(LoraSettings),
    "task.source": defaults(Source),
    "task.parts": defaults(Part),
    "task.prompt": defaults(PromptFormat),
    "stages": defaults(settings.RLStage, of=COMMON),
    "stages: sft": defaults(settings.SFTStage, but=COMMON),
    "stages: eval": defaults(settings.EvalStage),
    "stages.harvest": defaults(settings.HarvestSettings),
    "stages: rl": defaults(settings.RLStage, but=COMMON),
    "stages.compute": defaults(settings.ComputeSettings),
    "stages.optimizer": defaults(settings.OptimizerSettings),
    "stages.replay": defaults(settings.ReplaySettings),
    "stages.rollouts": defaults(settings.RolloutSettings),
    "stages.plateau": defaults(settings.PlateauSettings),
    "stages.rollouts.curriculum": defaults(settings.CurriculumSettings),
    "stages.sentinels": defaults(settings.SentinelSettings),
    "environment": defaults(environment.EnvironmentSettings),
    "environment.tools": defaults(environment.ToolSettings),
    "environment.tools.search": defaults(environment.SearchSettings),
    "environment.tools.python": defaults(environment.PythonSettings),
    "environment.tools.sql": defaults(environment.SqlSettings),
    "environment.tools.mcp": defaults(McpSettings),
    "evaluation": defaults(settings.EvaluationSettings),
    "engine: in_process": defaults(engines.InProcess),
    "engine: vllm_server": defaults(engines.VLLMServerSettings),
    "engine: vllm": defaults(engines.VLLMSettings),
    "report": defaults(settings.ReportSettings),
    "run": defaults(settings.RunSettings),
    "published": defaults(Published),
    **{f"tracking: {tracker.kind}": defaults(type(tracker), but={"kind"}) for tracker in TRACKERS},
    **{f"task: {name}": defaults(task) for name, task in TASKS.items()},
    **{f"algorithm: {name}": defaults(entry.config) for name, entry in registered().items()},
}


@pytest.mark.parametrize("section", SECTIONS)
def test_every_key_stands_in_the_page_of_recipes_with_its_default(section: str) -> None:
    table = tables(RECIPES)[section]
    assert {key: read(cell) for key, cell in table.items()} == SECTIONS[section]


def test_the_page_of_recipes_has_no_other_tables() -> None:
    assert set(tables(RECIPES)) == set(SECTIONS)


@pytest.mark.parametrize("kind", [*KINDS, CORRECTION])
def test_every_piece_stands_in_the_page_of_recipes(kind: str) -> None:
    pieces = RECIPES.partition("### Pieces")[2]
    row = re.search(rf"^\| `{kind}` \| (.*) \|$", pieces, re.MULTILINE)
    assert row is not None
    listed = {name: entry for entry in re.findall(r"`(.*?)`", row[1]) if (name := entry.partition("(")[0])}
    assert set(listed) == set(names(kind))
    for name, entry in listed.items():
        try:
            assert entry == str(make(kind, name))
        except UserError as error:  # it has an option without default
            option = re.search(r"needs the key '(\w+)'", str(error))
            assert option and entry == f"{name}({option[1]})"


def test_the_example_of_the_page_of_recipes_is_one() -> None:
    example = re.search(r"```yaml\n(.*?)```", RECIPES, re.DOTALL)
    assert example is not None
    recipe = check_recipe({**yaml.safe_load(example[1]), "run": {"dir": "runs/sums"}}, "the example")
    assert [stage.name for stage in recipe.stages] == ["sft", "rl"]


def test_the_page_of_the_architecture_lists_every_file_once() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    block = re.search(r"```\nsrc/tessera/\n(.*?)```", page, re.DOTALL)
    assert block is not None
    listed, folder = [], ""
    for line in block[1].splitlines():
        entry = line.strip().split()[0]
        if entry.endswith("/"):
            folder = entry
        else:
            listed.append((folder if line.startswith("    ") else "") + entry)
    source = ROOT / "src" / "tessera"
    there = [path.relative_to(source).as_posix() for path in source.rglob("*.py") if path.name != "__init__.py"]
    assert sorted(listed) == sorted(there)


ALGORITHMS = ROOT / "docs" / "algorithms"


@pytest.mark.parametrize("name", registered())
def test_every_method_has_a_page_with_its_keys_and_its_composition(name: str) -> None:
    page = (ALGORITHMS / f"{name}.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| .*? \| `(\w+)` \| (`.*?`) \| .+ \|$", page, re.MULTILINE)
    assert {key: read(cell) for key, cell in rows} == defaults(registered()[name].config)
    assert f"```text\n{build(name).describe()}\n```" in page
    for heading in ("Where it departs from the paper", "What to watch", "When to choose it", "Recipes"):
        assert len(page.partition(f"## {heading}\n")[2].partition("\n## ")[0].split()) >= 2, heading


def test_every_method_stands_in_the_table_of_methods_as_it_is_composed() -> None:
    table = (ALGORITHMS / "README.md").read_text(encoding="utf-8")
    for name in registered():
        (row,) = re.findall(rf"^\| \[.*?\]\({name}\.md\) (.*)\|$", table, re.MULTILINE)
        cells = [cell.strip(" `") for cell in row.split("|")[1:]]
        algorithm = build(name)
        more = bool(algorithm.needs & {"statistics", "entropy", "eos_logp"})
        expected = [*(piece.name for piece in algorithm.pieces.values())]
        assert cells == [*expected, "yes" if more else "no", "no" if "on_policy" in algorithm.needs else "yes"]


def test_links_of_the_pages_of_methods_lead_somewhere() -> None:
    for path in ALGORITHMS.glob("*.md"):
        for target in re.findall(r"\]\(([^)#]+)(?:#[\w.]+)?\)", path.read_text(encoding="utf-8")):
            assert (path.parent / target).exists(), f"{path.name}: {target}"


@pytest.mark.parametrize("name", ["tr_grpo_weights", "grpo_lambda_traces"])
def test_a_drawing_is_what_its_script_draws(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ALGORITHMS)
    script = runpy.run_path(str(ALGORITHMS / f"{name}.py"))
    drawn = script["drawing"]()
    numbers = r"\d+\.\d"  # the last digit may differ with the rounding of another machine
    kept = (ALGORITHMS / f"{name}.svg").read_text(encoding="utf-8")
    assert re.split(numbers, drawn) == re.split(numbers, kept)
    places = [[float(n) for n in re.findall(numbers, text)] for text in (drawn, kept)]
    assert places[0] == pytest.approx(places[1], abs=0.11)
    assert any(f"({name}.svg)" in page.read_text(encoding="utf-8") for page in ALGORITHMS.glob("*.md"))
