"""The page of `tessera compare RUN...`: settings side by side, curves with bands over their seeds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from statistics import fmean
from typing import Any

from markupsafe import Markup

from tessera.reports.charts import CURVES, REWARD, Curve, Reader, key
from tessera.reports.page import TEMPLATES, Figure
from tessera.reports.summary import Row, of_kind
from tessera.reports.svg import Chart, Point, Series, line_chart
from tessera.reports.text import duration, percent, short

LEFT_OUT = ("Peak memory", "Time of a step")  # of a curve of several lines the first is shown, and these say little
Settings = Mapping[str, Sequence[Sequence[Row]]]
"""By label, the rows of metrics.jsonl of each run of a setting."""

HEAD = (
    "Setting", "Runs", "Accuracy", "95 % interval", "Difference from the first", "95 % interval", "Over",
    "Reached", "Step", "Tokens sampled", "Tokens trained on", "Time", "Contributing tokens per example", "Whole time",
)  # fmt: skip


def cells(row: Mapping[str, Any]) -> list[str]:
    """A row of `compare_runs` under HEAD."""
    cost = row["cost"] or dict.fromkeys(("step", "sampled", "trained", "seconds"))
    return [
        row["setting"],
        str(row["runs"]) + ("" if row["finished"] == row["runs"] else f", {row['finished']} finished"),
        percent(row["accuracy"]),
        _interval(row["ci"], percent),
        "–" if row["difference"] is None else f"{100 * row['difference']:+.1f} points",
        _interval(row["difference_ci"], lambda end: f"{100 * end:+.1f}"),
        row["over"] or "–",
        f"{row['reached']} of {row['runs']}",
        *(short(cost[name]) for name in ("step", "sampled", "trained")),
        "–" if cost["seconds"] is None else duration(cost["seconds"]),
        short(row["tokens_per_example"]),
        "–" if row["seconds"] is None else duration(row["seconds"]),
    ]


def notes(found: Mapping[str, Any]) -> list[str]:
    """How to read the table."""
    reached = "Reached: no run was evaluated."
    if found["reach"] is not None:
        reached = (
            f"Reached: runs whose {found['split']} accuracy was {percent(found['reach'])} at some evaluation; what "
            "they had spent at the first, on average."
        )
    paired = (
        "Differences are paired: by seed where two or more are common, else by test problem. One whose interval holds "
        "0 may be chance."
    )
    return [reached, paired]


def render(found: Mapping[str, Any], settings: Settings) -> str:
    """The page as HTML text, of what `compare_runs` found."""
    drawn = [chart for chart in _charts(found["split"], settings) if chart.series]
    legend = tuple((series.name, "line") for series in (drawn[0].series if drawn else ()))
    figures = [
        Figure(chart.title, chart.unit, Markup(line_chart(chart, f"chart{n}")), legend) for n, chart in enumerate(drawn)
    ]
    return TEMPLATES.get_template("runs.html.j2").render(
        head=HEAD, rows=[cells(row) for row in found["rows"]], notes=notes(found), figures=figures
    )


def _charts(split: str, settings: Settings) -> Iterator[Chart]:
    last = max((row["step"] for runs in settings.values() for rows in runs for row in rows), default=0)
    evaluated = Curve(f"Accuracy on {split}", (("accuracy", key("accuracy/value")),), "%", "eval", from_zero=False)
    curves = (evaluated, REWARD, *(curve for curve in CURVES if curve.title not in LEFT_OUT))
    for curve in curves:
        reader = curve.lines[0][1]
        series = []
        for label, runs in settings.items():
            kept = [[row for row in of_kind(rows, curve.kind) if curve.kind != "eval" or row.get("split") == split]
                    for rows in runs]  # fmt: skip
            series.append(Series(label, (tuple(_points(kept, reader)),)))
        shown = [one for one in series if one.points and (not curve.optional or any(p.y for p in one.points))]
        yield Chart(curve.title, curve.unit, tuple(series) if shown else (), last, (), curve.from_zero)


def _points(runs: Iterable[Iterable[Row]], reader: Reader) -> Iterator[Point]:
    """At each step the mean over the runs that have a value, and the least and greatest where there are several."""
    at: dict[int, list[float]] = {}
    for rows in runs:
        values = {row["step"]: value for row in rows if (value := reader(row)) is not None}  # one a run and step
        for step, value in values.items():
            at.setdefault(step, []).append(value)
    for step in sorted(at):
        found = at[step]
        ends = (min(found), max(found)) if len(found) > 1 else (None, None)
        yield Point(step, fmean(found), *ends)


def _interval(ends: Sequence[float] | None, shown: Any) -> str:
    return "–" if ends is None else f"{shown(ends[0])} to {shown(ends[1])}"
