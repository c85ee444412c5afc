"""Which charts a report shows, and how they are read out of the rows of metrics.jsonl."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from tessera.reports.summary import Row, mean, of_kind, values
from tessera.reports.svg import Chart, Point, Series

Reader = Callable[[Row], float | None]
NOT_PARTS = ("reward/mean", "reward/std")
TIMES = ("rollout", "reward", "scoring", "backward", "sync")


def key(name: str) -> Reader:
    """Reads one key of a row."""
    return lambda row: row.get(name)


def mebibytes(row: Row) -> float | None:
    """The peak of memory so far."""
    found = row.get("memory/peak_bytes")
    return None if found is None else found / 2**20


def silent_groups(row: Row) -> float | None:
    """The share of groups whose rewards are all equal: they teach nothing."""
    silent, total = row.get("groups/zero_spread"), row.get("groups/total")
    return silent / total if total and silent is not None else None


@dataclass(frozen=True)
class Curve:
    """A chart of named lines over the rows of `kind`. An `optional` one is left out where it is 0 throughout."""

    title: str
    lines: tuple[tuple[str, Reader], ...]
    unit: str = ""
    kind: str = "rl"
    from_zero: bool = True
    optional: bool = False


CLOCKS = ("step", "rollout", "scoring", "backward")
REWARD = Curve("Reward", (("mean reward", key("reward/mean")),), from_zero=False)
TOKENS = "tokens/contributing_per_example"
CURVES = (
    Curve("Contributing tokens per example", (("tokens", key(TOKENS)),), "tokens"),
    Curve(
        "Completion length",
        (("mean", key("completion_length/mean")), ("longest", key("completion_length/max"))),
        "tokens",
    ),
    Curve("Truncated completions", (("truncated", key("truncation_rate")),), "%"),
    Curve("KL to the reference", (("k3 estimate", key("kl")),), "nats", optional=True),
    Curve("Entropy", (("entropy", key("entropy")),), "nats"),
    Curve("Gradient norm, before clipping", (("norm", key("grad_norm")),)),
    Curve("Groups with equal rewards", (("share", silent_groups),), "%"),
    Curve(
        "Clipped tokens",
        (("low side", key("clip_fraction/low")), ("high side", key("clip_fraction/high"))),
        "%",
        optional=True,
    ),
    Curve(
        "Log-prob gap of sampler and trainer",
        (("mean", key("mismatch/mean")), ("largest", key("mismatch/max"))),
        "nats",
        optional=True,
    ),
    Curve("Time of a step", tuple((name, key(f"time/{name}")) for name in CLOCKS), "s"),
    Curve("Peak memory", (("peak so far", mebibytes),), "MiB"),
    Curve("Failed rewards", (("rollouts", key("rollouts/failed")),), "rollouts", optional=True),
    Curve("Supervised loss", (("loss", key("loss")),), "nats", "sft"),
    Curve("Supervised token accuracy", (("accuracy", key("accuracy/token")),), "%", "sft", from_zero=False),
)


def charts(rows: Sequence[Row], published: Mapping[str, Any] | None = None) -> list[Chart]:
    """Every chart that has data, the most asked for first; beside accuracy what the recipe says was `published`."""
    rest = [_draw(curve, rows) for curve in (*CURVES, _components(rows))]
    found = [_draw(REWARD, rows), _accuracy(rows), *([_published(**published)] if published else []), *rest]
    return [chart for chart in found if chart.series]


def stage_starts(rows: Iterable[Row]) -> tuple[tuple[float, str], ...]:
    """Where each stage starts, just before its first step, and its name; empty for a run of one stage."""
    trained = [row for row in rows if row["kind"] != "eval"]
    firsts = [next(group) for _, group in groupby(trained, key=stage_of)]
    starts = tuple((row["step"] - 0.5 if index else 0.0, str(row["stage"])) for index, row in enumerate(firsts))
    return starts if len(starts) > 1 else ()


def time_split(rows: Iterable[Row]) -> list[tuple[str, list[tuple[str, float]]]]:
    """Mean seconds a step of each part, for each reinforcement learning stage; `other` is what no part accounts for."""
    split = []
    for _, group in groupby(of_kind(rows, "rl"), key=stage_of):
        stage = list(group)
        parts = [(name, mean(values(stage, f"time/{name}")) or 0.0) for name in TIMES]
        other = (mean(values(stage, "time/step")) or 0.0) - sum(seconds for _, seconds in parts)
        split.append((str(stage[0]["stage"]), [*parts, ("other", max(other, 0.0))]))
    return [(label, parts) for label, parts in split if any(seconds for _, seconds in parts)]


def _draw(curve: Curve, rows: Sequence[Row]) -> Chart:
    lines = [_line(name, of_kind(rows, curve.kind), reader) for name, reader in curve.lines]
    shown = [line for line in lines if line.points]
    if curve.optional and not any(point.y for line in shown for point in line.points):
        shown = []
    return _chart(curve.title, curve.unit, shown, rows, curve.from_zero)


def _accuracy(rows: Sequence[Row]) -> Chart:
    """The rollouts' success as a line, evaluations as points with their intervals."""
    series = [_line("rollouts", of_kind(rows, "rl"), key("accuracy"))]
    evaluations = of_kind(rows, "eval")
    for split in sorted({str(row.get("split")) for row in evaluations}):
        points = tuple(
            Point(row["step"], row["accuracy/value"], row.get("accuracy/ci_low"), row.get("accuracy/ci_high"))
            for row in evaluations
            if str(row.get("split")) == split and row.get("accuracy/value") is not None
        )
        series.append(Series(split, (points,), marks=True))
    return _chart("Accuracy", "%", [one for one in series if one.points], rows, False)


def _published(source: str, accuracy: Mapping[str, Mapping[int | str, float]]) -> Chart:
    """The curve of another run over its stages, in steps of its own (text where they come from a resolved recipe)."""
    curves = [{int(step): value for step, value in of.items()} for of in accuracy.values()]
    segments = tuple(tuple(Point(step, of[step]) for step in sorted(of)) for of in curves)
    starts = tuple((segment[0].x, name) for name, segment in zip(accuracy, segments, strict=True) if segment)
    last = max((point.x for segment in segments for point in segment), default=0)
    shown = (Series(source, segments, marks=True),)
    return Chart(f"Accuracy as published: {source}", "%", shown, last, starts if len(starts) > 1 else ())


def _components(rows: Sequence[Row]) -> Curve:
    """The parts of the reward, where there is more than one."""
    names = dict.fromkeys(
        name for row in of_kind(rows, "rl") for name in row if name.startswith("reward/") and name not in NOT_PARTS
    )
    lines = tuple((name.removeprefix("reward/"), key(name)) for name in names)
    return Curve("Reward components", lines if len(lines) > 1 else (), from_zero=False)


def _chart(title: str, unit: str, series: Sequence[Series], rows: Sequence[Row], from_zero: bool) -> Chart:
    last = max((row["step"] for row in rows), default=0)
    return Chart(title, unit, tuple(series), last, stage_starts(rows), from_zero)


def _line(name: str, rows: Iterable[Row], reader: Reader) -> Series:
    """A line that is broken where a stage ends."""
    segments = []
    for _, group in groupby(rows, key=stage_of):
        read = [(row["step"], reader(row)) for row in group]
        segments.append(tuple(Point(step, value) for step, value in read if value is not None))
    return Series(name, tuple(segment for segment in segments if segment))


def stage_of(row: Row) -> tuple[int, str]:
    """What tells a row's stage from the others: place and name."""
    return row["stage_index"], str(row["stage"])
