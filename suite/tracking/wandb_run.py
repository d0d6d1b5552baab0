"""One wandb run a job, in one shared folder, so that `wandb leet` and the dashboard show a whole sweep."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import wandb

from suite.tracking.schema import TrackerConfig
from suite.tracking.tracker import JobInfo, scrub

log = logging.getLogger(__name__)

LOGIN_TIMEOUT_S = 30


class WandbRun:
    """Config at the start; metrics, their intervals and one table of samples at the end.

    What wandb would collect by itself (console, code, git, command line, machine) is switched off: the record has it,
    and the command line may carry secrets.
    """

    def __init__(self, cfg: TrackerConfig, job: JobInfo) -> None:
        self._rows: list[dict[str, Any]] = []
        try:
            self._run = self._open(cfg, job, cfg.mode)
        except Exception as error:
            if cfg.mode == "offline":
                raise
            log.warning(
                "wandb is not reachable, so this run is kept offline (`wandb sync` later): %s", scrub(str(error))
            )
            self._run = self._open(cfg, job, "offline")

    def _open(self, cfg: TrackerConfig, job: JobInfo, mode: Any) -> wandb.Run:
        folder = Path(cfg.dir).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        os.environ.setdefault("WANDB_DISABLE_WEAVE", "true")  # it advertises itself wherever openai is imported
        settings = wandb.Settings(
            silent=True,
            console="off",
            disable_git=True,
            disable_code=True,
            save_code=False,
            use_dot_wandb=False,
            login_timeout=LOGIN_TIMEOUT_S,
            x_disable_meta=True,
            x_disable_stats=True,
            x_disable_machine_info=True,
            x_save_requirements=False,
        )
        return wandb.init(
            project=cfg.project,
            entity=cfg.entity,
            mode=mode,
            dir=folder,
            group=job.sweep,
            job_type=job.task,
            name=job.title,
            tags=list(job.tags),
            config=scrub(job.config),
            reinit="create_new",  # the jobs of a sweep share a process; each has its own run
            settings=settings,
        )

    def log_sample(self, row: Mapping[str, Any]) -> None:
        """Keep one row for the table: wandb cannot append to a table it has logged."""
        self._rows.append(_flat(row))

    def close(self, record: Mapping[str, Any] | None, failed: bool) -> None:
        """Write the summary and the table, then close; the exit code is 1 when the job failed."""
        try:
            if record is not None:
                self._run.summary.update(summary(record))
            if self._rows:
                columns: list[str | int] = list(dict.fromkeys(name for row in self._rows for name in row))
                table = wandb.Table(columns=columns, allow_mixed_types=True)
                for row in self._rows:
                    table.add_data(*(row.get(str(name)) for name in columns))
                self._run.log({"samples": table})
        finally:
            self._run.finish(exit_code=1 if failed else 0)


def summary(record: Mapping[str, Any]) -> dict[str, Any]:
    """Scalars of a record: each metric that has a value, its interval as `_low` and `_high`, status, fingerprint."""
    scalars: dict[str, Any] = {"status": record["status"], "fingerprint": record["fingerprint"]}
    for name, metric in record["metrics"].items():
        if metric["value"] is None:
            continue
        scalars[name] = metric["value"]
        if metric["ci95"]:
            scalars[f"{name}_low"], scalars[f"{name}_high"] = metric["ci95"]
    return scalars


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    """A sample as table cells: its metrics beside its other fields, lists and dicts as JSON."""
    cells = {**row, **row.get("metrics", {})}
    cells.pop("metrics", None)
    return {
        name: cell if cell is None or isinstance(cell, str | int | float) else json.dumps(cell, ensure_ascii=False)
        for name, cell in cells.items()
    }
