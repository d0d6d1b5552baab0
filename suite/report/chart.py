"""A chart as SVG markup: points with intervals and hover texts, lines, a front, a legend. It knows no record.

Written here and not by a plotting library, because each point carries its job: a browser can tell it, hide it with its
row, follow it to its run, and recolour it for the dark.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from urllib.parse import quote

from suite.report.words import number

WIDTH, HEIGHT = 420, 290  # small, so that text stays readable on a phone
LEFT, RIGHT, TOP, BOTTOM = 52, 14, 26, 40
GLYPH, LINE = 6.2, 14  # of a text: width of a character, height
MOST_LABELS, MOST_SERIES, COLOURS = 40, 12, 8  # beyond these, text covers the points

Interval = tuple[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One job: where it lies, its 95 % intervals, its hover text, and the word beside it."""

    job: str
    x: float
    y: float
    x_ci: Interval | None = None
    y_ci: Interval | None = None
    title: str
    label: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """Points of one colour and shape, in the order of the line that joins them."""

    label: str
    points: tuple[Point, ...]


class Axis:
    """Values to places: round ticks around all values."""

    def __init__(self, values: Iterable[float], start: float, end: float) -> None:
        found = list(values)
        low, high = min(found), max(found)
        if low == high:
            low, high = low - (abs(low) / 10 or 1), high + (abs(high) / 10 or 1)
        rough = (high - low) / 4
        unit = 10.0 ** math.floor(math.log10(rough))
        step = next(unit * factor for factor in (1, 2, 2.5, 5, 10) if unit * factor >= rough * 0.999)
        first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
        self.ticks = [round(index * step, 12) for index in range(first, last + 1)]
        self.start, self.scale = start, (end - start) / (self.ticks[-1] - self.ticks[0])

    def __call__(self, value: float) -> float:
        """The place of a value, in units of the drawing."""
        return self.start + (value - self.ticks[0]) * self.scale


def chart(
    series: Sequence[Series], *, title: str, x_title: str, y_title: str, front: Sequence[Point] = (), joined: bool
) -> str:
    """SVG markup without a style; `figure.css` has it.

    Args:
        series: one or more, of one or more points each.
        title: above the chart.
        x_title: below it.
        y_title: beside it.
        front: points that a dashed line joins, in order.
        joined: whether a line joins the points of a series.
    """
    points = [point for one in series for point in one.points]
    x = Axis((v for p in points for v in (p.x, *(p.x_ci or ()))), LEFT, WIDTH - RIGHT)
    y = Axis((v for p in points for v in (p.y, *(p.y_ci or ()))), HEIGHT - BOTTOM, TOP)
    legend = [one.label for one in series] if len(series) <= MOST_SERIES and any(one.label for one in series) else []
    height = HEIGHT + LINE * len(legend) - (4 if legend else 0)
    parts = [
        f'<svg class="chart" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="group" '
        f'aria-label="{escape(title)}">',
        _text(LEFT, 15, title, kind="title"),
        *_axes(x, y, x_title, y_title),
        _path(((x(p.x), y(p.y)) for p in front), "front") if len(front) > 1 else "",
    ]
    for index, one in enumerate(series):
        parts.append(f'<g class="s{index % COLOURS}">')
        if joined:
            parts += [_segment(a, b, x, y) for a, b in zip(one.points, one.points[1:], strict=False)]
        parts += [_point(point, x, y, index) for point in one.points]
        parts.append("</g>")
    parts += _labels(points, x, y) if len(points) <= MOST_LABELS else []
    for index, label in enumerate(legend):
        place = HEIGHT + 4 + LINE * index
        parts.append(f'<g class="s{index % COLOURS}">{_shape(LEFT + 4, place - 4, index)}</g>')
        parts.append(_text(LEFT + 14, place, _cut(label, int((WIDTH - LEFT - RIGHT) / GLYPH) - 3)))
    return "".join(parts) + "</svg>"


def _axes(x: Axis, y: Axis, x_title: str, y_title: str) -> list[str]:
    bottom, right, middle = HEIGHT - BOTTOM, WIDTH - RIGHT, (TOP + HEIGHT - BOTTOM) / 2
    parts = []
    for tick in x.ticks:
        parts.append(_path([(x(tick), TOP), (x(tick), bottom)], "grid"))
        parts.append(_text(x(tick), bottom + 14, number(tick), anchor="middle"))
    for tick in y.ticks:
        parts.append(_path([(LEFT, y(tick)), (right, y(tick))], "grid"))
        parts.append(_text(LEFT - 5, y(tick) + 4, number(tick), anchor="end"))
    parts.append(_path([(LEFT, TOP), (LEFT, bottom), (right, bottom)], "axis"))
    parts.append(_text((LEFT + right) / 2, HEIGHT - 10, x_title, anchor="middle"))
    turned = f' transform="rotate(-90 12 {middle:.0f})"'
    return [*parts, _text(12, middle, y_title, anchor="middle", more=turned)]


def _point(point: Point, x: Axis, y: Axis, index: int) -> str:
    """A link to the run, with its hover text; intervals as bars."""
    across, up = x(point.x), y(point.y)
    bars = "" if point.x_ci is None else _path([(x(end), up) for end in point.x_ci], "bar")
    bars += "" if point.y_ci is None else _path([(across, y(end)) for end in point.y_ci], "bar")
    return (
        f'<a data-job="{escape(point.job)}" href="#{anchor(point.job)}" aria-label="{escape(point.title)}">'
        f"<title>{escape(point.title)}</title>{bars}{_shape(across, up, index)}</a>"
    )


def anchor(job: str) -> str:
    """Where the page tells of a job."""
    return f"run-{quote(job)}"


def _segment(a: Point, b: Point, x: Axis, y: Axis) -> str:
    jobs = escape(json.dumps([a.job, b.job]))
    return _path([(x(a.x), y(a.y)), (x(b.x), y(b.y))], "line", more=f' data-jobs="{jobs}"')


def _shape(x: float, y: float, index: int) -> str:
    """Circle, square, diamond and triangle in turn: colour alone does not tell everyone."""
    drawn = (
        f"M{x - 3.5:.1f} {y:.1f}a3.5 3.5 0 1 0 7 0a3.5 3.5 0 1 0 -7 0z",
        f"M{x - 3.2:.1f} {y - 3.2:.1f}h6.4v6.4h-6.4z",
        f"M{x:.1f} {y - 4.4:.1f}l4.4 4.4l-4.4 4.4l-4.4 -4.4z",
        f"M{x:.1f} {y - 4.2:.1f}l4.2 7.4h-8.4z",
    )
    return f'<path class="dot" d="{drawn[index % len(drawn)]}"/>'


def _labels(points: Iterable[Point], x: Axis, y: Axis) -> list[str]:
    """The points' words, but for those that would cover another."""
    taken: list[tuple[float, float, float]] = []
    parts = []
    for point in points:
        wide, up = GLYPH * len(point.label), y(point.y) - 6
        left = x(point.x) + 6
        end = left + wide > WIDTH
        left -= (wide + 12) if end else 0
        if point.label and not any(
            left < stop and left + wide > start and abs(up - at) < LINE for start, stop, at in taken
        ):
            taken.append((left, left + wide, up))
            shown = f' data-job="{escape(point.job)}"'
            parts.append(_text(left, up, point.label, more=shown))
    return parts


def _path(places: Iterable[tuple[float, float]], kind: str, more: str = "") -> str:
    return f'<path class="{kind}" d="M{"L".join(f"{across:.1f} {up:.1f}" for across, up in places)}"{more}/>'


def _text(x: float, y: float, text: str, *, kind: str = "", anchor: str = "", more: str = "") -> str:
    marks = (f' class="{kind}"' if kind else "") + (f' text-anchor="{anchor}"' if anchor else "")
    return f'<text x="{x:.1f}" y="{y:.1f}"{marks}{more}>{escape(text)}</text>'


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"
