"""Tables for the terminal: one job, a sweep, a list of jobs, two jobs side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from suite.report.collect import SHORT, JobRecord, Sweep, flatten, read_sweep
from suite.report.paired import Comparison, compare
from suite.report.words import LEGEND, few_samples, heading, metric_text, number, problems, setting, with_interval

FRAME = 3
"""Characters that a column takes beside its text."""


def show_job(record: dict[str, Any], console: Console | None = None) -> None:
    """Print the headline metrics of one record, or all if none are named."""
    out = console or Console()
    chosen = record["facts"].get("headline") or record["metrics"]
    metrics = {name: record["metrics"][name] for name in chosen if name in record["metrics"]}
    rows = [
        (name, metric_text(metric), metric["unit"], str(metric["n"]), metric["origin"], metric["note"])
        for name, metric in metrics.items()
    ]
    out.print(Text(f"{record['task']} {record['name']}: {record['status']} ({record['fingerprint'][:SHORT]})", "bold"))
    if rows:
        out.print(_table(("metric", "value [95 % CI]", "unit", "n", "origin", "note"), rows, right=(3,)))
    tables = record["facts"].get("tables", ())  # what a study wants to be read across
    for table in (table for table in tables if not table.get("report_only")):
        out.print(Text(table["title"], "bold"))
        out.print(_table(table["header"], table["rows"], right=tuple(range(1, len(table["header"])))))
    if any(table.get("report_only") for table in tables):
        out.print(Text("More tables: python -m suite report", "dim"))
    if record["error"]:
        out.print(Text(record["error"], "red"))
    if failed := record["samples"]["failed"]:
        out.print(Text(f"{failed} samples failed; samples.jsonl says why.", "yellow"))
    if rows and (warning := few_samples([record["samples"]["completed"]])):
        out.print(Text(warning, "yellow"))


def show_sweep(
    folder: Path, console: Console | None = None, *, baseline: str | None = None, metrics: tuple[str, ...] = ()
) -> None:
    """Print a sweep: what differs, the headline metrics that fit, failures, and paired differences.

    Args:
        folder: of the sweep; any folder with records below it will do.
        console: where to print; its width decides how many metrics fit.
        baseline: see `compare`.
        metrics: shown, and compared, instead of the headline.

    Raises:
        UserError: no records, or an unknown baseline or metric.
    """
    out, sweep = console or Console(), read_sweep(folder)
    differences = compare(sweep, baseline=baseline, metrics=metrics)
    wanted = tuple(name for name in metrics if name in sweep.metrics) or sweep.headline
    left: dict[str, list[str]] = {"job": [job.label for job in sweep.jobs]}
    left |= {name: [setting(value) for value in values] for name, values in sweep.settings.items()}
    left["n"] = [str(job.done) for job in sweep.jobs]

    columns, hidden = _fitting(left, _metric_columns(sweep, wanted, " "), out.width)
    if hidden:  # the interval under its value makes more metrics fit
        columns, hidden = _fitting(left, _metric_columns(sweep, wanted, "\n"), out.width)
    rows = list(zip(*columns.values(), strict=True))
    out.print(_table(tuple(columns), rows, right=tuple(range(len(left) - 1, len(columns)))))
    out.print(Text(LEGEND, "dim"))
    if hidden:
        out.print(Text(f"Too narrow for {', '.join(hidden)}: widen the terminal or see table.csv.", "dim"))
    for line in problems(sweep):
        out.print(Text(line, "red"))
    if warning := few_samples([job.done for job in sweep.jobs if job.record["status"] == "completed"]):
        out.print(Text(warning, "yellow"))
    if differences:
        out.print(Text(f"Difference from job {differences[0].baseline.label} on the same samples", "bold"))
        out.print(_table(PAIRED_HEADER, paired_rows(differences), right=(2, 3, 4, 5)))
        out.print(Text("p by sign flips of the pairs; Holm's correction is over the jobs of a metric.", "dim"))


PAIRED_HEADER = ("job", "metric", "difference [95 % CI]", "p", "p (Holm)", "n")


def paired_rows(differences: Sequence[Comparison]) -> list[tuple[str, ...]]:
    """Cells under `PAIRED_HEADER`."""
    return [
        (
            item.job.label,
            item.metric,
            with_interval(item.difference.value, item.difference.ci95),
            number(item.p_value),
            number(item.p_holm),
            str(item.difference.n),
        )
        for item in differences
    ]


def show_list(jobs: Sequence[JobRecord], console: Console | None = None) -> None:
    """Print one line a job, oldest first, so that the newest stands above the prompt."""
    rows = [
        (
            job.record["fingerprint"][:SHORT],
            job.record["started_at"][:16].replace("T", " "),
            job.record["task"],
            job.record["status"],
            str(job.done),
            " ".join(job.record["overrides"]),
            job.label,
        )
        for job in sorted(jobs, key=lambda job: job.record["started_at"])
    ]
    header = ("fingerprint", "started", "task", "status", "n", "overrides", "folder")
    table = _table(header, rows, right=(4,))
    table.columns[0].no_wrap = True  # it is there to be typed after `diff`
    (console or Console()).print(table)


def show_difference(a: JobRecord, b: JobRecord, console: Console | None = None) -> None:
    """Print the settings and provenance, then the metrics, in which two jobs differ."""
    out = console or Console()
    flat = [
        flatten({**job.record["config"], "models_used": job.record["models"], "provenance": job.record["provenance"]})
        | {"data_sha256": job.record["data_sha256"], "status": job.record["status"]}
        for job in (a, b)
    ]
    keys = [key for key in dict.fromkeys((*flat[0], *flat[1])) if flat[0].get(key) != flat[1].get(key)]
    rows = [(key, setting(flat[0].get(key)), setting(flat[1].get(key))) for key in keys]
    header = (f"{job.record['name']} {job.record['fingerprint'][:SHORT]}" for job in (a, b))
    names = ("", *header)
    if rows:
        out.print(_table(names, rows))
    else:
        out.print("The settings are the same.")
    left, right = a.record["metrics"], b.record["metrics"]
    values = [
        (name, metric_text(left.get(name)), metric_text(right.get(name))) for name in dict.fromkeys((*left, *right))
    ]
    values = [row for row in values if row[1] != row[2]]
    if values:
        out.print(_table(names, values, right=(1, 2)))
        out.print(Text(LEGEND, "dim"))
    else:
        out.print("The metrics are the same.")


def _metric_columns(sweep: Sweep, names: Sequence[str], separator: str) -> dict[str, list[str]]:
    return {
        heading(name, sweep): [metric_text(job.record["metrics"].get(name), separator) for job in sweep.jobs]
        for name in names
    }


def _fitting(
    left: dict[str, list[str]], metrics: dict[str, list[str]], width: int
) -> tuple[dict[str, list[str]], list[str]]:
    """The left columns, the metrics that fit beside them in `width` characters (one at least), and the others."""
    used = 1 + sum(_width(name, cells) for name, cells in left.items())
    shown = dict(left)
    for name, cells in metrics.items():
        if (more := used + _width(name, cells)) <= width or len(shown) == len(left):
            shown[name], used = cells, more
    return shown, [name for name in metrics if name not in shown]


def _width(name: str, cells: list[str]) -> int:
    return FRAME + max(cell_len(line) for text in (name, *cells) for line in text.split("\n"))


def _table(header: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> Table:
    """Cells are plain text: `[0.1, 0.2]` must not be read as markup."""
    table = Table(header_style="bold")
    for position, name in enumerate(header):
        table.add_column(Text(name), justify="right" if position in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    return table
