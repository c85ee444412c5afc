"""Small charts as SVG text: axes, ticks, lines with their moving average, points with intervals, stacked bars.

Colours are classes (`c0` to `c5`, then again) that the page's style sheet fills in, so that one drawing serves light,
dark and print. Every number drawn is also in a `<title>` that shows on hover.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from html import escape as escape_html
from statistics import fmean
from typing import NamedTuple

from tessera.reports.text import short, visible

WIDTH, HEIGHT = 400, 230
LEFT, RIGHT, TOP, BOTTOM = 50, 10, 22, 34
MOST_POINTS = 240
FEWEST_TO_SMOOTH = 8
COLOURS = 6
BAR, GAP = 26, 10
CHARACTER = 7.0  # the width of one in a label, in drawing units


class Point(NamedTuple):
    """A value `y` at step `x`, with its interval where it has one."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None


Segment = tuple[Point, ...]


@dataclass(frozen=True)
class Series:
    """A named line, broken between its segments; with `marks`, points with intervals instead. Intervals of a line are
    drawn as a band."""

    name: str
    segments: tuple[Segment, ...]
    marks: bool = False

    @property
    def points(self) -> list[Point]:
        """All points, in order."""
        return [point for segment in self.segments for point in segment]

    def thinned(self) -> Series:
        """At most MOST_POINTS points: each the mean of as many neighbours. Marks are never thinned."""
        size = 1 if self.marks else max(1, math.ceil(len(self.points) / MOST_POINTS))
        return Series(self.name, tuple(thin(segment, size) for segment in self.segments), self.marks)


@dataclass(frozen=True)
class Chart:
    """One drawing: the series over steps 0 to `last`, with the steps at which a stage starts."""

    title: str
    unit: str
    series: tuple[Series, ...]
    last: float
    stages: tuple[tuple[float, str], ...] = ()
    from_zero: bool = False

    def value(self, y: float) -> str:
        """`y` with its unit, for people."""
        return f"{short(y * 100)} %" if self.unit == "%" else f"{short(y)} {self.unit}".strip()


def ticks(low: float, high: float, count: int = 5, least: float = 0.0) -> list[float]:
    """Round numbers within [low, high], about `count` of them, no closer than `least`."""
    rough = max((high - low) / count, least, 1e-300)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough * (1 - 1e-9))
    step = max(step, math.ceil(step)) if least >= 1 else step
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [index * step for index in range(first, last + 1)]


def thin(points: Segment, size: int) -> Segment:
    """The means of every `size` neighbours, and of their intervals where all have one."""
    parts = [points[i : i + size] for i in range(0, len(points), size)]
    return tuple(points) if size <= 1 else tuple(map(_middle, parts))


def _middle(points: Segment) -> Point:
    lows, highs = [p.low for p in points if p.low is not None], [p.high for p in points if p.high is not None]
    banded = len(lows) == len(highs) == len(points)
    between = (fmean(lows), fmean(highs)) if banded else (None, None)
    return Point(fmean(p.x for p in points), fmean(p.y for p in points), *between)


def smooth(points: Segment) -> Segment:
    """The centred moving average over about an eighth of the points."""
    reach = max(1, len(points) // 16)
    return tuple(
        Point(point.x, fmean(p.y for p in points[max(0, i - reach) : i + reach + 1])) for i, point in enumerate(points)
    )


class _Scale:
    """From steps and values to drawing units."""

    def __init__(self, chart: Chart) -> None:
        points = [point for series in chart.series for point in series.points]
        ends = [end for p in points for end in (p.y, p.low, p.high) if end is not None]
        low, high = min(ends), max(ends)
        if chart.from_zero:
            low, high = min(low, 0.0), max(high, 0.0)
        pad = 0.06 * (high - low) or 0.1 * abs(high) or 0.5
        self.low = low if chart.from_zero and low == 0 else low - pad
        self.high = high + pad
        if chart.unit == "%":  # shares stay in 0..1
            self.low, self.high = max(self.low, min(low, 0.0)), min(self.high, max(high, 1.0))
        self.last = max(chart.last, 1.0)

    def x(self, step: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * step / self.last

    def y(self, value: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (self.high - value) / (self.high - self.low)


def line_chart(chart: Chart, ident: str) -> str:
    """Draw `chart`, whose series hold at least one point. `ident` is unique in the page."""
    series = tuple(one.thinned() for one in chart.series)
    scale = _Scale(replace(chart, series=series))
    body = [*_axes(chart, scale), *_stages(chart, scale)]
    for index, one in enumerate(series):
        index %= COLOURS
        body += _marks(one, index, scale) if one.marks else _lines(one, index, scale)
    body += _hover(chart, series, scale)
    return _svg(ident, chart.title, _description(chart), HEIGHT, body)


def bar_chart(title: str, rows: Sequence[tuple[str, Sequence[tuple[str, float]]]], ident: str) -> str:
    """Stacked bars of seconds, one a row of (label, [(part, seconds)]), all to the same scale."""
    longest = max(sum(value for _, value in parts) for _, parts in rows) or 1.0
    body: list[str] = []
    for index, (label, parts) in enumerate(rows):
        top = index * (BAR + GAP + 16)
        total = sum(value for _, value in parts)
        body.append(_text(0, top + 12, f"{label}: {short(total, 3)} s a step"))
        body += _bar(parts, total, WIDTH / longest, top + 18)
    description = "; ".join(f"{label}: " + ", ".join(f"{n} {short(v, 3)} s" for n, v in parts) for label, parts in rows)
    return _svg(ident, title, description, len(rows) * (BAR + GAP + 16), body)


def _bar(parts: Sequence[tuple[str, float]], total: float, unit: float, top: float) -> list[str]:
    drawn, left = [], 0.0
    for index, (name, value) in enumerate(parts):
        width, share = value * unit, value / total if total else 0.0
        title = escape(f"{name}: {short(value, 3)} s, {share:.0%}")
        drawn.append(
            f'<rect class="fill c{index}" x="{left:.1f}" y="{top:.1f}" width="{width:.1f}" height="{BAR}">'
            f"<title>{title}</title></rect>"
        )
        if width > 36:
            drawn.append(_text(left + width / 2, top + BAR / 2 + 4, f"{share:.0%}", "middle inside"))
        left += width
    return drawn


def _axes(chart: Chart, scale: _Scale) -> Iterable[str]:
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    factor = 100 if chart.unit == "%" else 1
    for value in ticks(scale.low * factor, scale.high * factor):
        y = scale.y(value / factor)
        yield f'<line class="grid" x1="{LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>'
        yield _text(LEFT - 6, y + 4, short(value, 6) + ("%" if factor == 100 else ""), "end")
    for step in ticks(0, scale.last, least=1):
        x = scale.x(step)
        yield f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{bottom}" y2="{bottom + 4}"/>'
        yield _text(x, bottom + 16, short(step, 6), "middle")
    yield f'<line class="axis" x1="{LEFT}" x2="{right}" y1="{bottom}" y2="{bottom}"/>'
    yield _text(right, HEIGHT - 3, "step", "end")


def _stages(chart: Chart, scale: _Scale) -> Iterable[str]:
    starts = [*(start for start, _ in chart.stages), scale.last]
    for index, (start, name) in enumerate(chart.stages):
        x = scale.x(start)
        room = int((scale.x(starts[index + 1]) - x - 6) / CHARACTER)
        if index:
            yield f'<line class="stage" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP - 12}" y2="{HEIGHT - BOTTOM}"/>'
        if room >= 2:
            yield _text(x + 4, TOP - 5, name if len(name) <= room else name[: room - 1] + "…")


def _lines(series: Series, index: int, scale: _Scale) -> Iterable[str]:
    for segment in series.segments:
        yield from _band(segment, index, scale)
        smoothed = len(segment) >= FEWEST_TO_SMOOTH
        yield _path(segment, f"line c{index}" + (" raw" if smoothed else ""), scale)
        if smoothed:
            yield _path(smooth(segment), f"line c{index}", scale)
        if len(segment) == 1:
            yield _dot(segment[0], index, scale)


def _band(points: Segment, index: int, scale: _Scale) -> Iterable[str]:
    """The area between the lows and the highs of a line's points, where it has them."""
    ends = [(scale.x(p.x), p.low, p.high) for p in points if p.low is not None and p.high is not None]
    if len(ends) > 1:
        above = [f"{x:.1f},{scale.y(high):.1f}" for x, _, high in ends]
        below = [f"{x:.1f},{scale.y(low):.1f}" for x, low, _ in reversed(ends)]
        yield f'<polygon class="band c{index}" points="{" ".join((*above, *below))}"/>'


def _marks(series: Series, index: int, scale: _Scale) -> Iterable[str]:
    for point in series.points:
        if point.low is not None and point.high is not None:
            x, top, bottom = scale.x(point.x), scale.y(point.high), scale.y(point.low)
            ends = f"M{x - 3:.1f} {top:.1f}h6M{x:.1f} {top:.1f}V{bottom:.1f}M{x - 3:.1f} {bottom:.1f}h6"
            yield f'<path class="whisker c{index}" d="{ends}"/>'
        yield _dot(point, index, scale)


def _dot(point: Point, index: int, scale: _Scale) -> str:
    return f'<circle class="dot c{index}" cx="{scale.x(point.x):.1f}" cy="{scale.y(point.y):.1f}" r="3.5"/>'


def _path(points: Segment, kind: str, scale: _Scale) -> str:
    steps = " ".join(f"{scale.x(p.x):.1f},{scale.y(p.y):.1f}" for p in points)
    return f'<polyline class="{kind}" points="{steps}"/>'


def _hover(chart: Chart, series: Sequence[Series], scale: _Scale) -> Iterable[str]:
    """An invisible column for each step with data, whose title says what is there."""
    told: dict[float, list[str]] = {}
    for one in series:
        for p in one.points:
            interval = "" if p.low is None or p.high is None else f" [{chart.value(p.low)}, {chart.value(p.high)}]"
            told.setdefault(p.x, []).append(f"{one.name}: {chart.value(p.y)}{interval}")
    steps = sorted(told)
    for index, step in enumerate(steps):
        left = scale.x((steps[index - 1] + step) / 2 if index else step) - (0 if index else 4)
        right = scale.x((steps[index + 1] + step) / 2) if index + 1 < len(steps) else scale.x(step) + 4
        title = escape("\n".join([f"step {short(step, 6)}", *told[step]]))
        yield (
            f'<rect class="hover" x="{left:.1f}" y="{TOP}" width="{right - left:.1f}" height="{HEIGHT - TOP - BOTTOM}">'
            f"<title>{title}</title></rect>"
        )


def _description(chart: Chart) -> str:
    said = []
    for series in (one for one in chart.series if one.points):
        points = series.points
        values = [p.y for p in points]
        said.append(
            f"{series.name}: {chart.value(values[0])} at step {short(points[0].x, 6)}, "
            f"{chart.value(values[-1])} at step {short(points[-1].x, 6)}, "
            f"lowest {chart.value(min(values))}, highest {chart.value(max(values))}"
        )
    return "; ".join(said)


def escape(text: str) -> str:
    """Text that is safe between tags, whatever a stage or a split is called."""
    return escape_html(visible(text))


def _text(x: float, y: float, text: str, kind: str = "start") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}">{escape(text)}</text>'


def _svg(ident: str, title: str, description: str, height: float, body: Iterable[str]) -> str:
    return (
        f'<svg role="img" viewBox="0 0 {WIDTH} {height}" aria-labelledby="{ident}-title {ident}-desc">'
        f'<title id="{ident}-title">{escape(title)}</title><desc id="{ident}-desc">{escape(description)}</desc>'
        + "".join(body)
        + "</svg>"
    )
