from __future__ import annotations

import re
from datetime import date, time
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import yaml

from command import rl_stage, write_recipe
from tessera.algorithms import build
from tessera.core.errors import UserError
from tessera.core.types import Message, Problem
from tessera.recipe import Recipe, apply_overrides, check_recipe, headline, read_recipe, shipped_recipes, shipped_sweeps
from tessera.tasks.options import read_options
from tessera.tasks.registry import TASKS
from tessera.training.settings import RLStage

ROOT = Path(__file__).parents[1]
SWEEPS = sorted((ROOT / "recipes" / "ablations").glob("*.yaml"))
RECIPES = sorted({*(ROOT / "recipes").rglob("*.yaml")} - {*SWEEPS})
HEADER = ("command", "hardware", "minutes", "seed", "result")


def header(path: Path) -> dict[str, str]:
    """What the opening comment of a recipe states, by name."""
    comment = re.match(r"(#.*\n)*", path.read_text(encoding="utf-8"))
    assert comment is not None
    return dict(re.findall(r"^# (\w+): +(\S.*?) *$", comment[0], re.MULTILINE))


def minimal(**changes: Any) -> dict[str, Any]:
    return {"task": "arithmetic", "stages": [rl_stage()], "run": {"dir": "runs/x"}, **changes}


def read(data: dict[str, Any]) -> Recipe:
    return check_recipe(data, "x")


# Shipped recipes


def test_there_are_recipes_and_all_of_them_are_shipped() -> None:
    assert len(RECIPES) >= 12
    assert list(shipped_recipes().values()) == RECIPES
    assert list(shipped_sweeps().values()) == SWEEPS
    assert "nano/s_grpo_svamp_smollm2" in shipped_recipes()


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.relative_to(ROOT / "recipes").as_posix())
def test_every_recipe_can_be_read(path: Path, tmp_path: Path) -> None:
    recipe = read_recipe(str(path))
    (tmp_path / "rows.jsonl").touch()
    options = {key: value for key, value in recipe.task.items() if key != "name"}
    files = {key: str(tmp_path / "rows.jsonl") for key in ("train", "validation", "test") if key in options}
    read_options(TASKS[recipe.task["name"]], {**options, **files}, "its task")
    for stage in recipe.stages:
        if isinstance(stage, RLStage):
            build(stage.algorithm).check_group_size([stage.group_size])


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.relative_to(ROOT / "recipes").as_posix())
def test_every_recipe_states_how_it_is_run_and_what_came_out(path: Path) -> None:
    stated = header(path)
    assert [key for key in HEADER if not stated.get(key)] == []
    assert headline(path).endswith((".", ":")) and len(headline(path)) > 20
    assert stated["seed"] == str(read_recipe(str(path)).seed)
    name = path.relative_to(ROOT / "recipes").with_suffix("").as_posix()
    assert stated["command"] == f"make {name}" or stated["command"].startswith(f"tessera train {name}")
    measured = re.search(r"\d", stated["minutes"])
    assert measured or stated["minutes"] == "not yet measured"
    assert re.search(r"\d", stated["result"]) or stated["result"] == "not yet run"


def test_a_shipped_recipe_is_found_by_its_name_and_by_its_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    name = "nano/s_grpo_svamp_smollm2"
    by_name = read_recipe(name)
    assert by_name.run.dir == "runs/s_grpo_svamp_smollm2"
    assert by_name.data_dir == str(ROOT / "recipes" / "nano")
    assert read_recipe(f"{name}.yaml") == read_recipe(f"recipes/{name}.yaml") == by_name
    monkeypatch.chdir(ROOT)
    assert read_recipe(f"recipes/{name}.yaml") == by_name


def test_a_file_comes_before_a_shipped_recipe_of_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nano").mkdir()
    write_recipe(tmp_path / "nano" / "s_grpo_svamp_smollm2", Path("some/model"))
    assert read_recipe("nano/s_grpo_svamp_smollm2").model.name == "some/model"


# Reading


def test_short_forms_are_written_out() -> None:
    recipe = read(minimal())
    assert recipe.task == {"name": "arithmetic"}
    stage = recipe.stages[0]
    assert isinstance(stage, RLStage)
    assert stage.algorithm == {"name": "grpo"}
    assert stage.name == "rl"


def test_the_resolved_recipe_says_everything_and_reads_as_itself(tmp_path: Path) -> None:
    recipe = read(minimal(model={"lora": {"last_fraction": "1/3"}}, task={"name": "x", "note": "1e4", "when": "no"}))
    text = recipe.text()
    assert yaml.safe_load(text)["stages"][0]["optimizer"]["betas"] == [0.9, 0.999]
    (tmp_path / "recipe.yaml").write_text(text)
    again = read_recipe(str(tmp_path / "recipe.yaml"), [f"data_dir={tmp_path}"])
    assert again == recipe.model_copy(update={"data_dir": str(tmp_path)})
    assert again.task["note"] == "1e4"  # a text that looks like a number stays a text


def test_numbers_as_people_write_them(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(
        "task: {name: x, a: 1e-4, b: 3E+2, c: -2.5e3, d: 1e, e: '1e4', f: 12, g: 1.e2}\n"
        "stages: [{kind: sft, steps: 1}]\n"
    )
    task = read_recipe(str(tmp_path / "r.yaml")).task
    assert task == {"name": "x", "a": 1e-4, "b": 300.0, "c": -2500.0, "d": "1e", "e": "1e4", "f": 12, "g": 100.0}


def test_an_anchor_may_be_merged(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(
        "task: arithmetic\nstages:\n  - &first {kind: sft, name: one, steps: 1}\n  - {<<: *first, name: two}\n"
    )
    assert [(s.name, s.steps) for s in read_recipe(str(tmp_path / "r.yaml")).stages] == [("one", 1), ("two", 1)]


def test_where_files_are_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own" / "data").mkdir(parents=True)
    (tmp_path / "mine").mkdir()
    path = write_recipe(tmp_path / "own" / "r.yaml", Path("m"))
    monkeypatch.chdir(tmp_path)
    found = {
        given: read_recipe("own/r.yaml", given and [f"data_dir={given}"]).data_dir for given in ("", "data", "mine")
    }
    assert found == {"": str(path.parent), "data": str(tmp_path / "own" / "data"), "mine": str(tmp_path / "mine")}
    with pytest.raises(UserError, match="no such file: 'none'"):
        read_recipe("own/r.yaml", ["data_dir=none"])


# Overrides


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("seed=3", {"seed": 3}),
        ("task=svamp", {"task": "svamp"}),
        ("task.digits=2", {"task": {"name": "arithmetic", "digits": 2}}),
        ("a.b.c=[1, x]", {"a": {"b": {"c": [1, "x"]}}}),
        ("model.lora.rank=4", {"model": {"lora": {"rank": 4}}}),  # over a null
        ("stages.0.steps=9", {"stages": [{"kind": "sft", "steps": 9}, {"kind": "rl", "name": "main"}]}),
        ("stages.sft.steps=9", {"stages": [{"kind": "sft", "steps": 9}, {"kind": "rl", "name": "main"}]}),
        ("stages.main.x.y=", {"stages": [{"kind": "sft"}, {"kind": "rl", "name": "main", "x": {"y": None}}]}),
        ("stages.1={kind: sft}", {"stages": [{"kind": "sft"}, {"kind": "sft"}]}),
        ("note=a=b", {"note": "a=b"}),
        ("note='1'", {"note": "1"}),
    ],
)
def test_an_override_sets_one_key(override: str, expected: dict[str, Any]) -> None:
    data = {"task": "arithmetic", "model": {"lora": None}, "stages": [{"kind": "sft"}, {"kind": "rl", "name": "main"}]}
    before = {**data}
    assert apply_overrides(data, [override]) == {**before, **expected}


def test_later_overrides_win_and_see_earlier_ones() -> None:
    assert apply_overrides({}, ["a.b=1", "a.c=2", "a.b=3"]) == {"a": {"b": 3, "c": 2}}


@pytest.mark.parametrize("override", ["", "=", "=1", "a", ".=1", "a..b=1", ".a=1", "a.=1"])
def test_what_is_no_override(override: str) -> None:
    with pytest.raises(UserError, match=r"must be key=value, such as task\.digits=2"):
        apply_overrides({}, [override])


def test_what_was_published_is_of_the_recipes_stages() -> None:
    recipe = read(minimal(published=PUBLISHED))
    assert read(yaml.safe_load(recipe.text())) == recipe
    with pytest.raises(UserError, match=r"published\.accuracy names a stage 'sft'; the stages are rl"):
        read(minimal(published={"source": "A paper", "accuracy": {"sft": {0: 0.1}}}))


def test_some_stage_trains() -> None:
    assert [stage.kind for stage in read(minimal(stages=[{"kind": "eval"}, rl_stage()])).stages] == ["eval", "rl"]
    with pytest.raises(UserError, match="no stage trains: `tessera eval` evaluates a model"):
        read(minimal(stages=[{"kind": "eval"}]))


# Fingerprints

ONE = Problem("1", "1 + 1 =", 2)
PUBLISHED = {"source": "A paper", "accuracy": {"rl": {0: 0.1, 10: 0.5}}}


def test_a_fingerprint_leaves_out_only_where_things_are_kept_and_what_only_stops_a_run() -> None:
    recipe = read(minimal())
    moved = read(minimal(run={"dir": "runs/y"}, data_dir="/elsewhere"))
    laxer = read(minimal(stages=[rl_stage(sentinels={"reward_failures": 1.0})]))
    beside = read(minimal(published=PUBLISHED))
    assert len({r.fingerprint([ONE]) for r in (recipe, moved, laxer, beside)}) == 1
    others = [
        read(minimal(seed=1)),
        read(minimal(run={"dir": "runs/x", "save_every": 5})),
        read(minimal(stages=[rl_stage(steps=3)])),
        read(minimal(task={"name": "arithmetic", "digits": 1})),
    ]
    assert len({r.fingerprint([ONE]) for r in (recipe, *others)}) == 5


@pytest.mark.parametrize(
    "other",
    [
        Problem("2", "1 + 1 =", 2),
        Problem("1", "1 + 2 =", 2),
        Problem("1", "1 + 1 =", 3),
        Problem("1", "1 + 1 =", 2, prefill="It is"),
        Problem("1", "1 + 1 =", 2, metadata={"level": 1}),
        Problem("1", (Message("user", "1 + 1 ="),), 2),
    ],
)
def test_a_fingerprint_sees_the_data(other: Problem) -> None:
    recipe = read(minimal())
    assert recipe.fingerprint([other]) != recipe.fingerprint([ONE])
    assert recipe.fingerprint([ONE, other]) != recipe.fingerprint([other, ONE])


@pytest.mark.parametrize(
    ("one", "other"),
    [(date(2024, 5, 1), date(2024, 5, 2)), (Decimal("1.10"), Decimal("1.1")), (b"a", b"b"), (time(1), time(2))],
)
def test_a_fingerprint_sees_what_parquet_columns_hold_and_json_does_not_know(one: object, other: object) -> None:
    first, second = (Problem("1", "x", "y", metadata={"column": value}) for value in (one, other))
    assert read(minimal()).fingerprint([first]) != read(minimal()).fingerprint([second])


def test_a_fingerprint_is_the_same_in_another_process_whatever_an_answer_is() -> None:
    """The repr of an object names its address, that of a set depends on the process's hash seed."""

    def fingerprint() -> str:
        return read(minimal()).fingerprint([Problem("1", "x", object(), metadata={"words": {"a", "b"}, (1, 2): 3})])

    assert fingerprint() == fingerprint()


def test_the_order_of_keys_is_no_difference() -> None:
    data = minimal(seed=3)
    assert read(dict(reversed(data.items()))).fingerprint([ONE]) == read(data).fingerprint([ONE])
