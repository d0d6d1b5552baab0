"""What a launch would do: every job with where it stands and what it takes. Nothing is run, loaded or written."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table
from rich.text import Text

from suite.config import typed
from suite.progress import spoken
from suite.records.store import OWNER
from suite.report.words import number
from suite.sweep.estimate import Estimate, costs, past
from suite.sweep.jobs import Standing, SweepJob, in_common, standings, sweep_job

UNKNOWN = "unknown"


def show_dry_run(jobs: Sequence[SweepJob], console: Console | None = None) -> None:
    """Print the jobs, exact figures where a record has them, `~` estimates by similar jobs elsewhere, and a total."""
    out, known = console or Console(), past()
    rows, shared = standings(jobs), in_common(jobs)
    estimates = {
        row.job.number: known.estimate(row.job.plan.head["config"]) if row.job.plan else None
        for row in rows
        if row.to_run
    }
    named = dict.fromkeys(name for row in rows for name in _costs(row, estimates.get(row.job.number)))
    table = Table(header_style="bold")
    for name in ("job", "overrides", "state", "time", *named):
        table.add_column(Text(name), justify="left" if name in ("job", "overrides", "state") else "right")
    for row in rows:
        estimate = estimates.get(row.job.number)
        spent = _costs(row, estimate)
        cells = [str(row.job.number), row.job.said(shared), state(row), _time(row, estimate)]
        about = "~" if row.to_run else ""
        cells += [f"{about}{number(spent[name])}" if name in spent else _none(row) for name in named]
        table.add_row(*map(Text, cells))
    if shared:
        out.print(Text(f"All jobs: {' '.join(shared)}"))
    out.print(table)
    out.print(_total(rows, estimates))
    out.print(Text("Dry run: nothing was run. ~ by the finished jobs configured most like it.", "dim"))


def show_single(cfg: DictConfig, overrides: Sequence[str], folder: Path) -> str:
    """The same for a launch that is no sweep; what Hydra wrote into `folder` for it is taken back.

    Returns:
        The status that the launch ends with.

    Raises:
        ConfigError: the configuration cannot run.
    """
    typed(cfg)  # a mistake is to be told, not to be listed
    show_dry_run([sweep_job(0, overrides, folder, cfg)])
    if not (folder / OWNER).exists():
        shutil.rmtree(folder / ".hydra", ignore_errors=True)
        for log in folder.glob("*.log"):
            if log.stat().st_size == 0:
                log.unlink()
        with suppress(OSError):
            folder.rmdir()
    return "completed"


def state(row: Standing) -> str:
    """Where a job stands, in words."""
    if row.state == "duplicate":
        return f"same as {row.twin}"
    if row.state == "interrupted":
        return f"interrupted, {row.samples} samples kept"
    if row.state == "failed":
        return "failed, runs again" if row.to_run else "failed"
    return row.state


def _costs(row: Standing, estimate: Estimate | None) -> dict[str, float]:
    if estimate is not None:
        return estimate.costs
    return costs(row.record) if row.record is not None and not row.to_run else {}


def _time(row: Standing, estimate: Estimate | None) -> str:
    if row.to_run:
        return f"~{spoken(estimate.wall_s)}" if estimate else UNKNOWN
    return f"took {spoken(row.record['wall_time_s'])}" if row.record else "none"


def _none(row: Standing) -> str:
    return UNKNOWN if row.to_run else "none"


def _total(rows: Sequence[Standing], estimates: dict[int, Estimate | None]) -> str:
    """Jobs by state, and the time of those that would run, one after the other."""
    counts = Counter(row.state for row in rows)
    jobs = "1 job" if len(rows) == 1 else f"{len(rows)} jobs"
    told = f"{jobs}: {', '.join(f'{count} {name}' for name, count in counts.items())}. {len(estimates)} to run"
    sure = [estimate.wall_s for estimate in estimates.values() if estimate is not None]
    unknown = len(estimates) - len(sure)
    if sure:
        told += f", about {spoken(sum(sure))} one after the other"
    if unknown:
        told += f"{', and' if sure else ','} {unknown} of unknown length"
    return f"{told}."
