"""Find records, and see a folder of them as one sweep: which settings differ, which metrics to show.

A job that has samples but no record yet stands among them with a provisional one (running.py).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from suite.errors import UserError
from suite.records.samples import read_samples
from suite.records.store import read_record
from suite.report.running import RUNNING, metrics_so_far, provisional_record

SHORT = 8
"""Hex digits of a fingerprint that are shown, and the least that may be typed."""
KINDS = ("outputs", "multirun")
"""Folders of single runs and of sweeps; inside them <date>/<time>."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRecord:
    """One record, if need be a provisional one, and where it lies."""

    folder: Path
    label: str
    """The folder seen from where the search began; the job number in a sweep."""
    record: dict[str, Any]

    @property
    def done(self) -> int:
        """Samples completed."""
        return int(self.record["samples"]["completed"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """The records below one folder, side by side."""

    folder: Path
    jobs: tuple[JobRecord, ...]
    """One per fingerprint, job 10 after job 2."""
    settings: dict[str, tuple[Any, ...]]
    """Short name of each setting that tells the jobs apart -> its value in each job."""
    metrics: tuple[str, ...]
    """Every metric of any job, in stored order."""
    headline: tuple[str, ...]
    """The metrics to show first: what the records' facts name, else all."""
    unrecorded: tuple[str, ...]
    """Labels of job folders that have nothing to show: killed or refused before the first sample, or just begun."""


def read_sweep(folder: Path) -> Sweep:
    """All records at or below `folder`.

    Raises:
        UserError: the folder is missing or holds no job that began, or a record is broken.
    """
    if not folder.is_dir():
        raise UserError(f"There is no folder {folder}; run a job first, or name another folder.")
    found = find_jobs(folder)
    jobs = [_measured(job) for job in unique(found)]
    if not jobs:
        raise UserError(
            f"There is no record.json and no job under way in {folder} or below it; run a job first, or name another "
            "folder."
        )
    begun = {job.folder for job in found}
    return _side_by_side(
        folder, jobs, unrecorded=tuple(_label(path, folder) for path in _job_folders(folder) if path not in begun)
    )


def by_task(sweep: Sweep) -> dict[str, Sweep]:
    """The jobs of each study by themselves, with the settings and metrics that are theirs."""
    tasks: dict[str, list[JobRecord]] = {}
    for job in sweep.jobs:
        tasks.setdefault(job.record["task"], []).append(job)
    return {task: _side_by_side(sweep.folder, jobs) for task, jobs in tasks.items()}


def _side_by_side(folder: Path, jobs: Sequence[JobRecord], unrecorded: tuple[str, ...] = ()) -> Sweep:
    metrics = tuple(dict.fromkeys(name for job in jobs for name in job.record["metrics"]))
    named = dict.fromkeys(name for job in jobs for name in job.record["facts"].get("headline", ()))
    return Sweep(
        folder=folder,
        jobs=tuple(jobs),
        settings=differing_settings([job.record for job in jobs], taken=metrics),
        metrics=metrics,
        headline=tuple(name for name in named if name in metrics) or metrics,
        unrecorded=unrecorded,
    )


def all_jobs(root: Path) -> list[JobRecord]:
    """Every job in root/outputs and root/multirun, once per fingerprint, labelled from `root`.

    Those that have no record yet come without metrics, which take a while to work out.

    Raises:
        UserError: there is none.
    """
    jobs = unique(job for kind in KINDS for job in find_jobs(root / kind, seen_from=root))
    if not jobs:
        raise UserError(f"There are no records in {root / KINDS[0]} or {root / KINDS[1]}; run a job first.")
    return jobs


def find_jobs(folder: Path, seen_from: Path | None = None) -> list[JobRecord]:
    """Every job at or below `folder`, labelled from `seen_from` (default: `folder`), numbers sorted as numbers."""
    found = []
    for path in _job_folders(folder):
        if (record := read_record(path) or provisional_record(path)) is not None:
            found.append(JobRecord(folder=path, label=_label(path, seen_from or folder), record=record))
    return found


def unique(jobs: Iterable[JobRecord]) -> list[JobRecord]:
    """One job per fingerprint: the completed one that started last, else whatever started last."""
    best: dict[str, JobRecord] = {}
    for job in jobs:
        mark = job.record["fingerprint"]
        if mark not in best or _rank(job) >= _rank(best[mark]):
            best[mark] = job
    return sorted(best.values(), key=lambda job: _natural(job.label))


def latest(root: Path) -> Path:
    """The newest sweep in root/multirun or job in root/outputs that has begun; their names are date and time.

    Raises:
        UserError: there is none.
    """
    runs = [path for kind in KINDS for path in (root / kind).glob("*/*") if path.is_dir()]
    for path in sorted(runs, key=lambda run: run.parts[-2:], reverse=True):
        if next(path.rglob("record.json"), None) or next(path.rglob("samples.jsonl"), None):
            return path
    raise UserError(f"There are no records in {root / KINDS[0]} or {root / KINDS[1]}; run a job first.")


def locate(root: Path, name: str) -> JobRecord:
    """The one job that `name` means: a job folder, its record.json, or the first digits of a fingerprint.

    Raises:
        UserError: no job, or more than one.
    """
    path = root / name  # an absolute name stays what it is
    folder = path.parent if path.name == "record.json" else path
    if folder.is_dir():
        jobs = read_sweep(folder).jobs
        if len(jobs) > 1:
            raise UserError(f"{name} holds {len(jobs)} jobs; name one, such as {name.rstrip('/')}/{jobs[0].label}.")
        return jobs[0]
    matches = [job for job in all_jobs(root) if job.record["fingerprint"].startswith(name.lower())]
    if len(name) < SHORT or len(matches) != 1:
        raise UserError(
            f"{name} is not a job folder, nor the first {SHORT} or more digits of just one fingerprint; "
            "`python -m suite ls` lists both."
        )
    return _measured(matches[0])


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dicts as dotted keys; lists become their JSON text, empty dicts vanish."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{name}."))
        else:
            flat[name] = json.dumps(value, ensure_ascii=False) if isinstance(value, list) else value
    return flat


def differing_settings(records: list[dict[str, Any]], taken: Iterable[str] = ()) -> dict[str, tuple[Any, ...]]:
    """The fewest settings that tell the records apart, by short name.

    Settings that were typed come first and stay whenever they differ. Of the others one stays only if those before it
    do not determine it: `hardware=h100` changes a dozen values of the spec sheet, and its name alone is shown.

    Args:
        records: as in record.json.
        taken: short names that may not be used.
    """
    from suite.config import UNTRACKED  # imports Hydra, which a single job's table does not need

    typed = [{key: text for key, text in _typed(r).items() if key.split(".")[0] not in UNTRACKED} for r in records]
    rows = []
    for record, choices in zip(records, typed, strict=True):
        config = {key: value for key, value in record["config"].items() if key not in UNTRACKED}
        rows.append({"task": record["task"], **choices, **flatten(config)})
    # a study's own options are missing from the other studies' jobs, which does not make them differ
    values: dict[tuple[str, str], set[str]] = {}
    keys = dict.fromkeys(key for row in rows for key in row)
    for row in rows:
        for key in keys:
            values.setdefault((row["task"], key), set()).add(_plain(row.get(key)))
    differs = [key for key in keys if any(len(found) > 1 for (_, name), found in values.items() if name == key)]

    kept = ["task"] if len({row["task"] for row in rows}) > 1 else []
    kept += [key for key in dict.fromkeys(key for choices in typed for key in choices) if key in differs]
    told = [[_plain(row.get(key)) for key in kept] for row in rows]
    for key in sorted(differs, key=lambda key: not key.endswith((".name", ".id"))):
        if key in kept:
            continue
        more = [[*cells, _plain(row.get(key))] for cells, row in zip(told, rows, strict=True)]
        if len(set(map(tuple, more))) > len(set(map(tuple, told))):
            kept, told = [*kept, key], more
    names = _short_names(kept, {"job", "fingerprint", "name", "status", "n", "failed", "error", *taken})
    return {names[key]: tuple(row.get(key) for row in rows) for key in kept}


def _typed(record: Mapping[str, Any]) -> dict[str, str]:
    """Overrides as key -> text; choosing `hardware=x` names hardware.name where the group has such a field."""
    found = {}
    for override in record["overrides"]:
        key, _, text = override.lstrip("+").partition("=")
        key = key.partition("@")[0].replace("/", ".")
        if key.startswith(("~", "hydra.")):
            continue
        named = isinstance(record["config"].get(key), Mapping) and "name" in record["config"][key]
        found[f"{key}.name" if named else key] = text
    return found


def _short_names(keys: list[str], taken: set[str]) -> dict[str, str]:
    """The last part of each key, more parts where two would collide; `hardware.name` is `hardware`."""
    bare = {key: key.removesuffix(".name").removesuffix(".id") for key in keys}
    last = {key: name.rsplit(".", 1)[-1] for key, name in bare.items()}
    clash = {name for name in last.values() if name in taken or list(last.values()).count(name) > 1}
    return {key: key if last[key] in clash else last[key] for key in keys}


def _measured(job: JobRecord) -> JobRecord:
    """With the metrics so far, where there is no record yet."""
    if job.record["status"] != RUNNING:
        return job
    metrics = metrics_so_far(read_samples(job.folder / "samples.jsonl"), job.record["seed"])
    return replace(job, record={**job.record, "metrics": metrics})


def _plain(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)


def _job_folders(folder: Path) -> list[Path]:
    """Folders that a job wrote into, itself included; hidden folders are not searched."""
    found = []
    for path, folders, files in os.walk(folder):
        if "record.json" in files or "samples.jsonl" in files or ".hydra" in folders:
            found.append(Path(path))
        folders[:] = [name for name in folders if not name.startswith(".")]
    return sorted(found, key=lambda path: _natural(_label(path, folder)))


def _label(path: Path, folder: Path) -> str:
    return path.name if path == folder else path.relative_to(folder).as_posix()


def _natural(label: str) -> list[tuple[bool, int, str]]:
    return [(not part.isdigit(), int(part) if part.isdigit() else 0, part) for part in label.split("/")]


def _rank(job: JobRecord) -> tuple[bool, str]:
    return job.record["status"] == "completed", job.record["started_at"]
