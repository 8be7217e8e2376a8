"""Charts: marks lie where the data say, whatever the data are."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.report import charts
from penstock.report.charts import Dot, Series

Parse = Callable[[str], Any]
FINITE = st.floats(-1e12, 1e12, allow_nan=False, allow_infinity=False)
NUMBER = re.compile(r"-?\d+(?:\.\d+)?")


def wrapped(svg: str) -> str:
    return f"<body>{svg}</body>"


def coordinates(path: str) -> list[float]:
    return [float(text) for text in NUMBER.findall(path)]


def test_a_curve_runs_from_corner_to_corner(parse: Parse) -> None:
    svg = charts.lines([Series("a", [(0, 0), (1, 1)], "cv")], x="x", y="y", alternative="told")
    (path,) = parse(wrapped(svg)).all("path")
    assert path.attributes["d"] == "M56 224L340 10"
    assert path.attributes["class"] == "line cv"


def test_points_that_fall_together_are_drawn_once(parse: Parse) -> None:
    points = [(0.0, 0.0), (0.00001, 0.00001), (1.0, 1.0)]
    svg = charts.lines([Series("a", points, "cv")], x="x", y="y", alternative="told")
    assert parse(wrapped(svg)).all("path")[0].attributes["d"].count("L") == 1


@given(st.lists(st.tuples(FINITE, FINITE), max_size=20))
def test_no_point_lies_outside(points: list[tuple[float, float]]) -> None:
    svg = charts.scatter([Series("a", points, "cv")], x="x", y="y", alternative="t", reference="diagonal")
    path = re.search(r'<path d="([^"]*)"', svg)
    assert path
    values = [float(text) for step in path[1].split("h0") if step for text in step[1:].split()]
    assert all(55.9 <= x <= 340.1 for x in values[::2])
    assert all(9.9 <= y <= 224.1 for y in values[1::2])
    assert "nan" not in svg


@given(st.lists(st.tuples(FINITE, st.floats(0, 1e6)), min_size=1, max_size=8))
def test_dots_keep_their_order(rows: list[tuple[float, float]]) -> None:
    dots = [Dot("r", value, value - half, value + half) for value, half in rows]
    svg = charts.dots(dots, axis="a", alternative="t")
    drawn = [float(text) for text in re.findall(r'<circle cx="([^"]+)"', svg)]
    assert len(drawn) == len(rows)
    for (left, _), x in zip(rows, drawn, strict=True):
        assert all(x <= other + 0.1 for (right, _), other in zip(rows, drawn, strict=True) if left <= right)


def test_rows_without_a_value_keep_their_label(parse: Parse) -> None:
    page = parse(wrapped(charts.dots([Dot("known", 1.0), Dot("unknown", None)], axis="a", alternative="t")))
    assert {"known", "unknown"} <= {text.text for text in page.all("text")}
    assert len(page.all("circle")) == 1
    assert not parse(wrapped(charts.bars([Dot("unknown", None)], axis="a", alternative="t"))).all("rect")


def test_bars_start_at_zero(parse: Parse) -> None:
    page = parse(wrapped(charts.bars([Dot("a", 2.0), Dot("b", -1.0)], axis="a", alternative="t")))
    first, second = (bar.attributes for bar in page.all("rect"))
    assert float(second["x"]) + float(second["width"]) == pytest.approx(float(first["x"]), abs=0.2)
    assert float(first["width"]) / float(second["width"]) == pytest.approx(2, abs=0.01)


def test_histogram_shows_the_smallest_count_and_no_empty_one(parse: Parse) -> None:
    (path,) = parse(wrapped(charts.histogram([1000, 1, 0], "told"))).all("path")
    heights = [-float(height) for height in re.findall(r"v(-?[\d.]+)", path.attributes["d"])]
    assert heights == [28.0, 1.0, 0.0]


def test_heat_map_is_a_triangle_with_every_value_told(parse: Parse) -> None:
    page = parse(wrapped(charts.heat_map(["a", "b"], [[1.0, -0.5], [-0.5, None]], alternative="told")))
    assert [cell.attributes["class"] for cell in page.all("rect")] == ["positive", "negative", "unknown"]
    assert [title.text for title in page.all("title")] == ["a, a: 1", "b, a: −0.5", "b, b: –"]
    assert page.all("rect")[1].attributes["fill-opacity"] == "0.50"


@given(st.lists(st.tuples(st.integers(0, 99), st.integers(-(10**6), 10**6)), min_size=1, max_size=20))
def test_trends_fill_axes_that_fit_them(points: list[tuple[int, int]]) -> None:
    series = [Series("a", [(float(x), y / 1000) for x, y in points], "k1")]
    path = re.search(r'<path d="M([^"]*)"', charts.trends(series, x="epoch", y="loss", alternative="t"))
    assert path
    drawn = [[float(text) for text in step.split()] for step in path[1].split("L")]
    for axis, start, end in ((0, 56, 340), (1, 10, 224)):
        marks = [point[axis] for point in drawn]
        assert start <= min(marks) <= max(marks) <= end
        varies = len({point[axis] for point in points}) > 1
        assert max(marks) - min(marks) == pytest.approx((end - start) / 1.08 if varies else 0, abs=0.2)


def test_confusions_stand_out_from_what_is_right(parse: Parse) -> None:
    page = parse(wrapped(charts.confusion(["a", "b"], [[3, 1], [0, 0]], alternative="told")))
    ground, right, wrong = (one.attributes for one in page.all("rect"))
    assert ground["class"] == "unknown"
    assert (right["class"], wrong["class"]) == ("positive", "negative")
    assert (right["fill-opacity"], wrong["fill-opacity"]) == ("0.87", "0.50")
    assert float(wrong["x"]) > float(right["x"])
    assert wrong["y"] == right["y"]
    assert [one.text for one in page.all("title")] == ["a taken for a: 3 of 4", "a taken for b: 1 of 4"]


def test_confusions_of_many_classes_have_no_names(parse: Parse) -> None:
    names = [f"c{number}" for number in range(60)]
    counts = [[int(i == j) for j in range(60)] for i in range(60)]
    page = parse(wrapped(charts.confusion(names, counts, alternative="told")))
    assert not page.all("text")
    assert len(page.all("rect")) == 61


def test_texts_are_escaped(parse: Parse, hostile: str) -> None:
    drawn = [
        charts.lines([Series(hostile, [(0, 0)], "cv")], x=hostile, y=hostile, alternative=hostile),
        charts.bars([Dot(hostile, 1.0)], axis=hostile, alternative=hostile),
        charts.heat_map([hostile], [[1.0]], alternative=hostile),
        charts.histogram([1], hostile),
        charts.confusion([hostile], [[1]], alternative=hostile),
        charts.trends([Series(hostile, [(0, 0)], "cv")], x=hostile, y=hostile, alternative=hostile),
    ]
    for svg in drawn:
        page = parse(wrapped(svg))
        assert not page.all("script")
        assert page.all("svg")[0].attributes["aria-label"] == hostile
