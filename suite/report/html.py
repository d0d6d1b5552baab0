"""One static page of a sweep: table, filters, charts, what differs between runs, and a card for each.

Self-contained and made from the records alone, so the same records give the same bytes. The pages of samples that the
studies write lie beside it and are linked. Read next: cards.py, plot.py; page.js for what a click does.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from suite.records.store import write_atomic
from suite.report.cards import badge, cards, pages, plots, shared, tables, told
from suite.report.chart import anchor
from suite.report.collect import Sweep, flatten, read_sweep
from suite.report.html_table import heading_cell, plain
from suite.report.paired import compare
from suite.report.plot import charts
from suite.report.sheet import asset, document
from suite.report.table import PAIRED_HEADER, paired_rows
from suite.report.words import LEGEND, MISSING, few_samples, heading, metric_text, number, problems, setting

MOST_CHOICES = 30
"""Values of a setting that a menu offers; the search finds the others."""
KEY = (
    "Bars are 95 % intervals; the grey band is the front that no other job beats. Point at a job, or follow it to its "
    "run."
)


def write_report(
    folder: Path, *, baseline: str | None = None, metrics: tuple[str, ...] = (), axes: tuple[str, str] | None = None
) -> Path:
    """Write report.html into a sweep's folder and return its path.

    Args:
        folder: any folder with records below it.
        baseline: see `compare`.
        metrics: columns of the table, and compared, instead of the headline.
        axes: see `charts`.

    Raises:
        UserError: no records, an unknown name, or the folder cannot be written.
    """
    path = folder / "report.html"
    write_atomic(path, page(read_sweep(folder), baseline=baseline, metrics=metrics, axes=axes))
    return path


def page(
    sweep: Sweep, *, baseline: str | None = None, metrics: tuple[str, ...] = (), axes: tuple[str, str] | None = None
) -> str:
    """The page as text; arguments as for `write_report`."""
    names = sorted({job.record["name"] for job in sweep.jobs})
    title = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    differences = compare(sweep, baseline=baseline, metrics=metrics)
    completed = [job.done for job in sweep.jobs if job.record["status"] == "completed"]
    warnings = [line for line in (few_samples(completed), *problems(sweep)) if line]
    shown = [name for name in metrics if name in sweep.metrics] or sweep.headline
    parts = [
        f"<h1>{escape(title).replace('_', '_<wbr>')}</h1>",
        _summary(sweep),
        f"<div class=notes>{''.join(f'<p>{escape(line)}</p>' for line in warnings)}</div>" if warnings else "",
        "<main>",
        _filters(sweep),
        _jobs(sweep, shown),
        f"<p class=dim>{LEGEND} Tick two or more jobs to see how they differ.</p>",
        "<section id=compare hidden aria-live=polite><h2>Difference of the ticked jobs <button type=button>clear"
        "</button></h2><div class=wide></div></section>",
    ]
    if drawn := charts(sweep, axes):
        figures = "".join(f"<figure{'' if place else ' class=first'}>{svg}</figure>" for place, svg in enumerate(drawn))
        parts.append(f"<h2>Charts</h2><div class=charts>{figures}</div><p class=dim>{KEY}</p>")
    if differences:
        parts.append(f"<h2>Difference from job {escape(differences[0].baseline.label)} on the same samples</h2>")
        parts.append(plain(PAIRED_HEADER, paired_rows(differences), jobs=[item.job.label for item in differences]))
    parts += [*_analysis(sweep), "<h2>Runs</h2>", *cards(sweep), "</main>"]
    return document(
        title, "\n".join(filter(None, parts)), style=asset("page.css") + asset("figure.css"), script=asset("page.js")
    )


def _summary(sweep: Sweep) -> str:
    """What the jobs have in common: when, and where from."""
    records = [job.record for job in sweep.jobs]
    count = "1 job" if len(records) == 1 else f"{len(records)} jobs"
    wall_s = sum(record["wall_time_s"] or 0 for record in records)
    first = min(record["started_at"] for record in records)
    common = shared([told(record) for record in records])
    lines = [f"<dt>{name}<dd>{escape(text)}" for name, text in common.items() if name != "packages"]
    begun = f"{count}, first started {escape(first[:16].replace('T', ' '))} UTC, {number(wall_s)} s in all"
    return f"<p class=dim>{begun}.</p><dl class=facts>{''.join(lines)}</dl>"


def _filters(sweep: Sweep) -> str:
    """A search over overrides and settings, and a menu for each setting in the table; shown by the script."""
    menus = []
    columns = {**sweep.settings, "status": tuple(job.record["status"] for job in sweep.jobs)}
    places = {**{name: 2 + at for at, name in enumerate(sweep.settings)}, "status": 3 + len(sweep.settings)}
    for name, values in columns.items():
        choices = dict.fromkeys(setting(value) for value in sorted(values, key=_order))
        if 1 < len(choices) <= MOST_CHOICES:
            offered = "".join(f'<option value="{escape(text)}">{escape(text)}</option>' for text in choices)
            menus.append(
                f"<label>{escape(name)}<select data-cell={places[name]}>"
                f'<option value="">all</option>{offered}</select></label>'
            )
    return (
        '<form id=filters class=filters hidden role=search aria-label="Filter the jobs"><label>find'
        '<input type=search name=find placeholder="task.k=3 hardware=…"></label>'
        f"{''.join(menus)}<button type=reset>clear</button><output id=shown></output></form>"
    )


def _jobs(sweep: Sweep, metrics: Sequence[str]) -> str:
    """The tidy table: a row a job."""
    notes = {
        name: str(job.record["metrics"][name]["note"])
        for name in metrics for job in sweep.jobs if name in job.record["metrics"]
    }  # fmt: skip
    linked = [pages(job.folder, sweep.folder) for job in sweep.jobs]
    head = [
        "<th scope=col><span aria-hidden=true>✓</span>",
        heading_cell("job"),
        *(heading_cell(name) for name in sweep.settings),
        heading_cell("n", kind="number"),
        heading_cell("status"),
        "<th scope=col>samples" if any(linked) else "",
        *(heading_cell(heading(name, sweep), kind="metric number", title=notes.get(name, "")) for name in metrics),
    ]
    configs = [flatten(job.record["config"]) for job in sweep.jobs]
    common = shared(configs)
    rows = []
    for place, job in enumerate(sweep.jobs):
        record, label = job.record, escape(job.label)
        own = (f"{key}={setting(value)}" for key, value in configs[place].items() if key not in common)
        find = " ".join((job.label, record["name"], record["task"], *record["overrides"], *own)).lower()
        cells = [
            f'<td><input type=checkbox aria-label="compare job {label}">',
            f'<th scope=row data-v="{label}"><a href="#{anchor(job.label)}">{label}</a>',
            *(_setting(values[place]) for values in sweep.settings.values()),
            f"<td class=number data-v={job.done}>{job.done}",
            f'<td data-v="{escape(record["status"])}">{badge(job)}',
            f"<td>{linked[place] or MISSING}" if any(linked) else "",
            *(_metric(record["metrics"].get(name)) for name in metrics),
        ]
        marks = f'data-job="{label}" data-card="{anchor(job.label)}" data-find="{escape(find)}"'
        rows.append(f"<tr {marks}>{''.join(cells)}\n")
    return (
        f'<div id=jobs-box tabindex=0 role=region aria-label="Jobs"><table id=jobs><thead><tr>{"".join(head)}'
        f"<tbody>{''.join(rows)}</table></div>"
    )


def _setting(value: Any) -> str:
    kind = " class=text" if len(setting(value)) > 40 else ""
    return f'<td{kind} data-v="{escape(setting(value))}">{escape(setting(value))}'


def _metric(metric: Mapping[str, Any] | None) -> str:
    """The value, and its interval below."""
    value, _, interval = metric_text(metric, "\n").partition("\n")
    by = "" if metric is None or metric["value"] is None else metric["value"]
    return f'<td class=number data-v="{by}">{escape(value)} <span class=ci>{escape(interval)}</span>'


def _order(value: Any) -> tuple[bool, float, str]:
    number_like = isinstance(value, int | float)
    return (not number_like, float(value) if number_like else 0.0, str(value))


def _analysis(sweep: Sweep) -> list[str]:
    """What a study found out about its own jobs: its pages, `summary` and `tables` of analysis.json, plots/*.svg."""
    folder = sweep.folder
    found = folder / "analysis.json"
    said = json.loads(found.read_text(encoding="utf-8")) if found.exists() else {"summary": []}
    beside = "" if any(job.folder == folder for job in sweep.jobs) else pages(folder, folder)
    parts = [f"<p>{escape(sentence)}</p>" for sentence in said["summary"]]
    parts += [f"<p>Samples: {beside}</p>"] if beside else []
    parts += [*plots(folder), *tables(said.get("tables", ()))]
    return ["<h2>Analysis</h2>", *parts] if parts else []
