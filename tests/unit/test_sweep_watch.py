"""Estimates by similar jobs, and what is said while a sweep runs."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from suite.config import plain
from suite.progress import QUIET, Progress
from suite.records.store import SCHEMA, write_atomic
from suite.sweep.estimate import Experience
from suite.sweep.jobs import SweepJob
from suite.sweep.watch import Watch


def config(**changes: Any) -> dict[str, Any]:
    settings = {
        "task.name": "toy",
        "task.k": 2,
        "task.gate": "always",
        "models.llm.id": "a",
        "hardware.name": "local",
        "gpu_mode.name": "auto",
        "dataset.max_samples": 10,
        "dataset.path": "x",
        "seed": 42,
        **{name.replace("__", "."): value for name, value in changes.items()},
    }
    cfg = OmegaConf.create({})
    for name, value in settings.items():
        OmegaConf.update(cfg, name, value)
    return plain(cfg)


def metric(value: float, ci95: list[float] | None = None) -> dict[str, Any]:
    return {"value": value, "unit": "1", "n": 10, "ci95": ci95, "origin": "computed", "note": ""}


def record(wall_s: float, *, n: int = 10, status: str = "completed", cost: float | None = None, **changes: Any) -> Any:
    metrics = {"cost_usd": metric(cost)} if cost is not None else {}
    return {
        "schema": SCHEMA,
        "fingerprint": "0" * 64,
        "status": status,
        "task": "toy",
        "name": "toy_results",
        "overrides": [],
        "seed": 42,
        "models": {},
        "data_sha256": None,
        "provenance": {},
        "started_at": "2026-01-01T00:00:00+00:00",
        "error": None,
        "config": config(**changes),
        "samples": {"completed": n, "failed": 0},
        "metrics": metrics,
        "facts": {},
        "wall_time_s": wall_s,
    }


def wall_s(known: list[Any], **changes: Any) -> float | None:
    estimate = Experience(known).estimate(config(**changes))
    return estimate.wall_s if estimate else None


def test_the_nearest_configuration_speaks() -> None:
    known = [record(10.0, task__k=3), record(40.0, task__k=16), record(90.0, task__gate="never")]
    assert wall_s(known) == 10.0
    assert wall_s(known, task__k=20) == 40.0
    assert wall_s(known, task__gate="never", task__k=3) == 90.0


def test_of_several_as_near_the_median() -> None:
    assert wall_s([record(10.0, seed=1), record(50.0, seed=2), record(20.0, seed=3)]) == 20.0


@pytest.mark.parametrize(
    "change",
    [
        {"task__name": "other"},
        {"models__llm__id": "b"},
        {"hardware__name": "h100"},
        {"gpu_mode__name": "single"},
        {"dataset__path": "y"},
    ],
)
def test_what_is_not_comparable_is_unknown(change: dict[str, Any]) -> None:
    assert wall_s([record(10.0)], **change) is None
    assert wall_s([]) is None
    assert wall_s([record(10.0, status="failed")]) is None


def test_samples_scale_the_time() -> None:
    ten = record(10.0, n=10)
    assert wall_s([ten], dataset__max_samples=30) == 30.0
    assert wall_s([ten], dataset__max_samples=None) is None  # how many there are nobody knows
    whole = record(10.0, n=7)  # of ten asked for there were seven: that is all
    assert wall_s([whole], dataset__max_samples=None) == 10.0
    assert wall_s([whole], dataset__max_samples=100) == 10.0
    everything = record(10.0, n=40, dataset__max_samples=None)
    assert wall_s([everything], dataset__max_samples=10) == 2.5


def test_costs_are_those_of_the_nearest() -> None:
    estimate = Experience([record(1.0, cost=0.25), record(1.0, cost=9.0, task__k=64)]).estimate(config())
    assert estimate is not None and estimate.costs == {"cost_usd": 0.25}


def sweep_job(folder: Path, number: int) -> SweepJob:
    return SweepJob(number=number, overrides=(f"task.k={number + 1}",), folder=folder / str(number), plan=None)


def begin(job: SweepJob) -> None:
    (job.folder / ".hydra").mkdir(parents=True)
    (job.folder / ".hydra" / "config.yaml").write_text("{}")


def finish(job: SweepJob, told: Any) -> None:
    write_atomic(job.folder / "record.json", json.dumps(told))


def test_a_line_for_each_job_that_ends(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    jobs = [sweep_job(tmp_path, number) for number in range(4)]
    begin(jobs[3])
    finish(jobs[3], record(5.0, status="failed"))  # of an earlier launch into the same folder, which is run again
    good = record(8.0)
    good["metrics"] = {"bleu": metric(31.4159, [30.0, 33.0])}
    with Watch(5) as watch:
        watch.reused(jobs[0], good)
        with watch.launched(jobs[1:]):
            begin(jobs[1])
            watch._look()
            assert watch.summary().startswith("1 running, 1 finished before, 3 waiting; ")
            finish(jobs[1], good)
            watch._look()
            assert watch.left_s() == 8.0 * 3
            begin(jobs[2])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(
        "job 1 completed in 8 s (task.k=2): bleu 31.42 [30, 33]  [1 completed, 1 finished before, 3 waiting"
    )
    assert [line.split("  [")[0] for line in lines[1:]] == ["job 2 failed (task.k=3)", "job 3 failed (task.k=4)"]


def test_under_a_table_there_is_no_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    with Progress("work", 3) as bar:
        assert bar._bar is not None
    monkeypatch.setenv(QUIET, "1")
    with Progress("work", 3) as bar:
        assert bar._bar is None


def test_a_table_on_a_terminal_and_the_environment_as_it_was(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr("suite.sweep.watch.POLL_S", 0.01)
    jobs = [sweep_job(tmp_path, number) for number in range(60)]
    with Watch(60) as watch, watch.launched(jobs):
        assert os.environ[QUIET]
        for job in jobs[:30]:
            begin(job)
        watch._look()
        shown = [row.job.number for row in watch._shown()]
        assert 0 in shown and len(shown) < 60
        for job in jobs:
            begin(job) if job.number >= 30 else None
            finish(job, record(2.0))
    assert QUIET not in os.environ
    assert {row.state for row in watch.rows} == {"completed"}
