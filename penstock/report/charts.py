"""Charts as inline SVG, drawn by hand.

vl-convert was measured first: it needs 0.37 s for its first chart (it starts V8), 25 ms and 11 kB for every
further one, and its colours are fixed. A page of 80 columns would take 2.4 s. These few functions draw such
a page in milliseconds, and leave colours to the page's style sheet, so that they follow light, dark and print.

Every chart is 360 units wide, a phone's width, so that its text is never scaled below its size. Every chart
has a text alternative. Texts and attributes are escaped: names and categories come from data.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from penstock.report.wording import number, percent

__all__ = [
    "Dot",
    "Series",
    "bars",
    "confusion",
    "dots",
    "heat_map",
    "histogram",
    "lines",
    "scatter",
    "trends",
]

Point = tuple[float, float]

WIDTH = 360.0
HEIGHT = 264.0
LEFT, RIGHT, TOP, BOTTOM = 56.0, 20.0, 10.0, 40.0
ROW = 22.0
LABEL = 136.0  # of dots and bars: what is left of their axis
LETTERS = 18  # of an 11-unit letter in LABEL
WORTH_A_NUMBER = 0.1  # correlation written into its cell
FULL = 0.6  # correlation on whose colour a number needs the paper's


@dataclass(frozen=True)
class Series:
    """Points of one colour.

    Attributes:
        label: In the legend.
        points: (x, y) in the order in which a line joins them.
        style: A class of the style sheet, which gives colour and dashes.
        marked: Whether a line's points are marked.
    """

    label: str
    points: Sequence[Point]
    style: str
    marked: bool = False


@dataclass(frozen=True)
class Dot:
    """A value with an interval (``low`` and ``high`` may be None) in a row of its own."""

    label: str
    value: float | None
    low: float | None = None
    high: float | None = None
    marked: bool = False


def _element(tag: str, *children: Markup, text: str = "", **attributes: object) -> Markup:
    """An element; ``_`` in an attribute's name stands for ``-``, a leading one is dropped (``_class``)."""
    given = "".join(
        f' {name.lstrip("_").replace("_", "-")}="{escape(_plain(value))}"'
        for name, value in attributes.items()
        if value is not None
    )
    # Everything that goes in is escaped above or is Markup that was made here.
    return Markup(f"<{tag}{given}>{escape(text)}{''.join(children)}</{tag}>")  # noqa: S704


def _plain(value: object) -> str:
    """One decimal is a tenth of a pixel."""
    if not isinstance(value, float):
        return str(value)
    return "0" if abs(value) < 0.05 else f"{value:.1f}".removesuffix(".0")


def _svg(width: float, height: float, alternative: str, *children: Markup, style: str = "chart") -> Markup:
    return _element(
        "svg",
        *children,
        _class=style,
        viewBox=f"0 0 {_plain(width)} {_plain(height)}",
        width=width,
        height=height,
        role="img",
        aria_label=alternative,
    )


def _text(x: float, y: float, text: str, anchor: str = "start", **attributes: object) -> Markup:
    return _element(
        "text", text=text, x=x, y=y, text_anchor=None if anchor == "start" else anchor, **attributes
    )


def _rule(x1: float, y1: float, x2: float, y2: float, style: str) -> Markup:
    return _element("line", x1=x1, y1=y1, x2=x2, y2=y2, _class=style)


def _shortened(text: str, letters: int) -> str:
    return text if len(text) <= letters else text[: letters - 1] + "…"


# --- scales -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Scale:
    """Maps low … high of the data to start … end of the drawing."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self, about: int) -> list[float]:
        """Multiples of 1, 2 or 5 times a power of ten, some ``about`` of them."""
        raw = (self.high - self.low) / about
        power = 10.0 ** math.floor(math.log10(raw))
        step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * (1 - 1e-9))
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [round(at * step, 12) for at in range(first, last + 1)]


def _scale(values: Iterable[float], start: float, end: float, margin: float = 0.04) -> _Scale:
    finite = [value for value in values if math.isfinite(value)]
    low, high = (min(finite), max(finite)) if finite else (0.0, 1.0)
    room = (high - low) * margin or abs(high) * 0.05 or 1.0
    return _Scale(low - room, high + room, start, end)


def _tick(value: float) -> str:
    size = abs(value)
    for power, letter in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if size >= power:
            unit = 1e3 if letter == "k" else power
            return f"{value / unit:g}{letter}".replace("-", "−")
    return f"{value:.6g}".replace("-", "−")


# --- planes -----------------------------------------------------------------------------------------


def lines(
    series: Sequence[Series],
    *,
    x: str,
    y: str,
    alternative: str,
    reference: Sequence[Point] = (),
) -> Markup:
    """Curves in the unit square, both axes as shares.

    Args:
        series: The first is drawn on top.
        x: Name of the horizontal axis.
        y: Name of the vertical axis.
        alternative: The chart in words.
        reference: A thin line to compare with.
    """
    across, up = _unit_square()
    drawn = [_axes(across, up, x, y, percent)]
    if reference:
        drawn.append(_element("path", d=_path(reference, across, up), _class="reference"))
    for item in reversed(series):
        drawn.append(_element("path", d=_path(item.points, across, up), _class=f"line {item.style}"))
        if item.marked:
            drawn.append(_cloud(item, across, up, "mark"))
    return _svg(WIDTH, HEIGHT, alternative, *drawn)


def _unit_square() -> tuple[_Scale, _Scale]:
    return _Scale(0, 1, LEFT, WIDTH - RIGHT), _Scale(0, 1, HEIGHT - BOTTOM, TOP)


def scatter(
    series: Sequence[Series], *, x: str, y: str, alternative: str, reference: str | None = None
) -> Markup:
    """Clouds of points.

    Args:
        series: The first is drawn on top.
        x: Name of the horizontal axis.
        y: Name of the vertical axis.
        alternative: The chart in words.
        reference: "diagonal" (y = x), "zero" (y = 0) or None.
    """
    points = [point for item in series for point in item.points]
    across = _scale((point[0] for point in points), LEFT, WIDTH - RIGHT)
    up = _scale((point[1] for point in points), HEIGHT - BOTTOM, TOP)
    drawn = [_axes(across, up, x, y, _tick)]
    if reference == "diagonal":
        low, high = max(across.low, up.low), min(across.high, up.high)
        if low < high:
            drawn.append(_rule(across(low), up(low), across(high), up(high), "reference"))
    elif reference == "zero" and up.low < 0 < up.high:
        drawn.append(_rule(across.start, up(0), across.end, up(0), "reference"))
    drawn += [_cloud(item, across, up, "cloud") for item in reversed(series)]
    return _svg(WIDTH, HEIGHT, alternative, *drawn)


def trends(series: Sequence[Series], *, x: str, y: str, alternative: str) -> Markup:
    """Curves on axes that fit them.

    Args:
        series: The first is drawn on top.
        x: Name of the horizontal axis.
        y: Name of the vertical axis.
        alternative: The chart in words.
    """
    points = [point for item in series for point in item.points]
    across = _scale((point[0] for point in points), LEFT, WIDTH - RIGHT)
    up = _scale((point[1] for point in points), HEIGHT - BOTTOM, TOP)
    drawn = [_axes(across, up, x, y, _tick)]
    for item in reversed(series):
        drawn.append(_element("path", d=_path(item.points, across, up), _class=f"line {item.style}"))
        if item.marked:
            drawn.append(_cloud(item, across, up, "mark"))
    return _svg(WIDTH, HEIGHT, alternative, *drawn)


def _axes(across: _Scale, up: _Scale, x: str, y: str, written: Callable[[float], str]) -> Markup:
    drawn = []
    for tick in across.ticks(5):
        drawn.append(_rule(across(tick), up.end, across(tick), up.start, "grid"))
        drawn.append(_text(across(tick), up.start + 15, written(tick), "middle"))
    for tick in up.ticks(5):
        drawn.append(_rule(across.start, up(tick), across.end, up(tick), "grid"))
        drawn.append(_text(across.start - 6, up(tick) + 4, written(tick), "end"))
    middle = (up.start + up.end) / 2
    drawn.append(_text((across.start + across.end) / 2, HEIGHT - 6, x, "middle", _class="axis"))
    drawn.append(_text(10, middle, y, "middle", _class="axis", transform=f"rotate(-90 10 {_plain(middle)})"))
    return _element("g", *drawn)


def _path(points: Iterable[Point], across: _Scale, up: _Scale) -> str:
    steps: list[str] = []
    for x, y in points:
        step = f"{_plain(across(x))} {_plain(up(y))}"
        if not steps or step != steps[-1]:
            steps.append(step)
    return "M" + "L".join(steps) if steps else ""


def _cloud(item: Series, across: _Scale, up: _Scale, kind: str) -> Markup:
    # Strokes of no length with round ends are dots, at a tenth of the size of as many circles.
    steps = "".join(f"M{_plain(across(x))} {_plain(up(y))}h0" for x, y in item.points)
    return _element("path", d=steps, _class=f"{kind} {item.style}")


# --- rows -------------------------------------------------------------------------------------------


def dots(rows: Sequence[Dot], *, axis: str, alternative: str) -> Markup:
    """A dot with its interval for each row.

    The axis covers dots and intervals; a row without a value keeps its label.
    """
    seen = [value for row in rows for value in (row.value, row.low, row.high) if value is not None]
    across = _scale(seen, LABEL, WIDTH - RIGHT)
    bottom = TOP + ROW * len(rows)
    drawn = _row_axis(across, bottom, axis)
    for at, row in enumerate(rows):
        y = TOP + ROW * (at + 0.5)
        drawn.append(_label(row.label, y))
        style = "first" if row.marked else "other"
        if row.low is not None and row.high is not None:
            drawn.append(_rule(across(row.low), y, across(row.high), y, f"whisker {style}"))
        if row.value is not None:
            drawn.append(_element("circle", cx=across(row.value), cy=y, r=4.5, _class=f"dot {style}"))
    return _svg(WIDTH, bottom + BOTTOM, alternative, *drawn)


def bars(rows: Sequence[Dot], *, axis: str, alternative: str) -> Markup:
    """A bar from zero for each row, with a whisker where it has an interval."""
    seen = [value for row in rows for value in (row.value, row.low, row.high) if value is not None]
    room = _scale([0.0, *seen], LABEL, WIDTH - RIGHT)
    across = _Scale(0.0 if min([0.0, *seen]) == 0 else room.low, room.high, room.start, room.end)
    bottom = TOP + ROW * len(rows)
    drawn = _row_axis(across, bottom, axis)
    for at, row in enumerate(rows):
        y = TOP + ROW * (at + 0.5)
        drawn.append(_label(row.label, y))
        if row.value is None:
            continue
        start, end = sorted((across(0), across(row.value)))
        drawn.append(_element("rect", x=start, y=y - 6, width=end - start, height=12.0, _class="bar"))
        if row.low is not None and row.high is not None:
            drawn.append(_rule(across(row.low), y, across(row.high), y, "whisker"))
    return _svg(WIDTH, bottom + BOTTOM, alternative, *drawn)


def _row_axis(across: _Scale, bottom: float, axis: str) -> list[Markup]:
    drawn = []
    for tick in across.ticks(5):
        drawn.append(_rule(across(tick), TOP, across(tick), bottom, "grid"))
        drawn.append(_text(across(tick), bottom + 15, _tick(tick), "middle"))
    drawn.append(_text((across.start + across.end) / 2, bottom + BOTTOM - 6, axis, "middle", _class="axis"))
    return drawn


def _label(text: str, y: float) -> Markup:
    return _text(LABEL - 8, y + 4, _shortened(text, LETTERS), "end")


# --- small ones and large ones ----------------------------------------------------------------------


def histogram(counts: Sequence[int], alternative: str, *, categories: bool = False) -> Markup:
    """Bars without axes, for a cell of a table. ``categories`` sets the bars apart."""
    width, height = 120.0, 28.0
    step = width / max(1, len(counts))
    most = max([1, *counts])
    drawn = []
    for at, count in enumerate(counts):
        # A bar that is there can be seen.
        size = max(1.0, count / most * height) if count else 0.0
        gap = min(2.0, step / 4) if categories else 0.0
        drawn.append(
            f"M{_plain(at * step + gap / 2)} {_plain(height)}v{_plain(-size)}h{_plain(step - gap)}V{_plain(height)}z"
        )
    return _svg(width, height, alternative, _element("path", d="".join(drawn), _class="bar"), style="small")


def heat_map(names: Sequence[str], matrix: Sequence[Sequence[float | None]], *, alternative: str) -> Markup:
    """The lower triangle of a correlation matrix: blue for positive, orange for negative, full at ±1."""
    cell = 24.0 if len(names) <= 16 else 16.0
    left = 8 + 6.2 * max((min(len(name), 24) for name in names), default=0)
    width = left + cell * len(names)
    drawn = []
    for i, name in enumerate(names):
        y = cell * i
        drawn.append(_text(left - 6, y + cell / 2 + 4, _shortened(name, 24), "end"))
        for j in range(i + 1):
            value = matrix[i][j]
            style = "unknown" if value is None else "positive" if value >= 0 else "negative"
            told = _element("title", text=f"{name}, {names[j]}: {number(value, 3)}")
            drawn.append(
                _element(
                    "rect",
                    told,
                    x=left + cell * j,
                    y=y,
                    width=cell - 1,
                    height=cell - 1,
                    _class=style,
                    fill_opacity=None if value is None else f"{abs(value):.2f}",
                )
            )
            if cell > 20 and value is not None and i != j and abs(value) >= WORTH_A_NUMBER:
                style = "cell strong" if abs(value) >= FULL else "cell"
                x = left + cell * (j + 0.5) - 0.5
                drawn.append(_text(x, y + 15, _hundredths(value), "middle", _class=style))
    below = cell * len(names) + 6
    for j, name in enumerate(names):
        x = left + cell * (j + 0.5) + 3
        drawn.append(
            _text(x, below, _shortened(name, 24), "end", transform=f"rotate(-60 {_plain(x)} {_plain(below)})")
        )
    return _svg(width, below + left * 0.87 + 4, alternative, *drawn, style="matrix")


def confusion(names: Sequence[str], counts: Sequence[Sequence[int]], *, alternative: str) -> Markup:
    """Counts of actual (down) and predicted (across): blue where they agree, orange where they do not.

    Colour grows with the square root of the share of the actual class, so that rare errors can be seen.
    """
    cell = 28.0 if len(names) <= 16 else 16.0 if len(names) <= 40 else 8.0
    named = cell > 10
    left = 8 + 6.2 * max((min(len(name), 24) for name in names), default=0) if named else 8.0
    side = cell * len(names)
    drawn = [
        _element(
            "rect", x=left, y=0.0, width=side - 1, height=side - 1, _class="unknown", fill_opacity="0.35"
        )
    ]
    for i, name in enumerate(names):
        y, total = cell * i, sum(counts[i])
        if named:
            drawn.append(_text(left - 6, y + cell / 2 + 4, _shortened(name, 24), "end"))
        for j, count in enumerate(counts[i]):
            if not count:
                continue
            strength = math.sqrt(count / total)
            told = _element("title", text=f"{name} taken for {names[j]}: {count} of {total}")
            drawn.append(
                _element(
                    "rect",
                    told,
                    x=left + cell * j,
                    y=y,
                    width=cell - 1,
                    height=cell - 1,
                    _class="positive" if i == j else "negative",
                    fill_opacity=f"{strength:.2f}",
                )
            )
            if cell > 20:
                style = "cell strong" if strength >= FULL else "cell"
                x = left + cell * (j + 0.5) - 0.5
                drawn.append(_text(x, y + cell / 2 + 3, _tick(float(count)), "middle", _class=style))
    below = side + 6
    for j, name in enumerate(names if named else ()):
        x = left + cell * (j + 0.5) + 3
        drawn.append(
            _text(x, below, _shortened(name, 24), "end", transform=f"rotate(-60 {_plain(x)} {_plain(below)})")
        )
    height = below + left * 0.87 + 4 if named else below
    return _svg(left + side, height, alternative, *drawn, style="matrix")


def _hundredths(value: float) -> str:
    text = f"{value:.2f}".replace("0.", ".", 1) if abs(value) < 0.995 else f"{value:.0f}"
    return text.replace("-", "−")
