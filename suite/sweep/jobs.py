"""The jobs of a sweep before they run, and where each stands: finished, failed, interrupted, a duplicate or new."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from omegaconf import DictConfig

from suite.errors import UserError
from suite.job import INDEX, Plan, plan
from suite.records.samples import read_samples
from suite.records.store import home, read_record

State = Literal["finished", "failed", "interrupted", "duplicate", "new"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepJob:
    """One job: what was typed for it, where it goes, and what it is."""

    number: int
    overrides: tuple[str, ...]
    folder: Path
    plan: Plan | None
    """None where a model or data set cannot be found: the job says so when it runs."""

    def said(self, known: Collection[str] = ()) -> str:
        """The overrides as one types them, without those that are known already."""
        return " ".join(override for override in self.overrides if override not in known)


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What earlier launches left of a job."""

    job: SweepJob
    state: State
    record: dict[str, Any] | None = None
    """Of a finished or failed job."""
    samples: int = 0
    """Done by an interrupted job."""
    twin: int | None = None
    """Number of the earlier job of the sweep that a duplicate repeats."""

    @property
    def to_run(self) -> bool:
        """Whether the sweep will compute something for it."""
        again = self.job.plan is not None and self.job.plan.config.retry_failed
        return self.state in ("new", "interrupted") or (self.state == "failed" and again)


def in_common(jobs: Sequence[SweepJob]) -> tuple[str, ...]:
    """Overrides that all jobs share; none where there is one job only."""
    if len(jobs) < 2:
        return ()
    return tuple(text for text in jobs[0].overrides if all(text in job.overrides for job in jobs))


def sweep_job(number: int, overrides: Sequence[str], folder: Path, cfg: DictConfig) -> SweepJob:
    """A job whose configuration has been checked already; no model is loaded."""
    kept = tuple(override for override in overrides if not override.startswith(("tracker", "dry_run")))
    try:
        known = plan(cfg, list(kept))
    except UserError:
        known = None
    return SweepJob(number=number, overrides=kept, folder=folder, plan=known)


def standings(jobs: Sequence[SweepJob]) -> list[Standing]:
    """Where each job stands; nothing is written, and nothing is claimed."""
    first: dict[str, int] = {}
    found = []
    for job in jobs:
        if job.plan is None:
            found.append(Standing(job=job, state="new"))
        elif job.plan.mark in first:
            found.append(Standing(job=job, state="duplicate", twin=first[job.plan.mark]))
        else:
            first[job.plan.mark] = job.number
            found.append(_standing(job, job.plan))
    return found


def _standing(job: SweepJob, known: Plan) -> Standing:
    folder = home(INDEX, known.mark)
    if folder is None:
        return Standing(job=job, state="new")
    try:
        record, rows = read_record(folder), read_samples(folder / "samples.jsonl")
    except UserError:  # broken files: the job says so when it runs
        return Standing(job=job, state="new")
    if record is None:
        return Standing(job=job, state="interrupted" if rows else "new", samples=len(rows))
    lost = record["status"] != "completed" or (known.config.retry_failed and any(row["error"] for row in rows))
    return Standing(job=job, state="failed" if lost else "finished", record=record)
