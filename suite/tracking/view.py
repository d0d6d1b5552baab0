"""What every tracker shows of a job, whatever the tracker: names, means so far, results, one table of samples."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

LONGEST = 128
"""Characters of a name that wandb takes."""
SAID_ELSEWHERE = ("task", "experiment", "step", "output_name", "retry_failed", "verbose", "strict")
"""Overrides that a title leaves out: the job's kind says them, or they change no number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobInfo:
    """What a tracker shows about a job before it has results."""

    task: str
    """Task name."""
    name: str
    """`output_name` of the job, else `<method>_results`."""
    config: Mapping[str, Any]
    """The resolved config."""
    fingerprint: str
    """Of the record; a job that is resumed has the same."""
    overrides: tuple[str, ...] = ()
    """What was typed, such as `task.k=3`; tells the jobs of a sweep apart."""
    sweep: str | None = None
    """Folder of the sweep, the same for all of its jobs; None for a single run."""
    folder: Path | None = None
    """Where the job's plots are, if it makes any."""

    @property
    def kind(self) -> str:
        """Task and method, `specdec/cloud`; wandb's job type."""
        method = self.name.removesuffix("_results")
        return self.task if method == self.task else f"{self.task}/{method}"

    @property
    def title(self) -> str:
        """Method and settings, `specdec k=3 entropy_threshold=1.5`; a single run has the method alone."""
        parts = [self.name.removesuffix("_results")]
        for override in self.overrides if self.sweep else ():
            key, _, value = override.lstrip("+").partition("=")
            if key not in SAID_ELSEWHERE and not key.startswith(("~", "hydra.", "tracker")) and value not in parts:
                parts.append(f"{key.rpartition('.')[2]}={value.rpartition('/')[2]}")
        return " ".join(parts)[:LONGEST]

    @property
    def group(self) -> str | None:
        """Name of the sweep."""
        return group_name(Path(self.sweep)) if self.sweep else None

    @property
    def tags(self) -> tuple[str, ...]:
        """Task, method and hardware."""
        hardware = self.config.get("hardware", {}).get("name")
        return tuple(dict.fromkeys(filter(None, (self.task, self.name.removesuffix("_results"), hardware))))


def group_name(folder: Path) -> str:
    """Name of a sweep: date and time, the last two parts of its folder."""
    return "/".join(folder.parts[-2:])


def job_info(record: Mapping[str, Any], *, fingerprint: str, folder: Path, sweep: str | None) -> JobInfo:
    """The job of a record, or of the head that a record begins with."""
    return JobInfo(
        task=record["task"],
        name=record["name"],
        config=record["config"],
        fingerprint=fingerprint,
        overrides=tuple(record["overrides"]),
        sweep=sweep,
        folder=folder,
    )


@dataclass(slots=True)
class SoFar:
    """Means over the samples so far: the curves that settle on the results while a job runs."""

    samples: int = 0
    _sums: dict[str, tuple[float, int]] = field(default_factory=dict)

    def take(self, row: Mapping[str, Any]) -> dict[str, float]:
        """Count one line of samples.jsonl; the point to add to the curves. A missing meter adds none."""
        self.samples += 1
        point: dict[str, float] = {"sample": self.samples}
        for name, value in row.get("metrics", {}).items():
            if isinstance(value, int | float):
                total, count = self._sums.get(name, (0.0, 0))
                self._sums[name] = total + value, count + 1
                point[f"so_far/{name}"] = (total + value) / (count + 1)
        return point


def summary(record: Mapping[str, Any]) -> dict[str, Any]:
    """Scalars of a record: each metric that has a value, its interval as `_low` and `_high`, status, fingerprint."""
    scalars: dict[str, Any] = {"status": record["status"], "fingerprint": record["fingerprint"]}
    for name, metric in record["metrics"].items():
        if metric["value"] is None:
            continue
        scalars[name], scalars[f"{name}_n"] = metric["value"], metric["n"]
        if metric["ci95"]:
            scalars[f"{name}_low"], scalars[f"{name}_high"] = metric["ci95"]
    return scalars


def cells(row: Mapping[str, Any]) -> dict[str, Any]:
    """A sample as table cells: its metrics beside its other fields, lists and dicts as JSON."""
    flat = {**row, **row.get("metrics", {})}
    flat.pop("metrics", None)
    return {
        name: cell if cell is None or isinstance(cell, str | int | float) else json.dumps(cell, ensure_ascii=False)
        for name, cell in flat.items()
    }


def columns(rows: Iterable[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Rows that may lack fields as columns of equal length, None where there is nothing."""
    rows = list(rows)
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}
