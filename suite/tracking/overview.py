"""What a tracker shows of a whole sweep once it is over: one table of its jobs, one picture, the two main axes."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

from suite.report.collect import Sweep
from suite.report.export import tidy
from suite.report.words import heading, less_is_better, setting

if TYPE_CHECKING:
    from PIL.Image import Image

MOST_PANELS = 6


def jobs_table(sweep: Sweep) -> dict[str, list[Any]]:
    """The tidy table by column, without columns that say nothing."""
    return {name: values for name, values in tidy(sweep).items() if any(value is not None for value in values)}


def shown(sweep: Sweep) -> list[str]:
    """Headline metrics that some job has."""
    return [name for name in sweep.headline if any(_value(job.record, name) is not None for job in sweep.jobs)]


def tradeoff(sweep: Sweep) -> tuple[str, str] | None:
    """The first headline metric of which less is better and the first of which more is; None if one is missing."""
    spent = {name: less_is_better(name, _unit(sweep, name)) for name in shown(sweep)}
    x, y = (next((name for name, less in spent.items() if less is wanted), None) for wanted in (True, False))
    return (x, y) if x and y else None


def picture(sweep: Sweep) -> Image | None:
    """A panel for each headline metric, a line for each job, bars for the 95 % intervals; None without metrics."""
    import PIL.Image
    from matplotlib.figure import Figure

    names = shown(sweep)[:MOST_PANELS]
    if not names:
        return None
    labels = [
        " ".join([job.label, *(setting(values[i]) for values in sweep.settings.values())])[:40]
        for i, job in enumerate(sweep.jobs)
    ]
    figure = Figure(figsize=(2 + 2.4 * len(names), 1.2 + 0.28 * len(labels)), layout="constrained", dpi=120)
    for axis, name in zip(figure.subplots(1, len(names), sharey=True, squeeze=False)[0], names, strict=True):
        for row, job in enumerate(sweep.jobs):
            value = _value(job.record, name)
            if value is not None:
                low, high = job.record["metrics"][name]["ci95"] or (value, value)
                axis.plot([low, high], [row, row], color="C0", linewidth=1)
                axis.plot(value, row, "o", color="C0", markersize=4)
        axis.set_title(heading(name, sweep), fontsize=8)
        axis.tick_params(labelsize=7)
        axis.set_yticks(range(len(labels)), labels)
    axis.invert_yaxis()  # shared: job 0 on top
    png = io.BytesIO()
    figure.savefig(png, format="png")
    return PIL.Image.open(png)


def _value(record: dict[str, Any], name: str) -> float | None:
    value = record["metrics"].get(name, {}).get("value")
    return None if value is None else float(value)


def _unit(sweep: Sweep, name: str) -> str:
    return str(next(job.record["metrics"][name]["unit"] for job in sweep.jobs if name in job.record["metrics"]))
