"""One trackio run a job, in a local SQLite database: curves of the means so far, results, one table of samples."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from suite.errors import UserError
from suite.report.collect import flatten, read_sweep
from suite.tracking.overview import jobs_table
from suite.tracking.schema import TrackerConfig
from suite.tracking.secrets import scrub
from suite.tracking.view import JobInfo, SoFar, cells, columns, group_name, summary


class TrackioRun:
    """Writes below `<dir>/trackio`; a resumed job goes on where its curves ended."""

    def __init__(self, cfg: TrackerConfig, job: JobInfo) -> None:
        self._so_far, self._rows = SoFar(), list[dict[str, Any]]()
        self._run = open_run(
            cfg,
            name=f"{job.title} ({job.fingerprint[:6]})",  # runs are told apart by name
            group=cfg.group or job.group,
            config={"tags": ", ".join(job.tags), "kind": job.kind, **flatten(scrub(job.config))},
        )
        self._known = self._run._next_step  # a resumed run has the curves of so many samples

    def log_sample(self, row: Mapping[str, Any]) -> None:
        """Add a point to the curves; keep the row for the table."""
        self._rows.append(cells(row))
        point = self._so_far.take(row)
        if self._so_far.samples > self._known:
            self._run.log(point)

    def close(self, record: Mapping[str, Any] | None, failed: bool) -> None:
        """Write results and the table, then close."""
        end = {} if record is None else summary(record)
        # on the last point, so that a resumed run counts its points by steps
        last = max(self._so_far.samples, self._known, 1) - 1
        close_run(self._run, {"failed": failed, **end}, {"samples": columns(self._rows)}, step=last)


def show_sweep(cfg: TrackerConfig, folder: Path) -> None:
    """One run beside those of a sweep's jobs, with the table of them."""
    sweep, group = read_sweep(folder), cfg.group or group_name(folder)
    run = open_run(cfg, name=f"sweep {group}", group=group, config={"settings": ", ".join(sweep.settings)})
    close_run(run, {"jobs_completed": len(sweep.jobs)}, {"jobs": jobs_table(sweep)})


def open_run(cfg: TrackerConfig, **about: Any) -> Any:
    """A trackio run in the local database.

    Raises:
        UserError: trackio is not installed.
    """
    os.environ["TRACKIO_DIR"] = str(Path(cfg.dir).resolve() / "trackio")  # read when trackio is imported
    try:
        import trackio
    except ImportError as error:
        raise UserError("trackio is not installed; `pip install 'edgebench[trackio]'`, or tracker=wandb.") from error
    with redirect_stdout(io.StringIO()):  # it greets every run
        return trackio.init(
            project=cfg.project, resume="allow", embed=False, auto_log_gpu=False, auto_log_cpu=False, **about
        )


def close_run(
    run: Any, end: Mapping[str, Any], tables: Mapping[str, Mapping[str, list[Any]]], step: int | None = None
) -> None:
    """Write what is left, then close."""
    import pandas as pd
    import trackio

    with redirect_stdout(io.StringIO()):
        try:
            made = {name: trackio.Table(dataframe=pd.DataFrame(content)) for name, content in tables.items() if content}
            run.log({**end, **made}, step=step)
        finally:
            trackio.finish()
