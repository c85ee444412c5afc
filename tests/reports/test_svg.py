from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tessera.reports.svg import (
    BOTTOM,
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Chart,
    Point,
    Series,
    bar_chart,
    line_chart,
    smooth,
    thin,
    ticks,
)


def line(*values: float, name: str = "mean", start: int = 1) -> Series:
    return Series(name, (tuple(Point(start + i, value) for i, value in enumerate(values)),))


def draw(*series: Series, unit: str = "", last: float = 10, from_zero: bool = False, stages=()) -> ElementTree.Element:
    return ElementTree.fromstring(line_chart(Chart("Title", unit, series, last, stages, from_zero), "c1"))


def named(root: ElementTree.Element, kind: str) -> list[ElementTree.Element]:
    return [element for element in root if kind in element.get("class", "").split()]


def spots(polyline: ElementTree.Element) -> list[tuple[float, float]]:
    return [tuple(float(n) for n in pair.split(",")) for pair in polyline.get("points", "").split()]


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (0, 11, [0, 2.5, 5, 7.5, 10]),  # 11 / 5 = 2.2, up to 2.5
        (-3, 3, [-2, 0, 2]),  # 6 / 5 = 1.2, up to 2
        (0.0031, 0.0049, [0.0035, 0.004, 0.0045]),  # 0.00036, up to 0.0005
    ],
)
def test_ticks_are_round_and_inside(low: float, high: float, expected: list[float]) -> None:
    assert ticks(low, high) == pytest.approx(expected)


def test_ticks_of_steps_are_whole_numbers() -> None:
    assert ticks(0, 3, least=1) == [0, 1, 2, 3]
    assert ticks(0, 11, least=1) == [0, 3, 6, 9]  # 2.5 would not be a step


@given(st.floats(-1e9, 1e9), st.floats(1e-6, 1e9))
def test_ticks_stay_within_and_are_few(low: float, width: float) -> None:
    found = ticks(low, low + width)
    slack = 1e-6 * max(abs(low), width)
    assert len(found) <= 7
    assert all(low - slack <= tick <= low + width + slack for tick in found)


def test_thinning_takes_means_of_neighbours() -> None:
    points = tuple(Point(x, 10.0 * x) for x in range(5))
    assert thin(points, 2) == (Point(0.5, 5), Point(2.5, 25), Point(4, 40))
    assert thin(points, 1) == points


def test_smoothing_is_a_centred_mean_and_keeps_a_constant() -> None:
    points = tuple(Point(x, y) for x, y in enumerate((0.0, 3.0, 6.0, 0.0)))
    # reach 1: (0+3)/2, (0+3+6)/3, (3+6+0)/3, (6+0)/2
    assert [p.y for p in smooth(points)] == [1.5, 3, 3, 3]
    assert {p.y for p in smooth(tuple(Point(x, 7.0) for x in range(50)))} == {7.0}


def test_points_land_where_the_axes_say() -> None:
    [drawn] = named(draw(line(0.0, 100.0, start=0), last=1, from_zero=True), "line")
    # the axis runs from 0 to 106 (6 % above the highest)
    top = TOP + (HEIGHT - TOP - BOTTOM) * 6 / 106
    assert spots(drawn) == [(LEFT, HEIGHT - BOTTOM), (WIDTH - RIGHT, pytest.approx(top, abs=0.05))]


def test_few_points_are_drawn_bare_and_many_get_their_average() -> None:
    assert [e.get("class") for e in named(draw(line(1, 2, 3)), "line")] == ["line c0"]
    assert [e.get("class") for e in named(draw(line(*range(9))), "line")] == ["line c0 raw", "line c0"]


def test_lines_break_between_segments_and_a_lone_point_is_a_dot() -> None:
    root = draw(Series("x", ((Point(1, 1.0), Point(2, 2.0)), (Point(5, 3.0),))))
    assert len(named(root, "line")) == 2
    assert len(named(root, "dot")) == 1


def test_a_long_run_is_thinned_but_its_description_is_exact() -> None:
    root = draw(line(*(float(i) for i in range(5000))), last=5000)
    raw = named(root, "raw")[0]
    # 5000 / 240 points up to 21 each, so 239 of them
    assert len(spots(raw)) == 239
    heights = [y for _, y in spots(raw)]
    # the axes fit what is drawn: 6 % of the range is left above and below
    assert min(heights) == pytest.approx(TOP + (HEIGHT - TOP - BOTTOM) * 0.06 / 1.12, abs=0.06)
    assert max(heights) == pytest.approx(TOP + (HEIGHT - TOP - BOTTOM) * 1.06 / 1.12, abs=0.06)
    assert "mean: 0 at step 1, 4999 at step 5000, lowest 0, highest 4999" in (root[1].text or "")


def test_shares_stay_between_0_and_1() -> None:
    root = draw(line(0.0, 1.0), unit="%")
    labels = [e.text for e in named(root, "end") if e.text and e.text.endswith("%")]
    assert labels == ["0%", "20%", "40%", "60%", "80%", "100%"]


def test_intervals_hover_and_whiskers() -> None:
    root = draw(Series("test", ((Point(3, 0.5, 0.4, 0.6),),), marks=True), unit="%")
    assert len(named(root, "whisker")) == 1
    assert [e[0].text for e in named(root, "hover")] == ["step 3\ntest: 50 % [40 %, 60 %]"]


def test_a_constant_curve_and_a_curve_of_one_point_have_room() -> None:
    for series in (line(5.0, 5.0, 5.0), line(0.0), line(-2.0)):
        root = draw(series)
        for _, y in [spot for element in named(root, "line") for spot in spots(element)]:
            assert TOP < y < HEIGHT - BOTTOM


def test_stage_boundaries_stand_before_all_but_the_first() -> None:
    root = draw(line(*range(10)), stages=((0.0, "warm-up"), (5.5, "a-stage-with-a-very-long-name-indeed")))
    [boundary] = named(root, "stage")
    # half-way through step 5 and 6 of 10: 50 + 340 * 0.55
    assert float(boundary.get("x1", "")) == pytest.approx(LEFT + (WIDTH - LEFT - RIGHT) * 0.55)
    names = [e.text for e in named(root, "start")]
    assert names[0] == "warm-up"
    assert names[1].startswith("a-stage-with") and names[1].endswith("…")


def test_a_chart_says_its_title_and_content_to_a_screen_reader() -> None:
    root = draw(line(0.25, 0.5))
    assert root.get("role") == "img"
    assert root.get("aria-labelledby") == "c1-title c1-desc"
    assert [(e.tag, e.get("id")) for e in root[:2]] == [("title", "c1-title"), ("desc", "c1-desc")]
    assert root[0].text == "Title"


def test_hostile_names_stay_text() -> None:
    root = draw(line(1, 2, name="</title><script>\x00"), stages=((0.0, "<b>"), (1.5, "&amp;")))
    assert {element.tag for element in root.iter()} <= {"svg", "title", "desc", "line", "text", "polyline", "rect"}
    assert "</title><script>␀: 1 at step 1" in (root[1].text or "")


def test_bars_share_one_scale_and_name_their_parts() -> None:
    text = bar_chart("Time", [("short", [("a", 1.0), ("b", 1.0)]), ("long", [("a", 1.0), ("b", 3.0)])], "t")
    root = ElementTree.fromstring(text)
    widths = [float(e.get("width", "")) for e in named(root, "fill")]
    # the longest, 4 s, is the full width of 400
    assert widths == [100, 100, 100, 300]
    assert [e[0].text for e in named(root, "fill")][2:] == ["a: 1 s, 25%", "b: 3 s, 75%"]
    assert root[1].text == "short: a 1 s, b 1 s; long: a 1 s, b 3 s"
