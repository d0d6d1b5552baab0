"""One wandb run a job, in one shared folder, so that `wandb leet` and the dashboard show a whole sweep."""

from __future__ import annotations

import hashlib
import logging
import os
import threading
import urllib.error
import urllib.request
import uuid
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import wandb

from suite.paths import build_once
from suite.report.collect import read_sweep
from suite.report.words import less_is_better
from suite.tracking.overview import jobs_table, picture, tradeoff
from suite.tracking.schema import TrackerConfig
from suite.tracking.secrets import scrub
from suite.tracking.view import JobInfo, SoFar, cells, columns, group_name, summary

log = logging.getLogger(__name__)

ANSWER_S, INIT_S, FINISH_S = 3, 20, 60
"""Patience with a server: for any answer at all, for a run to begin, for the rest of a run to be taken at its end."""
PLACE = ".suite-id"


class WandbRun:
    """Config at the start, curves of the means so far, and at the end results, plots and one table of samples."""

    def __init__(self, cfg: TrackerConfig, job: JobInfo) -> None:
        self._job, self._so_far, self._rows = job, SoFar(), list[dict[str, Any]]()
        self._run = open_run(
            cfg,
            id=run_id(cfg, job.fingerprint),
            group=cfg.group or job.group,
            job_type=job.kind,
            name=job.title,
            tags=list(job.tags),
            config=scrub(job.config),  # nested: wandb itself shows and filters `task.k`
        )
        self._run.define_metric("sample", hidden=True)
        self._run.define_metric("so_far/*", step_metric="sample", summary="none")
        self._known = dict(self._run.summary).get("sample", 0)  # a resumed run has the curves of so many samples

    def log_sample(self, row: Mapping[str, Any]) -> None:
        """Add a point to the curves; keep the row for the table, to which wandb cannot append."""
        self._rows.append(cells(row))
        point = self._so_far.take(row)
        if self._so_far.samples > self._known:
            self._run.log(point)

    def close(self, record: Mapping[str, Any] | None, failed: bool) -> None:
        """Write results, plots and the table, then close; the exit code is 1 when the job failed."""
        try:
            if record is not None:
                define(self._run, {name: metric["unit"] for name, metric in record["metrics"].items()})
                self._run.summary.update(summary(record))
            end: dict[str, Any] = plots(self._job.folder)
            if self._rows:
                end["samples"] = table(columns(self._rows))
            if end:
                self._run.log(end)
        finally:
            self._run.finish(exit_code=1 if failed else 0)


def show_sweep(cfg: TrackerConfig, folder: Path) -> None:
    """One run beside those of a sweep's jobs, with what only the whole shows."""
    sweep, group = read_sweep(folder), cfg.group or group_name(folder)
    run = open_run(
        cfg,
        id=run_id(cfg, f"sweep {group}"),
        group=group,
        job_type="sweep",
        name=f"sweep {group}",
        tags=["sweep", *dict.fromkeys(job.record["task"] for job in sweep.jobs)],
        config={"settings": list(sweep.settings)},
    )
    failed = sum(job.record["status"] == "failed" for job in sweep.jobs)
    try:
        jobs = table(jobs_table(sweep))
        shown: dict[str, Any] = {"jobs": jobs, **plots(folder)}
        if (image := picture(sweep)) is not None:
            shown["overview"] = wandb.Image(image)
        if (axes := tradeoff(sweep)) is not None:
            shown["tradeoff"] = wandb.plot.scatter(jobs, *axes, title=" over ".join(reversed(axes)))
        run.log(shown)
        run.summary.update({"jobs_completed": len(sweep.jobs) - failed, "jobs_failed": failed})
    finally:
        run.finish(exit_code=1 if failed else 0)


def open_run(cfg: TrackerConfig, **about: Any) -> wandb.Run:
    """A run, online if that is asked for and a server answers, else offline with one sentence.

    What wandb would collect by itself (console, code, git, command line, machine) is switched off: the record has it,
    and the command line may carry secrets.
    """
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
        init_timeout=INIT_S,
        finish_timeout=FINISH_S,
        x_disable_meta=True,
        x_disable_stats=True,
        x_disable_machine_info=True,
        x_save_requirements=False,
    )

    def begin(mode: Any) -> wandb.Run:
        return wandb.init(
            project=cfg.project,
            entity=cfg.entity,
            mode=mode,
            dir=folder,
            resume="allow" if mode == "online" else None,  # offline, the later file of a run holds all of the earlier
            reinit="create_new",  # the jobs of a sweep share a process; each has its own run
            settings=settings,
            **about,
        )

    if cfg.mode == "offline" or (why := obstacle()) is not None:
        return begin("offline")
    try:
        return begin("online")
    except Exception as error:
        why = str(error)
        log.warning("wandb cannot be used online, so this run is kept offline (`wandb sync` later): %s", scrub(why))
        return begin("offline")


@cache
def obstacle() -> str | None:
    """Why nothing can be uploaded, told as a warning too; None if a server answers. Asked once a process."""
    host = wandb.setup(wandb.Settings(silent=True)).settings.base_url
    why = None if answers(host) else f"{host} does not answer within {ANSWER_S} s"
    if why is None and not wandb.login(verify=False, prompt=False):
        why = "no key is known here, `wandb login` takes one"
    if why is not None:
        log.warning("wandb cannot be used online, so runs are kept offline (`wandb sync` later): %s.", scrub(why))
    return why


def answers(url: str) -> bool:
    """Whether a server says anything at all in time. In a thread of its own: a dead name server hangs for longer."""
    heard = threading.Event()

    def ask() -> None:
        try:
            urllib.request.urlopen(f"{url}/healthz", timeout=ANSWER_S).close()  # goes through proxies, as wandb does
        except urllib.error.HTTPError:
            pass
        except (OSError, ValueError):
            return
        heard.set()

    threading.Thread(target=ask, daemon=True).start()
    return heard.wait(ANSWER_S)


def run_id(cfg: TrackerConfig, what: str) -> str:
    """The same for the same job tracked in the same place, so that it continues its run; else another.

    The place counts because others may run the very same job into the same project.
    """
    folder = Path(cfg.dir).resolve()
    place = build_once(folder / "wandb" / PLACE, _write_id).read_text(encoding="ascii")
    return hashlib.sha256(f"{place} {what}".encode()).hexdigest()[:12]


def _write_id(path: Path) -> None:
    path.write_text(uuid.uuid4().hex, encoding="ascii")


def define(run: wandb.Run, units: Mapping[str, str]) -> None:
    """Say which end of each metric is the good one, where that is known."""
    for name, unit in units.items():
        run.define_metric(name, summary="min" if less_is_better(name, unit) else "max")


def table(content: Mapping[str, list[Any]]) -> wandb.Table:
    """Columns of equal length as a wandb table."""
    made = wandb.Table(columns=[*content], allow_mixed_types=True)
    for row in zip(*content.values(), strict=True):
        made.add_data(*row)
    return made


def plots(folder: Path | None) -> dict[str, wandb.Html]:
    """The SVG plots that a study left in a folder; wandb shows vector graphics as HTML."""
    found = sorted((folder / "plots").glob("*.svg")) if folder else []
    return {f"plots/{path.stem}": wandb.Html(path.read_text(encoding="utf-8"), inject=False) for path in found}
