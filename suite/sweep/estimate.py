"""How long a job will take and what it will cost, by the finished jobs that are configured most like it.

What this does not know: whether a machine was busy, and how much of a job's time was spent on loading its models.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from suite.config import UNTRACKED
from suite.errors import UserError
from suite.job import INDEX
from suite.records.store import read_record
from suite.report.collect import flatten

SAME = ("task.name", "models.", "hardware.", "gpu_mode.", "dataset.")
"""Settings that must agree: with another task, model, machine or data set the times of a job say nothing."""
FREE = ("dataset.max_samples", "seed")


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What a job may take.

    Attributes:
        wall_s: seconds.
        costs: metrics whose name begins with `cost`, in their own units.
    """

    wall_s: float
    costs: dict[str, float]


class Experience:
    """The completed jobs that an estimate can rest on."""

    def __init__(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Keep what completed, by what must agree."""
        self._known: dict[str, list[tuple[dict[str, Any], Mapping[str, Any]]]] = {}
        for record in records:
            if record["status"] == "completed" and record["samples"]["completed"]:
                settings = _settings(record["config"])
                self._known.setdefault(_frame(settings), []).append((settings, record))

    def estimate(self, config: Mapping[str, Any]) -> Estimate | None:
        """By the nearest jobs, scaled to the number of samples; None where nothing comparable has finished.

        Args:
            config: of the job, as its record will hold it.
        """
        settings = _settings(config)
        near = [
            (_distance(settings, other), scale, record)
            for other, record in self._known.get(_frame(settings), ())
            if (scale := _scale(settings, other, record)) is not None
        ]
        if not near:
            return None
        least = min(distance for distance, _, _ in near)
        nearest = [(scale, record) for distance, scale, record in near if distance == least]
        return Estimate(
            wall_s=median(scale * record["wall_time_s"] for scale, record in nearest), costs=costs(nearest[-1][1])
        )


def costs(record: Mapping[str, Any]) -> dict[str, float]:
    """What a record says a job cost, by metric."""
    return {
        name: metric["value"]
        for name, metric in record["metrics"].items()
        if name.startswith("cost") and metric["value"] is not None
    }


def past() -> Experience:
    """Everything that completed and was launched from this folder; a record that cannot be read is left out."""
    found = []
    for entry in INDEX.iterdir() if INDEX.is_dir() else ():
        if entry.suffix == ".lock":
            continue
        try:
            record = read_record(Path(entry.read_text(encoding="utf-8")))
        except (UserError, OSError):
            continue
        if record is not None:
            found.append(record)
    return Experience(found)


def _settings(config: Mapping[str, Any]) -> dict[str, Any]:
    return flatten({key: value for key, value in config.items() if key not in UNTRACKED})


def _frame(settings: Mapping[str, Any]) -> str:
    """What must agree for one job to tell of another."""
    kept = {key: value for key, value in settings.items() if key.startswith(SAME) and key not in FREE}
    return json.dumps(kept, sort_keys=True, default=str)


def _distance(a: Mapping[str, Any], b: Mapping[str, Any]) -> float:
    """How many options differ; numbers count by how far they are apart, one at most."""
    return sum(_gap(a.get(key), b.get(key)) for key in (a.keys() | b.keys()) - set(FREE))


def _gap(x: Any, y: Any) -> float:
    if x == y:
        return 0.0
    if type(x) in (int, float) and type(y) in (int, float):
        return float(abs(x - y) / (abs(x) + abs(y)))
    return 1.0


def _scale(a: Mapping[str, Any], b: Mapping[str, Any], record: Mapping[str, Any]) -> float | None:
    """Samples of `a` for each sample of `b`'s record; None where `a` wants all there are and nobody counted them."""
    wanted, asked = a.get("dataset.max_samples"), b.get("dataset.max_samples")
    counted = record["samples"]["completed"] + record["samples"]["failed"]
    if wanted == asked:
        return 1.0
    whole = asked is None or counted < asked
    if wanted is None:
        return 1.0 if whole else None
    ratio: float = (min(wanted, counted) if whole else wanted) / counted
    return ratio
