"""One static page of a sweep: table, failures, paired differences, a figure, and a card for each job.

Self-contained (inline style, one inline figure, a few lines of script that sort a table) and made from the records
alone, so the same records give the same bytes.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from suite.records.store import write_atomic
from suite.report.collect import SHORT, JobRecord, Sweep, flatten, read_sweep
from suite.report.paired import compare
from suite.report.plot import plot
from suite.report.table import PAIRED_HEADER, paired_rows
from suite.report.words import LEGEND, few_samples, heading, metric_text, number, problems, setting

STYLE = """
:root { color-scheme: light dark; --line: light-dark(#ddd, #444); --warn: light-dark(#a33, #f88); }
body { font: 15px/1.45 system-ui, sans-serif; margin: 1rem auto; max-width: 70rem; padding: 0 .8rem;
  background: light-dark(#fff, #16181c); color: light-dark(#1b1d21, #e4e6ea); }
h1 { font-size: 1.4rem } h2 { font-size: 1.1rem; margin-top: 2rem } .dim { opacity: .7 } .warn { color: var(--warn) }
.wide { overflow-x: auto } table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { padding: .25rem .6rem; border-bottom: 1px solid var(--line); text-align: left; white-space: nowrap }
td:last-child { white-space: normal } th { cursor: pointer } svg, img { max-width: 100%; height: auto }
details { border: 1px solid var(--line); border-radius: .4rem; margin: .4rem 0; padding: .4rem .7rem }
"""
# a number sorts as a number (its data-v), anything else as text; a second click turns the order round
SCRIPT = """
document.querySelectorAll('th').forEach(th => th.onclick = () => {
  const i = th.cellIndex, body = th.closest('table').tBodies[0], key = row => row.cells[i].dataset.v;
  const less = (a, b) => a - b || String(a).localeCompare(String(b), undefined, {numeric: true});
  const rows = [...body.rows].sort((a, b) => less(key(a), key(b)));
  th.dataset.up = th.dataset.up ? '' : '1';
  body.append(...(th.dataset.up ? rows : rows.reverse()));
});
"""


def write_report(
    folder: Path, *, baseline: str | None = None, metrics: tuple[str, ...] = (), axes: tuple[str, str] | None = None
) -> Path:
    """Write report.html into a sweep's folder and return its path.

    Args:
        folder: any folder with records below it.
        baseline: see `compare`.
        metrics: columns of the table, and compared, instead of the headline.
        axes: see `plot`.

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
    title = escape(", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else ""))
    differences = compare(sweep, baseline=baseline, metrics=metrics)
    figure = plot(sweep, axes)
    completed = [job.done for job in sweep.jobs if job.record["status"] == "completed"]
    first = min(job.record["started_at"] for job in sweep.jobs)
    parts = [
        f"<h1>{title}</h1><p class=dim>{len(sweep.jobs)} jobs, first started {escape(first)}. {LEGEND}</p>",
        *(_warning(line) for line in (few_samples(completed), *problems(sweep)) if line),
        _sweep_table(sweep, [name for name in metrics if name in sweep.metrics] or sweep.headline),
    ]
    if differences:
        base = escape(differences[0].baseline.label)
        parts += [
            f"<h2>Difference from job {base} on the same samples</h2>",
            _plain(PAIRED_HEADER, paired_rows(differences)),
        ]
    parts += _analysis(sweep.folder)
    if figure:
        parts += [f"<h2>Figure</h2><div class=wide>{figure}</div>"]
    parts += ["<h2>Runs</h2>", *_cards(sweep)]
    return (
        '<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content="width=device-width">'
        f"<title>{title}</title><style>{STYLE}</style>\n" + "\n".join(parts) + f"\n<script>{SCRIPT}</script></html>\n"
    )


def _analysis(folder: Path) -> list[str]:
    """What a study found out about its own jobs: `summary` and `tables` of analysis.json, and every plots/*.svg."""
    found, plots = folder / "analysis.json", sorted((folder / "plots").glob("*.svg"))
    told = json.loads(found.read_text(encoding="utf-8")) if found.exists() else {"summary": []}
    # as pictures of their own: the ids inside two figures of one page would clash
    images = [(path.stem, b64encode(path.read_bytes()).decode()) for path in plots]
    parts = [f"<p>{escape(sentence)}</p>" for sentence in told["summary"]]
    parts += [f'<p><img alt="{escape(name)}" src="data:image/svg+xml;base64,{data}"></p>' for name, data in images]
    parts += _tables(told.get("tables", ()))
    return ["<h2>Analysis</h2>", *parts] if parts else []


def _sweep_table(sweep: Sweep, metrics: Sequence[str]) -> str:
    header = ["job", *sweep.settings, "n", *(heading(name, sweep) for name in metrics), "status"]
    rows = []
    for position, job in enumerate(sweep.jobs):
        found = [job.record["metrics"].get(name) for name in metrics]
        values = [cells[position] for cells in sweep.settings.values()]
        rows.append(
            [
                (job.label, job.label),
                *((setting(value), value) for value in values),
                (str(job.done), job.done),
                *((metric_text(metric), metric and metric["value"]) for metric in found),
                (job.record["status"], job.record["status"]),
            ]
        )
    return _table(header, rows)


def _cards(sweep: Sweep) -> list[str]:
    """What all jobs share, once; then for each job the rest, and every metric with its n, origin and note."""
    facts = [_facts(job) for job in sweep.jobs]
    shared = {key: value for key, value in facts[0].items() if all(row.get(key, ...) == value for row in facts)}
    cards = [_card("Shared by all jobs" if len(facts) > 1 else "Settings and machine", shared, "")]
    for job, row in zip(sweep.jobs, facts, strict=True):
        own = {key: value for key, value in row.items() if key not in shared}
        metrics = [
            (name, metric_text(metric), metric["unit"], number(metric["n"]), metric["origin"], metric["note"])
            for name, metric in job.record["metrics"].items()
        ]
        table = _plain(("metric", "value [95 % CI]", "unit", "n", "origin", "note"), metrics)
        table = "".join(_tables(job.record["facts"].get("tables", ()))) + table
        cards.append(_card(f"Job {job.label}: {job.record['name']} ({job.record['fingerprint'][:SHORT]})", own, table))
    return cards


def _facts(job: JobRecord) -> dict[str, Any]:
    names = ("status", "error", "config", "models", "data_sha256", "facts", "provenance", "started_at", "wall_time_s")
    facts = {name: value for name, value in job.record["facts"].items() if name != "tables"}
    return flatten({name: facts if name == "facts" else job.record[name] for name in names})


def _card(title: str, facts: dict[str, Any], table: str) -> str:
    settings = _plain(("setting", "value"), [(key, setting(value)) for key, value in facts.items()])
    return f"<details><summary>{escape(title)}</summary>{table}{settings}</details>"


def _tables(tables: Sequence[dict[str, Any]]) -> list[str]:
    """A study's own tables, each folded under its title."""
    return [
        f"<details><summary>{escape(table['title'])}</summary>{_plain(table['header'], table['rows'])}</details>"
        for table in tables
    ]


def _warning(line: str) -> str:
    return f"<p class=warn>{escape(line)}</p>"


def _plain(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return _table(header, [[(cell, cell) for cell in row] for row in rows])


def _table(header: Sequence[str], rows: Sequence[Sequence[tuple[str, Any]]]) -> str:
    """Cells are (text, value to sort by)."""
    head = "".join(f"<th>{escape(name)}" for name in header)
    body = "".join(
        "<tr>" + "".join(f'<td data-v="{escape(str(value))}">{escape(text)}' for text, value in row) + "\n"
        for row in rows
    )
    return f"<div class=wide><table><thead><tr>{head}<tbody>{body}</table></div>"
