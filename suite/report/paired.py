"""Jobs of one sweep against a baseline job, sample by sample: the shared samples' noise cancels."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from suite.errors import UserError, nearest
from suite.records.samples import read_samples
from suite.report.collect import JobRecord, Sweep
from suite.stats import Difference, holm, paired_difference, sign_flips

FEW_JOBS = 10
"""Up to here every job is compared without being asked: a bootstrap a job and metric costs about 0.05 s."""
FEW_METRICS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One job minus the baseline in one metric, over the samples that both measured."""

    job: JobRecord
    baseline: JobRecord
    metric: str
    difference: Difference
    """With its bootstrap interval."""
    p_value: float | None
    """Of the permutation test of pairs; None for a single pair."""
    p_holm: float | None
    """The same, corrected for all jobs that are compared in this metric."""


def compare(sweep: Sweep, *, baseline: str | None = None, metrics: tuple[str, ...] = ()) -> list[Comparison]:
    """Paired differences of a sweep's jobs.

    Args:
        sweep: as read.
        baseline: label of the job to compare with. Without one, the first completed job is taken and a sweep of more
            than `FEW_JOBS` jobs is not compared.
        metrics: names; those without per-sample values are passed over. By default the first few headline metrics.

    Raises:
        UserError: no such job, or no such metric.
    """
    jobs = [job for job in sweep.jobs if job.record["status"] == "completed"]
    if baseline is None and not 2 <= len(jobs) <= FEW_JOBS:
        return []
    labels = [job.label for job in jobs]
    if baseline is not None and baseline not in labels:
        raise UserError(
            f"There is no completed job {baseline} in {sweep.folder}; there is {', '.join(labels)}."
            f"{nearest(baseline, labels)}"
        )
    base = jobs[labels.index(baseline) if baseline is not None else 0]
    values = {job.label: _per_sample(job.folder / "samples.jsonl") for job in jobs}
    known = values[base.label]
    for name in metrics:
        if name not in known and name not in sweep.metrics:
            raise UserError(f"There is no metric {name} in {sweep.folder}.{nearest(name, (*sweep.metrics, *known))}")
    chosen = [name for name in metrics or sweep.headline if name in known]
    chosen = chosen if metrics else chosen[:FEW_METRICS]

    others = [job for job in jobs if job is not base]
    found = [one for name in chosen for one in _compared(name, base, others, values)]
    return sorted(found, key=lambda one: others.index(one.job))  # by job, then in the metrics' order


def _compared(
    name: str, base: JobRecord, others: list[JobRecord], values: dict[str, dict[str, dict[str, float]]]
) -> list[Comparison]:
    """Every other job against the baseline in one metric, which is one family of tests."""
    seed, right = base.record["seed"], values[base.label][name]
    pairs: list[tuple[JobRecord, list[float], list[float]]] = []
    for job in others:
        left = values[job.label].get(name, {})
        if ids := [sample for sample in right if sample in left]:
            pairs.append((job, [left[sample] for sample in ids], [right[sample] for sample in ids]))
    p_values = [sign_flips([x - y for x, y in zip(a, b, strict=True)], seed=seed) for _, a, b in pairs]
    return [
        Comparison(
            job=job,
            baseline=base,
            metric=name,
            difference=paired_difference(a, b, seed=seed),
            p_value=p_value,
            p_holm=p_holm,
        )
        for (job, a, b), p_value, p_holm in zip(pairs, p_values, holm(p_values), strict=True)
    ]


def _per_sample(path: Path) -> dict[str, dict[str, float]]:
    """Metric -> sample id -> value, of the samples that have one."""
    table: dict[str, dict[str, float]] = {}
    for row in read_samples(path):
        if row["status"] == "ok":
            for name, value in row.get("metrics", {}).items():
                if value is not None:
                    table.setdefault(name, {})[row["id"]] = float(value)
    return table
