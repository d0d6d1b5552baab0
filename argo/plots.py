"""Graph 1.A, Graph 1.B and accuracy against cost, as SVG files with the same bytes for the same numbers.

Colours are Okabe and Ito's ("Color universal design", 2008), told apart by the colour-blind; each strategy also has a
dash and a marker of its own, so that print in grey is enough.
"""

from __future__ import annotations

import io
import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from argo.curves import ALIKE_AT_ANY_COST, Point
from argo.summary import Summary
from suite.records.store import write_atomic
from suite.report.plot import GREY, STYLE

LOOK: defaultdict[str, tuple[str, str, Any]] = defaultdict(
    lambda: ("#000000", "*", (0, (2, 2))),
    {
        "argo": ("#0072b2", "o", "-"),
        "always_retrieve": ("#d55e00", "s", "--"),
        "always_reason": ("#009e73", "^", "-."),
        "random": ("#cc79a7", "D", ":"),
        "fixed_k": ("#e69f00", "v", (0, (5, 1, 1, 1, 1, 1))),
        "confidence": ("#56b4e9", "P", (0, (3, 1))),
        "difficulty": ("#a6761d", "X", (0, (1, 1))),
    },
)
"""Strategy -> colour, marker, dash; one that was added to the suite's is black."""
RATIO = "cost of a retrieval, in steps of reasoning (c_r / c_p)"
HOLLOW = "bands, bars: 95 %, the same resamples for all; hollow: same policy as the point before"
Band = tuple[float, float] | None


def draw(folder: Path, summary: Summary, facts: Mapping[str, Any], *, suffix: str = "") -> None:
    """Write graph_1a.svg, graph_1b.svg and graph_cost.svg into `folder`, which need not exist yet; of finite costs.

    Args:
        folder: where to.
        summary: of the grid.
        facts: of the record: `baselines` (name -> accuracy) are dashed lines, `breakpoints` (cost ratios at which the
            optimal policy changes) thin marks.
        suffix: of the file names, before `.svg`.
    """
    import matplotlib as mpl

    folder.mkdir(exist_ok=True)
    lines: dict[str, list[Point]] = {}
    for point in summary.points.values():
        if math.isfinite(point.cell.cost_ratio):  # an infinite one has no place on an axis
            lines.setdefault(point.cell.strategy, []).append(point)
    if not lines:
        return
    with mpl.rc_context({**STYLE, "svg.hashsalt": "argo"}):
        _write(folder / f"graph_1a{suffix}.svg", _graph_1a(lines, facts))
        _write(folder / f"graph_1b{suffix}.svg", _graph_1b(lines, facts))
        _write(folder / f"graph_cost{suffix}.svg", _graph_cost(lines, facts))


def _graph_1a(lines: Mapping[str, Sequence[Point]], facts: Mapping[str, Any]) -> Any:
    figure, axis = _figure("Graph 1.A: accuracy", RATIO, "accuracy")
    _along_ratio(axis, lines, lambda point: (_value(point, "accuracy"), point.band))
    _baselines(axis, facts)
    _breakpoints(axis, lines, facts)
    return _with_legend(figure, axis)


def _graph_1b(lines: Mapping[str, Sequence[Point]], facts: Mapping[str, Any]) -> Any:
    figure, axis = _figure("Graph 1.B: retrievals", RATIO, "retrieval calls a question")
    _along_ratio(axis, lines, lambda point: (_value(point, "retrievals"), point.metrics["retrievals"].ci95))
    _breakpoints(axis, lines, facts)
    return _with_legend(figure, axis)


def _along_ratio(axis: Any, lines: Mapping[str, Sequence[Point]], value: Callable[[Point], tuple[float, Band]]) -> None:
    """ARGO with a band; the others, which are flat, with a bar beside their last point."""
    every = [point.cell.cost_ratio for line in lines.values() for point in line]
    beside = max(every)
    for strategy, line in lines.items():
        ratios = [point.cell.cost_ratio for point in line]
        heights, bands = zip(*map(value, line), strict=True)
        _line(axis, strategy, line, ratios, heights)
        low, high = _edges(heights, bands)
        if strategy in ALIKE_AT_ANY_COST:
            beside += 0.02 * (max(every) - min(every) or 1.0)
            axis.vlines([beside], low[-1:], high[-1:], color=LOOK[strategy][0], linewidth=1.5)
        elif len(line) > 1:
            axis.fill_between(ratios, low, high, color=LOOK[strategy][0], alpha=0.18, linewidth=0)


def _graph_cost(lines: Mapping[str, Sequence[Point]], facts: Mapping[str, Any]) -> Any:
    """Up and left is better; along a line the price of a retrieval grows, which the small numbers tell."""
    figure, axis = _figure("Accuracy against cost; small numbers: c_r / c_p", "cost of a question", "accuracy")
    for strategy, line in lines.items():
        costs, heights = [_value(p, "cost") for p in line], [_value(p, "accuracy") for p in line]
        _line(axis, strategy, line, costs, heights)
        low, high = _edges(heights, [p.band for p in line])
        bars = slice(None) if strategy == "argo" else slice(1)
        axis.vlines(costs[bars], low[bars], high[bars], color=LOOK[strategy][0], linewidth=1, alpha=0.7)
        spots: dict[tuple[float, float], list[str]] = {}
        for point, cost, height in zip(line, costs, heights, strict=True) if strategy == "argo" else ():
            spots.setdefault((round(cost, 9), height), []).append(f"{point.cell.cost_ratio:g}")
        for spot, ratios in spots.items():
            axis.annotate(", ".join(ratios), spot, xytext=(4, 5), textcoords="offset points", fontsize=7)
    _baselines(axis, facts)
    return _with_legend(figure, axis)


def _line(axis: Any, strategy: str, line: Sequence[Point], x: Sequence[float], y: Sequence[float]) -> None:
    """One strategy, its marker filled where its policy is new."""
    colour, marker, dash = LOOK[strategy]
    width, above = (2.2, 3) if strategy == "argo" else (1.3, 2)
    fresh = [i == 0 or line[i - 1].policy != point.policy for i, point in enumerate(line)]
    axis.plot(x, y, linestyle=dash, color=colour, linewidth=width, zorder=above)
    for new, face in ((True, colour), (False, "none")):
        chosen = [i for i, is_new in enumerate(fresh) if is_new == new]
        spots = [x[i] for i in chosen], [y[i] for i in chosen]
        axis.plot(*spots, marker, color=colour, markerfacecolor=face, markersize=5, zorder=above + 2)
    axis.plot([], [], linestyle=dash, marker=marker, color=colour, markersize=5, linewidth=width, label=strategy)


def _edges(heights: Sequence[float], bands: Sequence[Band]) -> tuple[list[float], list[float]]:
    """Where intervals begin and end; at the value where there is none."""
    known = [(height, height) if band is None else band for height, band in zip(heights, bands, strict=True)]
    return [low for low, _ in known], [high for _, high in known]


def _baselines(axis: Any, facts: Mapping[str, Any]) -> None:
    """Dashed lines from side to side, each with its name; the names side by side, as the lines may lie close."""
    named: dict[float, list[str]] = {}
    for name, height in facts.get("baselines", {}).items():
        named.setdefault(height, []).append(name.replace("_", " "))
    for number, (height, names) in enumerate(named.items()):
        axis.axhline(height, color=GREY, linestyle="--", linewidth=0.8, zorder=1)
        at, text = 0.995 - 0.25 * number, f"{', '.join(names)} {height:.2f}"
        axis.text(at, height, text, transform=axis.get_yaxis_transform(), ha="right", va="bottom", size=7)


def _breakpoints(axis: Any, lines: Mapping[str, Sequence[Point]], facts: Mapping[str, Any]) -> None:
    """Thin marks where the optimal policy changes, as far as the axis goes."""
    ratios = [point.cell.cost_ratio for line in lines.values() for point in line]
    inside = [ratio for ratio in facts.get("breakpoints", ()) if min(ratios) <= ratio <= max(ratios)]
    for number, ratio in enumerate(inside):
        label = "ARGO's policy changes" if number == 0 else None
        axis.axvline(ratio, color=GREY, linestyle="-", linewidth=0.5, alpha=0.6, zorder=1, label=label)


def _figure(title: str, x: str, y: str) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.4, 4.2), layout="constrained")
    axis = figure.subplots()
    axis.set(xlabel=x, ylabel=y)
    axis.set_title(f"{title}\n{HOLLOW}", fontsize=7.5)
    axis.spines[["top", "right"]].set_visible(False)
    return figure, axis


def _with_legend(figure: Any, axis: Any) -> Any:
    figure.legend(*axis.get_legend_handles_labels(), loc="outside right upper", fontsize=8, framealpha=0)
    return figure


def _value(point: Point, name: str) -> float:
    value = point.metrics[name].value
    assert value is not None  # a mean of at least one question
    return value


def _write(path: Path, figure: Any) -> None:
    svg = io.StringIO()
    figure.savefig(svg, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    write_atomic(path, svg.getvalue())
