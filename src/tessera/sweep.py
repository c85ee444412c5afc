"""A grid of settings times seeds of one recipe, run one after another, resumable, with one table at the end."""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Field

from tessera.core.errors import RunStopped, UserError
from tessera.evaluation.estimators import mean_interval
from tessera.launch import prepare
from tessera.recipe import parse_yaml, read_recipe, shipped_sweeps
from tessera.reports.files import atomic_write
from tessera.reports.run import RunFolder
from tessera.tasks.options import read_options
from tessera.training.settings import Settings

INTERRUPTED = 130
Count = Annotated[int, Field(ge=1)]
Seeds = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]
Values = Annotated[list[Any], Field(min_length=1)]
Labelled = Annotated[dict[Any, dict[str, Any]], Field(min_length=1)]


class Sweep(Settings):
    """A sweep file. An axis of `vary` is a key with a list of values, or a name with labelled sets of overrides."""

    recipe: str = Field(description="a recipe file, or the name of a shipped one")
    overrides: dict[str, Any] = Field(default_factory=dict, description="fixed changes of the recipe")
    vary: dict[str, Values | Labelled] = Field(default_factory=dict, description="the grid's axes")
    seeds: Count | Seeds = Field(1, description="a number of seeds from 0, or a list of them")

    @property
    def seed_list(self) -> list[int]:
        """The seeds of every point."""
        return list(range(self.seeds)) if isinstance(self.seeds, int) else self.seeds

    def points(self) -> Iterator[Point]:
        """The grid, the last axis fastest."""
        axes = [list(_axis(key, values)) for key, values in self.vary.items()]
        for chosen in itertools.product(*axes):
            changes = dict(self.overrides)
            for _, change in chosen:
                changes |= change
            yield Point(", ".join(label for label, _ in chosen) or "as it is", changes)


@dataclass(frozen=True)
class Point:
    """A point of the grid: what it is called, and what it changes."""

    label: str
    changes: Mapping[str, Any]

    def overrides(self, seed: int, folder: Path) -> list[str]:
        """The changes as `tessera train` takes them."""
        changes = {**self.changes, "seed": seed, "run.dir": str(folder)}
        return [f"{key}={json.dumps(value)}" for key, value in changes.items()]

    def folder(self, out: Path, seed: int) -> Path:
        """Where the run of a seed is kept."""
        return out / re.sub(r"[^\w.=-]+", "-", self.label).strip("-") / f"seed-{seed}"


def read_sweep(source: str, arguments: Sequence[str] = ()) -> Sweep:
    """A sweep file (by path, or shipped under `ablations/`), or a recipe varied by `key=a,b,c` and `seeds=n`."""
    path = Path(source)
    if not path.is_file():
        path = shipped_sweeps().get(source.removesuffix(".yaml"), path)
    data: dict[str, Any] = {"recipe": source}
    if path.is_file():
        content = parse_yaml(path.read_text(encoding="utf-8"), f"sweep {source}")
        data = content if isinstance(content, dict) and "vary" in content else data
    for argument in arguments:
        key, equals, text = argument.partition("=")
        if not equals or not key:
            raise UserError(f"{argument!r} must be key=value, key=a,b,c or seeds=n")
        values = parse_yaml(f"[{text}]", f"{key}={text!r}")
        if key == "seeds":
            data["seeds"] = values[0] if len(values) == 1 else values
        elif len(values) == 1:
            data["overrides"] = {**data.get("overrides", {}), key: values[0]}
        else:
            data["vary"] = {**data.get("vary", {}), key: values}
    sweep = read_options(Sweep, data, f"sweep {source}")
    folders = [point.folder(Path(), 0) for point in sweep.points()]
    if len(set(folders)) < len(folders):
        raise UserError(f"sweep {source}: two points would share a folder; name their values so that they differ")
    return sweep


def run_sweep(sweep: Sweep, out: Path, say: Callable[[str], None]) -> int:
    """Check every run, then train what is not finished; returns an exit code, 130 when interrupted.

    Seed by seed, so that a sweep half done has seen all of its points.
    """
    runs = [(point, seed) for seed in sweep.seed_list for point in sweep.points()]
    for point, seed in runs:
        _check(sweep, point, seed, out)
    for point, seed in runs:
        folder = point.folder(out, seed)
        if _summary(folder) is not None:
            continue
        say(f"{point.label}, seed {seed}: {folder}")
        code = _train(sweep, point, seed, folder)
        if code == INTERRUPTED:
            return code
        if code not in (0, 1):  # 1: the run stopped itself, which the table shows
            raise RunStopped(f"{folder}: tessera train ended with exit code {code}")
    return 0


def table(sweep: Sweep, out: Path) -> list[dict[str, Any]]:
    """A row a point: accuracy at the end with its interval, gain, contributing tokens, minutes, runs finished."""
    return [_row(point, [_summary(point.folder(out, seed)) for seed in sweep.seed_list]) for point in sweep.points()]


def write_table(rows: Sequence[Mapping[str, Any]], out: Path) -> str:
    """Write sweep.json and sweep.md; returns the latter."""
    head = ("setting", "accuracy", "95 % interval", "gain", "tokens an example", "minutes", "runs")
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for row in rows:
        low, high = row["ci"] or (None, None)
        cells = [
            row["setting"],
            _percent(row["accuracy"]),
            "-" if low is None else f"{_percent(low)} to {_percent(high)}",
            "-" if row["gain"] is None else f"{100 * row['gain']:+.1f}",
            "-" if row["tokens"] is None else f"{row['tokens']:.1f}",
            "-" if row["minutes"] is None else f"{row['minutes']:.1f}",
            row["runs"],
        ]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    text = "\n".join(lines) + "\n"
    out.mkdir(parents=True, exist_ok=True)
    atomic_write(out / "sweep.json", json.dumps(list(rows), indent=2) + "\n")
    atomic_write(out / "sweep.md", text)
    return text


def _axis(key: str, values: list[Any] | dict[Any, dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    if isinstance(values, dict):
        for label, changes in values.items():
            yield f"{key}={_shown(label)}", changes
        return
    for value in values:
        yield f"{key.rpartition('.')[2]}={_shown(value)}", {key: value}


def _shown(value: Any) -> str:
    """A value as YAML, on one line."""
    return yaml.safe_dump(value, default_flow_style=True, width=inf).partition("\n")[0]


def _check(sweep: Sweep, point: Point, seed: int, out: Path) -> None:
    """Refuse a run that would not start, and a folder that holds another run than this sweep would make."""
    folder = point.folder(out, seed)
    try:
        prepared = prepare(read_recipe(sweep.recipe, point.overrides(seed, folder)))
    except UserError as error:
        raise UserError(f"{point.label}: {error}") from None
    if (folder / "recipe.yaml").exists():
        changed = RunFolder.open(folder).changed(prepared.recipe.text(), prepared.fingerprint)
        if changed is not None:
            raise UserError(f"{folder} holds a run of another recipe: {changed}; give another --out, or delete it")


def _train(sweep: Sweep, point: Point, seed: int, folder: Path) -> int:
    """`tessera train` in a process of its own, so that every run begins alike and leaves no memory behind."""
    begun = (folder / "recipe.yaml").exists()
    what = ["--resume", str(folder)] if begun else [sweep.recipe, *point.overrides(seed, folder)]
    child = subprocess.Popen([sys.executable, "-m", "tessera.cli", "train", *what])
    while True:
        try:
            return child.wait()
        except KeyboardInterrupt:
            continue  # the child has had the same signal, and saves


def _summary(folder: Path) -> dict[str, Any] | None:
    """What a run ended with; None of one that has not ended, or was interrupted."""
    path = folder / "summary.json"
    summary = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"status": "interrupted"}
    return None if summary["status"] == "interrupted" else summary


def _row(point: Point, summaries: Sequence[dict[str, Any] | None]) -> dict[str, Any]:
    done = [s for s in summaries if s is not None and s["accuracy"]]
    last = [list(s["accuracy"].values())[-1] for s in done]
    values = [entry["value"] for entry in last]
    interval = mean_interval(values, (0.0, 1.0))[1:] if len(values) > 1 else last[0]["ci"] if last else None
    tokens = [s["tokens"]["contributing_per_example"] for s in done]
    stopped = sum(s["status"] != "finished" for s in summaries if s is not None)
    finished = sum(s is not None for s in summaries)
    return {
        "setting": point.label,
        "accuracy": _mean(values),
        "ci": None if interval is None else list(interval),
        "gain": _mean([s["gain"]["difference"] for s in done if s["gain"]]),
        "tokens": _mean([n for n in tokens if n is not None]),
        "minutes": _mean([s["seconds"] / 60 for s in done]),
        "runs": f"{finished}/{len(summaries)}" + (f", {stopped} stopped" if stopped else ""),
    }


def _mean(numbers: Sequence[float]) -> float | None:
    return sum(numbers) / len(numbers) if numbers else None


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"
