"""One job from configuration to record: finished already? then the record; else run the task and write one."""

from __future__ import annotations

import json
import logging
import time
from contextlib import closing
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from suite.config import RunConfig, identity, plain, typed
from suite.context import RunContext
from suite.hardware.limits import worker
from suite.models.loading import keep_only
from suite.models.revision import revision
from suite.records import Job, claim, fingerprint
from suite.records.provenance import provenance
from suite.records.samples import read_samples
from suite.records.store import write_atomic
from suite.report.reference import reference_view
from suite.result import Result
from suite.tracking.tracker import JobInfo, open_tracker

log = logging.getLogger(__name__)
INDEX = Path("outputs") / ".index"
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
        "config": plain(cfg),
        "overrides": overrides,
        "seed": config.seed,
        "models": revisions,
        "data_sha256": data,
    }
    return Plan(config=config, mark=fingerprint(identity(cfg), revisions, data), head=head)


def reuse(cfg: DictConfig, folder: Path, overrides: list[str]) -> dict[str, Any] | None:
    """The record of a job completed before, brought into `folder`; None when there is work to do."""
    job_plan = plan(cfg, overrides)
    with claim(folder, INDEX, job_plan.mark, retry_failed=job_plan.config.retry_failed) as job:
        if job.record is None or job.record["status"] != "completed":
            return None
        _write_reference_view(folder, job.record, job_plan.head["name"])
        return job.record


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
    job_plan = plan(cfg, overrides)
    config, head = job_plan.config, job_plan.head
    with claim(folder, INDEX, job_plan.mark, retry_failed=config.retry_failed) as job:
        if found := job.record is not None:
            record = job.record
            log.info("finished before: nothing is computed again (%s)", job_plan.mark[:12])
        elif config.hardware.limited:
            child = worker(config.hardware)
            record = child.run(execute, config, job, head | {"limits": asdict(child.applied)}, entry, sweep)
        else:
            record = execute(config, job, head | {"limits": None}, entry, sweep)
        if record["status"] == "completed":
            _write_reference_view(folder, record, head["name"])
    return record, found


def _write_reference_view(folder: Path, record: dict[str, Any], name: str) -> None:
    """The reference studies' JSON, under the name the user gave."""
    view = reference_view(record, read_samples(folder / "samples.jsonl"))
    write_atomic(folder / f"{name}.json", json.dumps(view, indent=1, ensure_ascii=False))


def execute(config: RunConfig, job: Job, head: dict[str, Any], entry: str, sweep: str | None) -> dict[str, Any]:
    """Run the task and write its record; top-level, so that it can run in a child process under limits."""
    logging.basicConfig(level=logging.INFO, format="[%(asctime)s][%(levelname)s] %(message)s")  # no-op where set up
    keep_only(config.models.values())  # a sweep over models must not pile them up
    module, _, function = entry.partition(":")
    run = getattr(import_module(module), function)
    info = JobInfo(
        task=head["task"],
        name=head["name"],
        config=head["config"],
        overrides=tuple(head["overrides"]),
        sweep=sweep,
        tags=(config.hardware.name,),
    )
    started, clock = datetime.now(UTC).isoformat(timespec="seconds"), time.perf_counter()
    result, failure = Result(metrics={}), None
    with closing(job.samples()) as samples, open_tracker(config.tracker, job=info) as tracker:
        for row in samples:  # taken over from an interrupted run: a tracker shows the whole job
            tracker.log_sample(row)
        try:
            context = RunContext(
                config=config, folder=job.folder, samples=samples, tracker=tracker, siblings=tuple(siblings)
            )
            result = run(config, context)
        except Exception as error:  # whatever broke, the record says so before the error goes on
            failure = error
        failed = sum(row["status"] == "failed" for row in samples)
        record = job.finish(
            {
                "status": "failed" if failure else "completed",
                **head,
                "metrics": {name: metric.to_json() for name, metric in result.metrics.items()},
                "facts": result.facts,
                "samples": {"completed": len(samples) - failed, "failed": failed},
                "error": None if failure is None else str(failure) or type(failure).__name__,
                "provenance": provenance(),
                "started_at": started,
                "wall_time_s": round(time.perf_counter() - clock, 3),
            }
        )
        tracker.finish(record, failed=failure is not None)
    if failure is not None:
        raise failure
    return record
