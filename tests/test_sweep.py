"""A grid of settings and seeds: read whole before it runs, resumed by the same command, compared in one table."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from command import tessera
from tessera.core.errors import UserError
from tessera.launch import prepare
from tessera.recipe import read_recipe, shipped_recipes, shipped_sweeps
from tessera.sweep import read_sweep
from tiny import save_tiny


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    model = save_tiny(tmp_path / "model")
    text = f"""
model: {{name: {model}, lora: {{last_fraction: 1/2, rank: 4}}}}
task: {{name: arithmetic, digits: 1, train_size: 20, validation_size: 0, test_size: 4}}
stages:
  - {{kind: rl, algorithm: tr_grpo, steps: 1, group_size: 2, max_new_tokens: 2, sentinels: {{truncation_rate: 1.0}}}}
"""
    path = tmp_path / "small.yaml"
    path.write_text(text)
    return path


def labels(source: str, *arguments: str) -> list[str]:
    return [point.label for point in read_sweep(source, arguments).points()]


def test_a_value_with_commas_is_an_axis() -> None:
    assert labels("r", "a.tau=0.5,9", "b=x") == ["tau=0.5", "tau=9"]
    assert labels("r", "a=1,2", "b=[3],{c: 4}") == ["a=1, b=[3]", "a=1, b={c: 4}", "a=2, b=[3]", "a=2, b={c: 4}"]
    assert labels("r", "b=x") == ["as it is"]
    (point,) = read_sweep("r", ["b=x", "seeds=3"]).points()
    assert point.changes == {"b": "x"}
    assert read_sweep("r", ["seeds=3"]).seed_list == [0, 1, 2]
    assert read_sweep("r", ["seeds=4,7"]).seed_list == [4, 7]


def test_a_named_axis_changes_keys_together(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text("recipe: r\noverrides: {z: 0}\nvary: {clip: {both: {a: 1, b: 2}, 0: {}}}\nseeds: [5]\n")
    found = list(read_sweep(str(path)).points())
    assert [(p.label, p.changes) for p in found] == [("clip=both", {"z": 0, "a": 1, "b": 2}), ("clip=0", {"z": 0})]
    assert found[0].overrides(5, Path("f")) == ["z=0", "a=1", "b=2", "seed=5", 'run.dir="f"']


WRONG = [
    ("recipe: r\nvaries: {}\nvary: {}", "varies"),
    ("vary: {a: 1}\nrecipe: r", "vary"),
    ("vary: {a: []}\nrecipe: r", "vary"),
    ("vary: {a: [1, 1]}\nrecipe: r", "two points would share a folder"),
    ("vary: {a: [1]}\nrecipe: r\nseeds: 0", "seeds"),
]


@pytest.mark.parametrize(("text", "says"), WRONG)
def test_a_wrong_key_of_a_sweep_is_named(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=says):
        read_sweep(str(path))


def test_a_sweep_runs_skips_what_is_done_and_compares(recipe: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = ("sweep", recipe, "stages.rl.algorithm.tau=0.5,9", "seeds=2", "--out", out)
    done = tessera(*command)
    assert done.code == 0, done.err
    rows = json.loads((out / "sweep.json").read_text())
    assert [(row["setting"], row["runs"]) for row in rows] == [("tau=0.5", "2/2"), ("tau=9", "2/2")]
    assert all(row["accuracy"] is not None and len(row["ci"]) == 2 for row in rows)
    written = {path: path.stat().st_mtime_ns for path in out.rglob("adapter_model.safetensors")}
    assert len(written) >= 4
    again = tessera(*command)
    assert again.code == 0
    assert {path: path.stat().st_mtime_ns for path in out.rglob("adapter_model.safetensors")} == written
    assert "| tau=9 |" in again.out
    other = tessera("sweep", recipe, "stages.rl.algorithm.tau=0.5,9", "stages.rl.steps=2", "seeds=2", "--out", out)
    assert other.code == 2
    assert "another recipe" in other.err
    assert "steps" in other.err


def test_nothing_runs_before_every_point_is_read(recipe: Path, tmp_path: Path) -> None:
    done = tessera("sweep", recipe, "stages.rl.algorithm.variant=shaped,shapely", "--out", tmp_path / "out")
    assert done.code == 2
    assert "variant=shapely" in done.err
    assert not (tmp_path / "out").exists()


def test_the_table_of_nothing_yet(recipe: Path, tmp_path: Path) -> None:
    done = tessera("sweep", recipe, "stages.rl.algorithm.tau=0.5,9", "--out", tmp_path / "out", "--table")
    assert done.code == 0
    assert done.out.count("0/1") == 2


@pytest.mark.parametrize("name", shipped_sweeps())
def test_every_shipped_sweep_is_read_at_every_point(name: str) -> None:
    assert name not in shipped_recipes()
    assert f"# command:  tessera sweep {name}\n" in shipped_sweeps()[name].read_text(encoding="utf-8")
    sweep = read_sweep(name)
    for point in sweep.points():
        recipe = read_recipe(sweep.recipe, point.overrides(0, Path("runs/x")))
        if recipe.task["name"] == "arithmetic":  # the data of the others may be elsewhere
            prepare(recipe)
