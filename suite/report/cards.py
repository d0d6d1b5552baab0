"""A card for each run: where its numbers come from (code, machine, packages, clock), its metrics and its settings."""

from __future__ import annotations

from base64 import b64encode
from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

from suite.report.chart import anchor
from suite.report.collect import SHORT, JobRecord, Sweep, flatten
from suite.report.html_table import plain, table
from suite.report.words import metric_text, number, setting

FEW_JOBS = 12
"""Up to here the plots of each job are in the page; beyond, it would weigh too much."""
TIMELESS = ("config.", "models.", "provenance.", "data_sha256", "status")
"""Facts that a comparison of runs looks at; the others (when, how long, findings) always differ."""
# the studies draw in one grey for both modes, which a page can do better
PICTURE_STYLE = (
    b'<style>text[style*="#808080"]{fill:#57606a!important}@media (prefers-color-scheme:dark)'
    b'{text[style*="#808080"]{fill:#aeb8c2!important}}</style>'
)


def cards(sweep: Sweep) -> list[str]:
    """What all jobs share, once; then for each job the rest, and every metric with its n, origin and note."""
    facts = [_facts(job) for job in sweep.jobs]
    common = shared(facts)
    title = "Shared by all jobs" if len(facts) > 1 else "Settings and machine"
    made = [f"<details><summary>{title}</summary>{_settings(common)}</details>"]
    unfolded = "" if len(facts) > 1 else " open"
    for job, row in zip(sweep.jobs, facts, strict=True):
        own = {key: value for key, value in row.items() if key not in common}
        name = escape(f"Job {job.label}: {job.record['name']} ({job.record['fingerprint'][:SHORT]})")
        pictures = plots(job.folder) if job.folder != sweep.folder and len(sweep.jobs) <= FEW_JOBS else []
        body = [_origin(job, sweep.folder), *pictures, *tables(job.record["facts"].get("tables", ())), _metrics(job)]
        made.append(
            f'<details id="{anchor(job.label)}" data-job="{escape(job.label)}"{unfolded}>'
            f"<summary>{name} {badge(job)}</summary>{''.join(body)}{_settings(own)}</details>"
        )
    return made


def shared(facts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The facts that are the same in every row."""
    return {key: value for key, value in facts[0].items() if all(row.get(key, ...) == value for row in facts)}


def badge(job: JobRecord) -> str:
    """The job's status."""
    status = job.record["status"]
    return f'<span class="badge {"right" if status == "completed" else "wrong"}">{escape(status)}</span>'


def pages(source: Path, folder: Path) -> str:
    """Links to the pages of samples that a study wrote into `source`, seen from `folder`."""
    found = [path.relative_to(folder) for path in sorted(source.glob("*.html")) if path.name != "report.html"]
    return " ".join(f'<a href="{escape(quote(path.as_posix()))}">{escape(path.stem)}</a>' for path in found)


def plots(folder: Path) -> list[str]:
    """Every plots/*.svg, each as a picture of its own: the ids inside two of them would clash."""
    made = []
    for path in sorted((folder / "plots").glob("*.svg")):
        data = b64encode(path.read_bytes().replace(b"</svg>", PICTURE_STYLE + b"</svg>")).decode()
        name = escape(path.stem.replace("_", " "))
        made.append(f'<div class=picture><img alt="{name}" src="data:image/svg+xml;base64,{data}"></div>')
    return made


def tables(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """A study's own tables, each folded under its title."""
    return [
        f"<details><summary>{escape(one['title'])}</summary>{plain(one['header'], one['rows'])}</details>"
        for one in found
    ]


def told(record: Mapping[str, Any]) -> dict[str, str]:
    """Where a record's numbers come from, in words: code, machine, packages, origin of the metrics."""
    source = record["provenance"]
    machine = source.get("machine") or {}
    cores, gpus = machine.get("cores", {}).get("allowed"), machine.get("gpus") or []
    dirty = {True: ", with uncommitted changes", False: "", None: ""}[source.get("git_dirty")]
    origins = Counter(m["origin"] for m in record["metrics"].values() if m["value"] is not None and m["origin"])
    parts = {
        "code": (source.get("git_sha") or "")[:12] + dirty,
        "machine": ", ".join(
            [machine.get("cpu", "")]
            + ([f"{cores} cores"] if cores else [])
            + ([f"{machine['memory_gb']:.0f} GB"] if "memory_gb" in machine else [])
            + ([_name(gpu) for gpu in gpus] or (["no GPU"] if "gpus" in machine else []))
        ),
        "packages": ", ".join(
            ([f"Python {source['python']}"] if "python" in source else [])
            + [f"{name} {version}" for name, version in source.get("packages", {}).items()]
        ),
        "numbers": ", ".join(f"{count} {origin}" for origin, count in sorted(origins.items())),
    }
    return {name: text for name, text in parts.items() if text}


def _name(gpu: Any) -> str:
    return str(gpu.get("name", gpu) if isinstance(gpu, Mapping) else gpu)


def _origin(job: JobRecord, folder: Path) -> str:
    record = job.record
    wall_s = record["wall_time_s"]
    known = {
        "error": record["error"],
        "typed": " ".join(record["overrides"]),
        "command": " ".join(record["provenance"].get("command", ())),
        **told(record),
        "started": record["started_at"][:16].replace("T", " ")
        + " UTC"
        + (f", took {number(wall_s)} s" if wall_s is not None else ""),
    }
    lines = [f"<dt>{name}<dd>{escape(str(text))}" for name, text in known.items() if text]
    if found := pages(job.folder, folder):
        lines.append(f"<dt>samples<dd>{found}")
    return f"<dl class=facts>{''.join(lines)}</dl>"


def _metrics(job: JobRecord) -> str:
    rows = []
    for name, metric in job.record["metrics"].items():
        cells = (name, metric_text(metric), metric["unit"], number(metric["n"]), metric["origin"], metric["note"])
        rows.append(("metric", name, [(cell, cell) for cell in cells]))
    return table(("metric", "value [95 % CI]", "unit", "n", "origin", "note"), rows) if rows else ""


def _settings(facts: Mapping[str, Any]) -> str:
    if not facts:
        return ""
    rows = []
    for key, value in facts.items():
        kind = "setting" if key.startswith(TIMELESS) else ""
        rows.append((kind, key.removeprefix("config."), [(key, key), (setting(value), value)]))
    return table(("setting", "value"), rows)


def _facts(job: JobRecord) -> dict[str, Any]:
    names = ("status", "error", "config", "models", "data_sha256", "facts", "provenance", "started_at", "wall_time_s")
    facts = {name: value for name, value in job.record["facts"].items() if name != "tables"}
    return flatten({name: facts if name == "facts" else job.record[name] for name in names})
