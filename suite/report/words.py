"""How numbers, intervals and warnings read, the same in the terminal and in the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from suite.report.collect import Sweep
from suite.report.running import RUNNING

ENOUGH_SAMPLES = 100
MISSING = "–"
LEGEND = "Values are means or corpus scores with 95 % confidence intervals. ~ modelled, not measured."

SPENT_UNITS = ("ms", "s", "J", "Wh", "MB", "GB", "bytes", "USD", "W")
SPENT_WORDS = (
    "call",
    "calls",
    "cost",
    "latency",
    "retrievals",
    "retrieval",
    "error",
    "mae",
    "mape",
    "bytes",
    "dropped",
)


def number(value: float | None) -> str:
    """About four digits: `0.0169`, `12.75`, `1,234`."""
    if value is None:
        return MISSING
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4g}" if abs(value) >= 1 else f"{value:.3g}"


def with_interval(value: float | None, ci95: Sequence[float] | None, separator: str = " ") -> str:
    """`value [low, high]`, or the value alone."""
    return number(value) + (f"{separator}[{number(ci95[0])}, {number(ci95[1])}]" if ci95 else "")


def metric_text(metric: Mapping[str, Any] | None, separator: str = " ") -> str:
    """A metric of a record; modelled values carry a `~`."""
    if metric is None or metric["value"] is None:
        return MISSING
    mark = "~" if metric["origin"] == "modelled" else ""
    return mark + with_interval(metric["value"], metric["ci95"], separator)


def less_is_better(name: str, unit: str) -> bool:
    """Whether a metric tells what is spent: by its unit, or by a word of its name."""
    return unit in SPENT_UNITS or not set(name.split("_")).isdisjoint(SPENT_WORDS)


def setting(value: Any) -> str:
    """A config value as it would be typed."""
    if value is None:
        return MISSING
    return str(value).lower() if isinstance(value, bool) else str(value)


def heading(name: str, sweep: Sweep) -> str:
    """A metric's name with its unit, unless the name ends with it, it is a pure ratio, or no job knows it yet."""
    units = (job.record["metrics"][name]["unit"] for job in sweep.jobs if name in job.record["metrics"])
    unit = next(filter(None, units), "1")
    return name if unit == "1" or name.endswith(f"_{unit.lower()}") else f"{name} ({unit})"


def few_samples(counts: Sequence[int]) -> str | None:
    """The warning that belongs under a table whose smallest job has too few samples."""
    least = min(counts, default=ENOUGH_SAMPLES)
    if least >= ENOUGH_SAMPLES:
        return None
    samples = "1 sample" if least == 1 else f"{least} samples"
    return f"Only {samples}: read the intervals, not the values; {ENOUGH_SAMPLES} or more are needed to compare."


def problems(sweep: Sweep) -> list[str]:
    """One line for each job that did not complete or lost samples."""
    lines = []
    for job in sweep.jobs:
        record = job.record
        if record["status"] == RUNNING:
            lines.append(f"job {job.label} is running or was interrupted; samples so far: {job.done}")
        elif record["status"] != "completed":
            lines.append(f"job {job.label} {record['status']}: {record['error'] or 'no reason recorded'}")
        elif record["samples"]["failed"]:
            lines.append(f"job {job.label}: {record['samples']['failed']} samples failed; see its samples.jsonl")
    return lines + [
        f"job {label} has no record: it was stopped before its first sample, or has just begun"
        for label in sweep.unrecorded
    ]
