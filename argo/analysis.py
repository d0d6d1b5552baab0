"""What a sweep of `task=argo` teaches: the curves of its strategies over the cost of a retrieval, job by job.

`analyse` runs when a sweep ends. It reads the records and leaves analysis.json, plots/*.svg and trajectories.html
beside them; the report shows the first two and links the page. Jobs are compared that are alike but for strategy and
cost ratio: each seed, replicate or model is a group of its own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from argo import page, plots
from argo.corpus import Passage
from argo.curves import Cell
from argo.questions import read_questions
from argo.schema import QuestionsConfig
from argo.summary import Summary, summarise
from suite.config import UNTRACKED
from suite.context import ok
from suite.errors import UserError
from suite.records.samples import read_samples
from suite.records.store import write_atomic
from suite.report.collect import JobRecord, differing_settings, read_sweep
from suite.report.words import setting

SWEPT = ("strategy", "cost_ratio")
"""Of `task`: what tells the cells of a group apart."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Jobs that are alike but for strategy and cost ratio.

    Attributes:
        label: what sets it apart from the other groups of the sweep, such as `seed=1`; empty where it is the only one.
        jobs: by cell.
    """

    label: str
    jobs: Mapping[Cell, JobRecord]

    @property
    def facts(self) -> dict[str, Any]:
        """Of the jobs' records together: `words`, `breakpoints`, `baselines`."""
        told = [job.record["facts"] for job in self.jobs.values()]
        words = {ratio: word for facts in told for ratio, word in facts.get("words", {}).items()}
        return {**told[0], "words": words}


def analyse(folder: Path) -> None:
    """Write analysis.json, plots/*.svg and trajectories.html into a sweep's folder; nothing for fewer than two cells.

    Raises:
        UserError: a record is broken, no question was answered in all cells, or the folder cannot be written.
    """
    jobs = [job for job in read_sweep(folder).jobs if job.record["status"] == "completed"]
    found = [group for group in groups([job for job in jobs if job.record["task"] == "argo"]) if len(group.jobs) > 1]
    said, tables, content = [], [], []
    for group in found:
        suffix = f"_{group.label.replace('=', '-').replace(', ', '_').replace('/', '-')}" if group.label else ""
        summary, pages = _look(folder, group, suffix)
        prefix = f"{group.label}: " if group.label else ""
        said.append(f"{prefix}{summary.verdict} Every walk, side by side: {pages}.")
        tables += [{**table, "title": prefix + table["title"]} for table in summary.tables]
        metrics = {name: metric.to_json() for name, metric in summary.metrics.items()}
        labels = [job.label for job in group.jobs.values()]
        content.append({"group": group.label, "jobs": labels, "verdict": summary.verdict, "metrics": metrics})
    if found:
        told = {"summary": said, "tables": tables, "groups": content}
        write_atomic(folder / "analysis.json", json.dumps(told, indent=1, ensure_ascii=False, allow_nan=False))


def groups(jobs: Sequence[JobRecord]) -> list[Group]:
    """The jobs by what they have in common."""
    found: dict[str, dict[Cell, JobRecord]] = {}
    for job in jobs:
        task, rest = job.record["config"]["task"], _without_swept(job.record)
        config = {key: value for key, value in rest["config"].items() if key not in UNTRACKED}
        same = json.dumps([config, job.record["models"], job.record["data_sha256"]], sort_keys=True)
        cell = Cell(strategy=task["strategy"], cost_ratio=float(task["cost_ratio"]))
        found.setdefault(same, {})[cell] = job
    settings = differing_settings([_without_swept(next(iter(group.values())).record) for group in found.values()])
    return [
        Group(label=", ".join(f"{name}={setting(values[at])}" for name, values in settings.items()), jobs=group)
        for at, group in enumerate(found.values())
    ]


def _look(folder: Path, group: Group, suffix: str) -> tuple[Summary, str]:
    """Plots and page of one group; its summary, and the page's name."""
    found = page.gather({cell: ok(read_samples(job.folder / "samples.jsonl")) for cell, job in group.jobs.items()})
    grid: dict[Cell, dict[str, Any]] = {cell: {} for cell in group.jobs}
    for row in found:
        for one in row["cells"]:
            grid[Cell(strategy=one["strategy"], cost_ratio=one["cost_ratio"])][row["id"]] = one["metrics"]
    first = next(iter(group.jobs.values())).record
    summary = summarise(grid, group.facts, seed=first["seed"])
    plots.draw(folder / "plots", summary, group.facts, suffix=suffix)
    name = f"trajectories{suffix}.html"
    page.write(folder / name, found, _passages(first["config"]["dataset"]))
    return summary, name


def _passages(dataset: Mapping[str, Any]) -> dict[str, Passage]:
    """The corpus, for its titles; nothing where the data is gone since."""
    try:
        return {passage.id: passage for passage in read_questions(QuestionsConfig(**dataset), None).passages}
    except UserError:
        return {}


def _without_swept(record: Mapping[str, Any]) -> dict[str, Any]:
    """The record as if strategy and cost ratio were no settings."""
    config = deepcopy(record["config"])
    for name in SWEPT:
        del config["task"][name]
    typed = [text for text in record["overrides"] if text.partition("=")[0] not in {f"task.{name}" for name in SWEPT}]
    return {**record, "config": config, "overrides": typed}
