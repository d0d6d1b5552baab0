"""One job from configuration to record: finished already? then the record; else run the task and write one."""

from __future__ import annotations

import errno
import json
import logging
import os
import time
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from omegaconf import DictConfig

from suite.config import RunConfig, identity, plain, typed
from suite.context import RunContext
from suite.errors import ConfigError, UserError, WriteError
from suite.hardware.limits import worker
from suite.models.loading import keep_only, place_copies
from suite.models.plan import GpuModeConfig
from suite.models.revision import revision
from suite.processes import Share, team
from suite.progress import QUIET
from suite.records import Job, SampleLog, claim, fingerprint
from suite.records.provenance import provenance
from suite.records.samples import read_samples
from suite.records.store import write_atomic
from suite.report.reference import reference_view
from suite.result import Result
from suite.tracking.schema import TrackerConfig
from suite.tracking.secrets import command_line, mask_files, scrub
from suite.tracking.tracker import open_tracker
from suite.tracking.view import job_info

log = logging.getLogger(__name__)
INDEX = Path("outputs") / ".index"
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
siblings: list[RunConfig] = []
"""Configurations of the jobs of the sweep that this process runs; empty for a single job."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A job before it runs: its typed configuration, its fingerprint, and what its record begins with."""

    config: RunConfig
    mark: str
    head: dict[str, Any]


def plan(cfg: DictConfig, overrides: list[str]) -> Plan:
    """Check the configuration and name the job; no model is loaded.

    Raises:
        UserError: bad input.
    """
    config = typed(cfg)
    revisions = {name: revision(config.models[name]) for name in config.task.models_used() if name in config.models}
    data = config.dataset.digest()
    head = {
        "task": config.task.name,
        "name": config.output_name or f"{config.task.method}_results",
        "config": scrub(plain(cfg)),
        "overrides": command_line(overrides),
        "seed": config.seed,
        "models": revisions,
        "data_sha256": data,
    }
    return Plan(config=config, mark=fingerprint(identity(cfg), revisions, data), head=head)


def reuse(known: Plan, folder: Path, sweep: str) -> dict[str, Any] | None:
    """The record of a job completed before, brought into `folder`; None when there is work to do."""
    with claim(folder, INDEX, known.mark, retry_failed=known.config.retry_failed) as job:
        if job.record is None or job.record["status"] != "completed":
            return None
        _write_reference_view(folder, job.record, known.head["name"])
        _track_again(known.config, job, job.record, sweep)
        return job.record


def _track_again(config: RunConfig, job: Job, record: dict[str, Any], sweep: str | None) -> None:
    """Show a job in the tracker that was finished before, so that a sweep is all there."""
    info = job_info(record, fingerprint=job.fingerprint, folder=job.folder, sweep=sweep)
    with open_tracker(config.tracker, job=info) as tracker:
        for row in read_samples(job.folder / "samples.jsonl") if config.tracker.name != "none" else ():
            tracker.log_sample(row)
        tracker.finish(record, failed=False)


def run_job(
    cfg: DictConfig, folder: Path, entry: str, overrides: list[str], sweep: str | None
) -> tuple[dict[str, Any], bool]:
    """The record of this configuration, computed if need be, and whether it was there already.

    Args:
        cfg: composed configuration.
        folder: the job's own folder.
        entry: the task, as `module:function`.
        overrides: what the user typed, for the record.
        sweep: name of the sweep this job belongs to.

    Raises:
        UserError: bad input; a record that says `failed` has been written where the job had started.
        KeyboardInterrupt: the user stopped it; samples done are kept.
    """
    mask_files(folder / ".hydra")
    job_plan = plan(cfg, overrides)
    config, head = job_plan.config, job_plan.head | {"limits": None, "processes": 1}
    with claim(folder, INDEX, job_plan.mark, retry_failed=config.retry_failed) as job:
        if found := job.record is not None:
            record = job.record
            log.info("finished before: nothing is computed again (%s)", job_plan.mark[:12])
        elif config.hardware.limited:
            if config.gpu_mode.replicas is not None:
                raise ConfigError(
                    f"gpu_mode.replicas={config.gpu_mode.replicas} does not go with hardware={config.hardware.name}, "
                    "whose limits hold for one process; choose another hardware, or gpu_mode=single."
                )
            child = worker(config.hardware)
            record = child.run(execute, config, job, head | {"limits": asdict(child.applied)}, entry, sweep)
        else:
            record = _execute_in_processes(config, job, head, entry, sweep)
        if record["status"] == "completed":
            _write_reference_view(folder, record, head["name"])
            if found:
                _track_again(config, job, record, sweep)
    return record, found


def _execute_in_processes(
    config: RunConfig, job: Job, head: dict[str, Any], entry: str, sweep: str | None
) -> dict[str, Any]:
    """`execute` here, or in as many processes as the models' placement asks for."""
    try:
        copies = processes(config)
    except UserError as error:  # a job that failed like any other, with a record that says why
        return execute(config, job, head, entry, sweep, refused=error)
    if len(copies) == 1:
        return execute(config, job, head, entry, sweep)
    log.info("%d processes, each with its own copy of the models", len(copies))
    head["processes"] = len(copies)
    record: dict[str, Any] = team(len(copies)).run(execute_share, copies, config, job, head, entry, sweep)
    return record


def _write_reference_view(folder: Path, record: dict[str, Any], name: str) -> None:
    """The reference studies' JSON, under the name the user gave."""
    view = reference_view(record, read_samples(folder / "samples.jsonl"))
    write_atomic(folder / f"{name}.json", json.dumps(view, indent=1, ensure_ascii=False))


def processes(config: RunConfig) -> tuple[GpuModeConfig, ...]:
    """How each process of the job places its models; one entry where the job is one process.

    Raises:
        UserError: the models do not fit the way gpu_mode asks.
    """
    copied = [config.models[name] for name in config.task.copied_models() if name in config.models]
    return place_copies(copied, hardware=config.hardware, gpu_mode=config.gpu_mode) if copied else (config.gpu_mode,)


def execute_share(
    copies: tuple[GpuModeConfig, ...],
    config: RunConfig,
    job: Job,
    head: dict[str, Any],
    entry: str,
    sweep: str | None,
    *,
    share: Share,
) -> dict[str, Any] | None:
    """One process's part of a job: the first one executes it, the others make rows for it."""
    config = replace(config, gpu_mode=copies[share.rank])
    if share.rank == 0:
        return execute(config, job, head, entry, sweep, share)
    keep_only(config.models.values())
    info = job_info(head, fingerprint=job.fingerprint, folder=Path(), sweep=None)
    with (
        TemporaryDirectory() as scratch,
        closing(SampleLog(Path(scratch) / "samples.jsonl")) as samples,
        open_tracker(TrackerConfig(), job=info) as tracker,
    ):
        _function(entry)(
            config, RunContext(config=config, folder=Path(scratch), samples=samples, tracker=tracker, share=share)
        )
    return None


def execute(
    config: RunConfig,
    job: Job,
    head: dict[str, Any],
    entry: str,
    sweep: str | None,
    share: Share | None = None,
    *,
    refused: UserError | None = None,
) -> dict[str, Any]:
    """Run the task and write its record; top-level, so that it can run in another process.

    Args:
        config: of the job.
        job: claimed.
        head: what the record begins with.
        entry: the task, as `module:function`.
        sweep: name of the sweep this job belongs to.
        share: this process's part, where several run the job.
        refused: why the task cannot even begin.

    Raises:
        Exception: whatever the task raised; the record says so.
    """
    level = logging.WARNING if os.environ.get(QUIET) else logging.INFO
    logging.basicConfig(level=level, format="[%(asctime)s][%(levelname)s] %(message)s")  # no-op where set up
    keep_only(config.models.values())  # a sweep over models must not pile them up
    run = _function(entry)
    info = job_info(head, fingerprint=job.fingerprint, folder=job.folder, sweep=sweep)
    started, clock = datetime.now(UTC).isoformat(timespec="seconds"), time.perf_counter()
    result, failure = Result(metrics={}), None
    with closing(job.samples()) as samples, open_tracker(config.tracker, job=info) as tracker:
        for row in samples:  # taken over from an interrupted run: a tracker shows the whole job
            tracker.log_sample(row)
        try:
            context = RunContext(
                config=config,
                folder=job.folder,
                samples=samples,
                tracker=tracker,
                siblings=tuple(siblings),
                share=share,
            )
            if refused is not None:
                raise refused
            result = run(config, context)
        except WriteError:
            raise
        except Exception as error:  # whatever broke, the record says so before the error goes on
            if isinstance(error, OSError) and error.errno in NO_ROOM:
                raise WriteError(
                    f"{error}; make room or choose another folder, then give the same command again."
                ) from error
            failure = error
        failed = sum(row["status"] == "failed" for row in samples)
        record = job.finish(
            {
                "status": "failed" if failure else "completed",
                **head,
                "metrics": {name: metric.to_json() for name, metric in result.metrics.items()},
                "facts": result.facts,
                "samples": {"completed": len(samples) - failed, "failed": failed},
                "error": None if failure is None else scrub(str(failure)) or type(failure).__name__,
                "provenance": provenance(),
                "started_at": started,
                "wall_time_s": round(time.perf_counter() - clock, 3),
            }
        )
        tracker.finish(record, failed=failure is not None)
    if failure is not None:
        raise failure
    return record


def _function(entry: str) -> Any:
    """The task behind `module:function`."""
    module, _, function = entry.partition(":")
    return getattr(import_module(module), function)
