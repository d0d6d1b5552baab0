r"""A sweep's table for a paper: booktabs, intervals, and bold only what is better than every other row for sure.

Needs \usepackage{booktabs}. The same records make the same bytes. What is wider than a page says so in a comment.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from suite.errors import UserError, nearest
from suite.report.collect import JobRecord, Sweep, read_sweep
from suite.report.paired import compare
from suite.report.words import MISSING, heading, less_is_better, metric_text, setting

PAGE = 3
"""Metrics with their intervals that about fill the width of a page, beside two settings."""
SPECIAL = {
    "\\": r"\textbackslash{}",
    "~": r"$\sim$",
    "^": r"\textasciicircum{}",
    MISSING: "--",
    "<": "$<$",
    ">": "$>$",
    "≥": r"$\geq$",
    "≤": r"$\leq$",
    "×": r"$\times$",
    "µ": r"$\mu$",
    "τ": r"$\tau$",
} | {mark: rf"\{mark}" for mark in "&%$#_{}"}


def latex(folder: Path, *, metrics: tuple[str, ...] = ()) -> str:
    """The table of a sweep's completed jobs, as a LaTeX float.

    Args:
        folder: of the sweep.
        metrics: the columns; empty: the headline.

    Raises:
        UserError: no records, no completed job, or an unknown metric.
    """
    sweep = read_sweep(folder)
    for name in metrics:
        if name not in sweep.metrics:
            raise UserError(f"There is no metric {name} in {folder}.{nearest(name, sweep.metrics)}")
    rows = [place for place, job in enumerate(sweep.jobs) if job.record["status"] == "completed"]
    if not rows:
        raise UserError(f"No job in {folder} is completed, so there is nothing to print; `python -m suite ls` tells.")
    names = metrics or sweep.headline
    jobs = [sweep.jobs[place] for place in rows]
    best = {name: _surely_best(sweep, jobs, name) for name in names}
    left = {name: [setting(values[place]) for place in rows] for name, values in sweep.settings.items()}
    left = left or {"job": [job.label for job in jobs]}
    lines = [
        rf"\begin{{tabular}}{{{'l' * len(left)}r{'r' * len(names)}}}",
        r"\toprule",
        _row([*left, "n", *(heading(name, sweep) for name in names)]),
        r"\midrule",
    ]
    for at, job in enumerate(jobs):
        cells = [escape(cells[at]) for cells in left.values()] + [str(job.done)]
        for name in names:
            value, *interval = escape(metric_text(job.record["metrics"].get(name))).split(" ", 1)
            text = rf"\textbf{{{value}}}" if job is best[name] else value
            cells.append(" ".join([text, *(rf"{{\scriptsize {part}}}" for part in interval)]))
        lines.append(" & ".join(cells) + r" \\")
    lines += [r"\bottomrule", r"\end{tabular}"]
    inside = [
        r"\centering\small\setlength{\tabcolsep}{3pt}",
        rf"\caption{{{_caption(jobs, any(best.values()))}}}",
        *lines,
    ]
    wide = f"% {len(names)} metrics are wider than a page; choose some: --metrics {','.join(names[:PAGE])}"
    return "\n".join([*[wide] * (len(names) > PAGE), r"\begin{table}", *inside, r"\end{table}", ""])


def escape(text: str) -> str:
    """`text` as LaTeX prints it."""
    return "".join(SPECIAL.get(mark, mark) for mark in text)


def _row(cells: Sequence[str]) -> str:
    return " & ".join(map(escape, cells)) + r" \\"


def _surely_best(sweep: Sweep, jobs: Sequence[JobRecord], name: str) -> JobRecord | None:
    """The best job in a metric if its paired difference from each other one has an interval without 0."""
    known = [job for job in jobs if (job.record["metrics"].get(name) or {}).get("value") is not None]
    if len(known) < 2:
        return None
    unit = known[0].record["metrics"][name]["unit"]
    sign = -1 if less_is_better(name, unit) else 1
    best = max(known, key=lambda job: sign * job.record["metrics"][name]["value"])
    if len({job.record["task"] for job in known}) > 1:
        return None  # two studies' metrics of one name are no match
    found = compare(sweep, baseline=best.label, metrics=(name,))
    gaps = [one.difference for one in found if one.job in known]
    sure = [gap for gap in gaps if gap.ci95 is not None and max(sign * bound for bound in gap.ci95) < 0]
    return best if len(sure) == len(known) - 1 else None


def _caption(jobs: Sequence[JobRecord], bold: bool) -> str:
    counts = sorted({job.done for job in jobs})
    seeds = sorted({int(job.record["seed"]) for job in jobs})
    commands = dict.fromkeys(shlex.join(["python", *job.record["provenance"]["command"]]) for job in jobs)
    n = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    sentences = [
        f"Mean or corpus score with its 95 % bootstrap interval; n = {n} samples a row, "
        f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}.",
        *(["Bold: better than every other row, the paired difference's interval excluding 0."] * bold),
    ]
    if any(metric["origin"] == "modelled" for job in jobs for metric in job.record["metrics"].values()):
        sentences.append("~: modelled, not measured.")
    typed = "; ".join(rf"\texttt{{{escape(command)}}}" for command in commands)
    return f"{escape(' '.join(sentences))} Made by {typed}."
