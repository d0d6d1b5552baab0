"""One figure of a sweep: two metrics against each other, a line along the setting that was swept."""

from __future__ import annotations

import io
from collections import defaultdict
from typing import Any

from suite.errors import UserError, nearest
from suite.report.collect import Sweep
from suite.report.words import heading, setting

GREY = "#808080"  # readable on the light and on the dark page
MOST_LABELS, MOST_SERIES = 40, 12  # beyond these, text covers the points
STYLE: dict[Any, Any] = {
    "svg.hashsalt": "report",  # else ids are random and the page differs from one build to the next
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "text.color": GREY,
    "axes.edgecolor": GREY,
    "axes.labelcolor": GREY,
    "xtick.color": GREY,
    "ytick.color": GREY,
}


def swept_number(sweep: Sweep) -> str | None:
    """The setting with the most numeric values, or None if none has two."""
    counts = {
        name: len(set(values))
        for name, values in sweep.settings.items()
        if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    }
    best = max(counts, key=lambda name: counts[name], default=None)
    return best if best and counts[best] > 1 else None


def plot(sweep: Sweep, axes: tuple[str, str] | None = None) -> str | None:
    """SVG markup of metric `axes[0]` (x) against `axes[1]` (y), with intervals.

    Args:
        sweep: one point a job that has both; one line for each combination of the settings that are not swept.
        axes: by default the first two headline metrics that two jobs have.

    Returns:
        None without a swept number, or without two metrics when none were asked for.

    Raises:
        UserError: an axis names no metric.
    """
    for name in axes or ():
        if name not in sweep.metrics:
            raise UserError(f"There is no metric {name} in {sweep.folder}.{nearest(name, sweep.metrics)}")
    swept = swept_number(sweep)
    names = axes or tuple(name for name in sweep.headline if sum(_has(job.record, name) for job in sweep.jobs) > 1)[:2]
    if swept is None or len(names) < 2:
        return None

    series: dict[str, list[tuple[Any, dict[str, Any]]]] = defaultdict(list)
    for position, job in enumerate(sweep.jobs):
        if all(_has(job.record, name) for name in names):
            others = {name: values[position] for name, values in sweep.settings.items() if name != swept}
            label = ", ".join(f"{name}={setting(value)}" for name, value in others.items())
            series[label].append((sweep.settings[swept][position], job.record["metrics"]))
    return _draw(series, swept, (names[0], names[1]), (heading(names[0], sweep), heading(names[1], sweep)))


def _draw(
    series: dict[str, list[tuple[Any, dict[str, Any]]]], swept: str, names: tuple[str, str], titles: tuple[str, str]
) -> str:
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7, 4.2), layout="constrained")
        axis = figure.subplots()
        labelled = sum(map(len, series.values())) <= MOST_LABELS
        for label, points in series.items():
            points.sort(key=lambda point: point[0])
            x, y = ([metrics[name]["value"] for _, metrics in points] for name in names)
            x_bars, y_bars = (_bars([metrics[name] for _, metrics in points]) for name in names)
            axis.errorbar(x, y, xerr=x_bars, yerr=y_bars, marker="o", markersize=4, linewidth=1, label=label or None)
            for (value, _), at in zip(points, zip(x, y, strict=True), strict=True) if labelled else ():
                axis.annotate(f"{value:g}", at, xytext=(4, 4), textcoords="offset points", fontsize=8)
        axis.set(xlabel=titles[0], ylabel=titles[1])
        axis.set_title(f"along {swept}; bars are 95 % intervals", fontsize=9)
        if any(series) and len(series) <= MOST_SERIES:
            figure.legend(loc="outside right upper", fontsize=8, framealpha=0)
        svg = io.StringIO()
        figure.savefig(svg, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return svg.getvalue()[svg.getvalue().index("<svg") :]


def _bars(metrics: list[dict[str, Any]]) -> list[list[float]]:
    """Distances down and up, (2, points). An interval of a skewed statistic may leave its value outside."""
    intervals = [metric["ci95"] or (metric["value"], metric["value"]) for metric in metrics]
    values = [metric["value"] for metric in metrics]
    down = [max(0.0, value - low) for value, (low, _) in zip(values, intervals, strict=True)]
    up = [max(0.0, high - value) for value, (_, high) in zip(values, intervals, strict=True)]
    return [down, up]


def _has(record: dict[str, Any], name: str) -> bool:
    return name in record["metrics"] and record["metrics"][name]["value"] is not None
