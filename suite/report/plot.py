"""What a sweep's charts show: what is gained for what is spent, and each metric along the setting that was swept."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from suite.errors import UserError, nearest
from suite.report.chart import Point, Series, chart
from suite.report.collect import JobRecord, Sweep, by_task
from suite.report.sheet import asset
from suite.report.words import heading, less_is_better, metric_text, setting

GREY = "#808080"  # readable on the light and on the dark page
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
"""Of the figures that the studies draw with matplotlib."""
MOST_LINES = 4
"""Charts along the swept setting."""


def swept_number(sweep: Sweep) -> str | None:
    """The setting with the most numeric values, or None if none has two."""
    counts = {
        name: len(set(values))
        for name, values in sweep.settings.items()
        if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    }
    best = max(counts, key=lambda name: counts[name], default=None)
    return best if best and counts[best] > 1 else None


def figure(sweep: Sweep, axes: tuple[str, str] | None = None) -> str | None:
    """The first of `charts` as a file of its own; None if there is none.

    Raises:
        UserError: an axis names no metric.
    """
    found = charts(sweep, axes)
    return found[0].replace(">", f"><style>{asset('figure.css')}</style>", 1) + "\n" if found else None


def charts(sweep: Sweep, axes: tuple[str, str] | None = None) -> list[str]:
    """SVG markup, study by study: the trade-off of two metrics, then up to `MOST_LINES` metrics along what was swept.

    Args:
        sweep: jobs without a value of a metric are left out of its chart.
        axes: metrics (x, y) of the trade-off. By default x is the first headline metric of which less is better (a cost
            before all others), y the first of which more is.

    Raises:
        UserError: an axis names no metric.
    """
    for name in axes or ():
        if name not in sweep.metrics:
            raise UserError(f"There is no metric {name} in {sweep.folder}.{nearest(name, sweep.metrics)}")
    studies = by_task(sweep)
    found: list[str] = []
    for task, study in studies.items():
        prefix = f"{task}: " if len(studies) > 1 else ""
        shown = [name for name in study.headline if sum(_has(job, name) for job in study.jobs) > 1]
        swept = swept_number(study)
        x, y = axes or _spent_and_gained(study, shown)
        if sum(_has(job, x) and _has(job, y) for job in study.jobs) > 1:
            found.append(_trade_off(study, swept, x, y, prefix))
        if swept is not None:
            found += [_along(study, swept, name, prefix) for name in shown[:MOST_LINES]]
    return found


def _spent_and_gained(sweep: Sweep, names: Sequence[str]) -> tuple[str, str]:
    """A metric of which less is better, a cost if there is one, and one of which more is; else the first two."""
    spent = sorted((n for n in names if less_is_better(n, _unit(sweep, n))), key=lambda name: "cost" not in name)
    gained = [name for name in names if name not in spent]
    if spent and gained:
        return spent[0], gained[0]
    return (names[0], names[1]) if len(names) > 1 else ("", "")


def _trade_off(sweep: Sweep, swept: str | None, x: str, y: str, prefix: str) -> str:
    jobs = [job for job in sweep.jobs if _has(job, x) and _has(job, y)]
    series = _series(sweep, swept, jobs, x, y)
    signs = [-1 if less_is_better(name, _unit(sweep, name)) else 1 for name in (x, y)]
    told = ["less" if sign < 0 else "more" for sign in signs]
    return chart(
        series,
        title=f"{prefix}{y} against {x}" + (f", along {swept}" if swept else ""),
        x_title=f"{heading(x, sweep)}, {told[0]} is better",
        y_title=f"{heading(y, sweep)}, {told[1]} is better",
        front=pareto([point for one in series for point in one.points], signs[0], signs[1]),
        joined=swept is not None,
    )


def pareto(points: Sequence[Point], x_sign: int, y_sign: int) -> list[Point]:
    """The points that no other beats in one metric without losing in the other, by x; a sign of -1: less is better."""
    front: list[Point] = []
    for point in sorted(points, key=lambda point: (-x_sign * point.x, -y_sign * point.y)):
        if not front or y_sign * point.y > y_sign * front[-1].y:
            front.append(point)
    return front


def _along(sweep: Sweep, swept: str, name: str, prefix: str) -> str:
    series = _series(sweep, swept, [job for job in sweep.jobs if _has(job, name)], None, name)
    title = f"{prefix}{name} along {swept}"
    return chart(series, title=title, x_title=swept, y_title=heading(name, sweep), joined=True)


def _series(sweep: Sweep, swept: str | None, jobs: Sequence[JobRecord], x: str | None, y: str) -> list[Series]:
    """One for each combination of the settings that are not swept; x is the swept setting where it is None."""
    places = {job.label: place for place, job in enumerate(sweep.jobs)}
    found: dict[str, list[tuple[float, Point]]] = defaultdict(list)
    for job in jobs:
        values = {name: cells[places[job.label]] for name, cells in sweep.settings.items()}
        at = values.pop(swept) if swept else 0.0
        metrics = job.record["metrics"]
        told = [f"job {job.label}", *(f"{name}={setting(value)}" for name, value in values.items())]
        told += [f"{swept}={setting(at)}"] if swept else []
        told += [f"{name} {metric_text(metrics[name])}, n={metrics[name]['n']}" for name in (x, y) if name]
        point = Point(
            job=job.label,
            x=metrics[x]["value"] if x else at,
            y=metrics[y]["value"],
            x_ci=_interval(metrics[x]) if x else None,
            y_ci=_interval(metrics[y]),
            title="\n".join(told),
            label=setting(at) if x and swept else "",
        )
        found[", ".join(f"{name}={setting(value)}" for name, value in values.items())].append((at, point))
    return [
        Series(label=label, points=tuple(point for _, point in sorted(points, key=lambda one: one[0])))
        for label, points in found.items()
    ]


def _interval(metric: dict[str, Any]) -> tuple[float, float] | None:
    return tuple(metric["ci95"]) if metric["ci95"] else None


def _unit(sweep: Sweep, name: str) -> str:
    return next((str(job.record["metrics"][name]["unit"]) for job in sweep.jobs if _has(job, name)), "")


def _has(job: JobRecord, name: str) -> bool:
    metric = job.record["metrics"].get(name)
    return metric is not None and metric["value"] is not None
