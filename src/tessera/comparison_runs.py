"""What `tessera compare` does with training runs: settings side by side, each with the runs of its seeds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from tessera.core.errors import UserError
from tessera.evaluation.estimators import mean_interval
from tessera.evaluation.paired import paired_bootstrap
from tessera.reports.difference import differences
from tessera.reports.files import atomic_write, reason
from tessera.reports.run import RunFolder
from tessera.reports.runs_page import render
from tessera.reports.summary import Row, of_kind

SAME = (
    "seed",
    "data_dir",
    "run",
    "report",
    "tracking",
    "published",
)  # keys in which the runs of one setting may differ
QUESTIONS = ("task", "evaluation")  # keys that decide which test problems are asked


@dataclass(frozen=True)
class TrainingRun:
    """A run as it is compared: its folder, recipe, rows, and summary (None of one that has not ended)."""

    path: Path
    recipe: Mapping[str, Any]
    rows: Sequence[Row]
    summary: Mapping[str, Any] | None

    @classmethod
    def read(cls, path: Path) -> TrainingRun:
        """The run in `path`."""
        folder = RunFolder.open(path)
        return cls(path, folder.recipe(), folder.metrics(), folder.summary())

    @property
    def seed(self) -> int:
        """The recipe's."""
        return int(self.recipe.get("seed", 0))

    def evaluations(self, split: str) -> list[Row]:
        """Its evaluations on a split, in order."""
        rows = of_kind(self.rows, "eval")
        return [row for row in rows if row.get("split") == split and row.get("accuracy/value") is not None]

    def final(self) -> Mapping[str, Any] | None:
        """Its last labelled evaluation, as summary.json has it."""
        accuracy = (self.summary or {}).get("accuracy") or {}
        return list(accuracy.values())[-1] if accuracy else None

    def solved(self) -> str:
        """Which test problems it solved in the end, a character each; nothing where that is not known."""
        solved = (self.summary or {}).get("solved") or {}
        return str(list(solved.values())[-1]) if solved else ""


@dataclass(frozen=True)
class Setting:
    """Runs whose recipes differ in nothing but the seed, and what they are called."""

    label: str
    runs: tuple[TrainingRun, ...]

    @property
    def seeds(self) -> dict[int, TrainingRun]:
        """Its runs by seed."""
        return {run.seed: run for run in self.runs}


def find_runs(paths: Sequence[Path]) -> list[Path]:
    """The run folders among `paths` and in the folders of sweeps. Raises UserError for a folder that holds none."""
    found: dict[Path, None] = {}
    for path in paths:
        inside = [path] if (path / "recipe.yaml").is_file() else sorted(p.parent for p in path.glob("*/*/recipe.yaml"))
        if not inside:
            raise UserError(f"{path} is neither a run folder, nor the folder of a sweep, nor one of an evaluation")
        found |= dict.fromkeys(inside)
    return list(found)


def compare_runs(
    paths: Sequence[Path], reach: float | None = None, seed: int = 0
) -> tuple[dict[str, Any], list[Setting]]:
    """A row a setting: accuracy at the end, the paired difference from the first setting, and the cost to `reach` an
    accuracy (default: the highest that every run has reached); and the settings.

    Raises UserError for fewer than two runs, a folder that holds none, and two runs of a setting with one seed.
    """
    settings = _settings([TrainingRun.read(path) for path in find_runs(paths)])
    runs = [run for setting in settings for run in setting.runs]
    split = "validation" if all(any(row["step"] for row in run.evaluations("validation")) for run in runs) else "test"
    best = [max(found) for run in runs if (found := [row["accuracy/value"] for row in run.evaluations(split)])]
    target = min(best, default=None) if reach is None else reach
    rows = [
        {**_end(setting), **_difference(settings[0], setting, seed), **_cost(setting, split, target)}
        for setting in settings
    ]
    return {"split": split, "reach": target, "rows": rows}, settings


def write_page(found: Mapping[str, Any], settings: Sequence[Setting], path: Path) -> Path:
    """Write the page about what `compare_runs` found, and return its path."""
    html = render(found, {setting.label: [run.rows for run in setting.runs] for setting in settings})
    try:
        atomic_write(path, html)
    except OSError as error:
        raise UserError(f"cannot write {path}: {reason(error)}") from error
    return path


def _settings(runs: Sequence[TrainingRun]) -> list[Setting]:
    found: list[list[TrainingRun]] = []
    for run in runs:
        same = next((group for group in found if not _different(group[0], run)), None)
        if same is None:
            found.append([run])
        elif run.seed in {other.seed for other in same}:
            raise UserError(f"{run.path} and {same[0].path} are runs of one setting with one seed: leave one out")
        else:
            same.append(run)
    if len(runs) < 2:
        raise UserError("one run: give two at least, or the folder of a sweep")
    labels = [_label(group) for group in found]
    whole = labels if len(set(labels)) == len(labels) else [str(group[0].path) for group in found]
    return [Setting(label, tuple(group)) for label, group in zip(whole, found, strict=True)]


def _different(one: TrainingRun, other: TrainingRun) -> list[str]:
    """The keys in which two settings differ, with their values."""
    recipes = ({key: value for key, value in run.recipe.items() if key not in SAME} for run in (one, other))
    return differences(*recipes)


def _label(runs: Sequence[TrainingRun]) -> str:
    """The folder's name; of a sweep, the point's; of several folders, what their names begin with."""
    path = runs[0].path.resolve()
    if path.name.startswith("seed-"):
        return path.parent.name
    names = [run.path.resolve().name for run in runs]
    shared = _beginning(names).rstrip("-_. ").removesuffix("seed").rstrip("-_. ")
    return names[0] if len(names) == 1 or not shared else shared


def _beginning(names: Sequence[str]) -> str:
    """What all names begin with."""
    least, greatest = min(names), max(names)
    same = next((i for i, letter in enumerate(least) if not greatest.startswith(letter, i)), len(least))
    return least[:same]


def _end(setting: Setting) -> dict[str, Any]:
    """Accuracy at the end: over seeds the mean with Student's interval, of one run its own."""
    final = [found for run in setting.runs if (found := run.final()) is not None]
    values = [found["value"] for found in final]
    interval = mean_interval(values, (0.0, 1.0))[1:] if len(values) > 1 else final[0]["ci"] if final else None
    per_example = [
        tokens
        for run in setting.runs
        if (tokens := (run.summary or {}).get("tokens", {}).get("contributing_per_example")) is not None
    ]
    return {
        "setting": setting.label,
        "runs": len(setting.runs),
        "finished": sum((run.summary or {}).get("status") == "finished" for run in setting.runs),
        "accuracy": _mean(values),
        "ci": None if interval is None else list(interval),
        "tokens_per_example": _mean(per_example),
        "seconds": _mean([run.rows[-1]["seconds"] for run in setting.runs if run.rows]),
    }


def _difference(first: Setting, other: Setting, seed: int) -> dict[str, Any]:
    """How much higher than the first the other ends: over the seeds that both have, or over the test problems."""
    nothing = {"difference": None, "difference_ci": None, "over": None}
    pairs = [(run, other.seeds[s]) for s, run in first.seeds.items() if s in other.seeds]
    ends = [(one.final(), two.final()) for one, two in pairs]
    apart = [two["value"] - one["value"] for one, two in ends if one and two]
    if other is first or not apart:
        return nothing
    if len(apart) > 1:
        mean, low, high = mean_interval(apart, (-1.0, 1.0))
        return {"difference": mean, "difference_ci": [low, high], "over": f"{len(apart)} seeds"}
    one, two = next((one, two) for one, two in pairs if one.final() and two.final())
    if not _same_questions(one, two):
        return {**nothing, "difference": apart[0]}
    before, after = ([float(c) for c in run.solved()] for run in (one, two))
    found = paired_bootstrap(before, after, seed)
    return {
        "difference": found.difference,
        "difference_ci": [found.low, found.high],
        "over": f"{len(one.solved())} questions",
    }


def _same_questions(one: TrainingRun, two: TrainingRun) -> bool:
    known = one.solved() and len(one.solved()) == len(two.solved())
    return bool(known) and all(one.recipe.get(key) == two.recipe.get(key) for key in QUESTIONS)


def _cost(setting: Setting, split: str, target: float | None) -> dict[str, Any]:
    """What the runs that reach the target had spent at the first evaluation that did, on average."""
    found = [cost for run in setting.runs if (cost := _reached(run, split, target)) is not None]
    names = ("step", "sampled", "trained", "seconds")
    means = {name: _mean([cost[name] for cost in found]) for name in names}
    return {"reached": len(found), "cost": means if found else None}


def _reached(run: TrainingRun, split: str, target: float | None) -> dict[str, float] | None:
    at = next((row for row in run.evaluations(split) if target is not None and row["accuracy/value"] >= target), None)
    if at is None:
        return None
    rl = [row for row in of_kind(run.rows, "rl") if row["step"] <= at["step"]]
    sft = [row for row in of_kind(run.rows, "sft") if row["step"] <= at["step"]]
    trained = sum(_column(rl, "tokens/contributing")) + sum(_column(sft, "tokens/trained"))
    sampled = sum(_column(rl, "tokens/generated"))
    return {"step": at["step"], "sampled": sampled, "trained": trained, "seconds": at["seconds"]}


def _column(rows: Iterable[Row], key: str) -> list[float]:
    return [row[key] for row in rows if row.get(key) is not None]


def _mean(numbers: Sequence[float]) -> float | None:
    return fmean(numbers) if numbers else None
