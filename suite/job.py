"""One job from configuration to record: finished already? then the record; else run the task and write one."""

from __future__ import annotations

import json
import logging
import time
from contextlib import closing
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


def run_job(cfg: DictConfig, folder: Path, entry: str, overrides: list[str], sweep: str | None) -> dict[str, Any]:
    """The record of this configuration, computed if need be.

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
    config = typed(cfg)
    revisions = {name: revision(config.models[name]) for name in config.task.models_used() if name in config.models}
    data = config.dataset.digest()
    mark = fingerprint(identity(cfg), revisions, data)
    head = {
        "task": config.task.name,
        "name": config.output_name or f"{config.task.method}_results",
        "config": plain(cfg),
        "overrides": overrides,
        "seed": config.seed,
        "models": revisions,
        "data_sha256": data,
    }
    with claim(folder, INDEX, mark, retry_failed=config.retry_failed) as job:
        if job.record is None:
            arguments = (config, job, head, entry, sweep)
            limited = config.hardware.limited
            record = worker(config.hardware).run(execute, *arguments) if limited else execute(*arguments)
        else:
            record = job.record
            log.info("finished before: nothing is computed again (%s)", mark[:12])
        if record["status"] == "completed":
            view = reference_view(record, read_samples(folder / "samples.jsonl"))
            write_atomic(folder / f"{head['name']}.json", json.dumps(view, indent=1, ensure_ascii=False))
    return record


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
            result = run(config, RunContext(config=config, folder=job.folder, samples=samples, tracker=tracker))
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
