"""Ten thousand records in a folder, and two hundred jobs in one process."""

from __future__ import annotations

import ctypes
import gc
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas
import psutil
import pytest

from suite.__main__ import main
from tests.faults import forked
from tests.faults.sweeps import Studies, finished
from tests.unit.test_report import make_record, make_samples, write_job

JOBS = 200
WARM = 20
"""Jobs until everything is imported and every model is loaded."""
GROWTH_KB = 50
"""A job at most: what a sweep must remember of it."""


@pytest.mark.parametrize("records", [50, pytest.param(10_000, marks=pytest.mark.slow)])
def test_a_folder_of_many_records(
    records: int, tmp_path: Path, figures: Counter[str], capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = tmp_path / "multirun" / "2026-01-02" / "10-00-00"
    samples = make_samples({f"s{i}": i / 20 for i in range(20)})
    for job in range(records):
        record = make_record(k=job % 100 + 1, threshold=job // 100 / 10)
        write_job(sweep / str(job), record | {"fingerprint": f"{job:064x}"}, samples)
    _timed(f"table of {records:,} records", figures, lambda: main(["--root", str(tmp_path), "table"]))
    _timed(f"report of {records:,} records", figures, lambda: main(["--root", str(tmp_path), "report"]))
    capsys.readouterr()
    _timed(f"list of {records:,} records", figures, lambda: main(["--root", str(tmp_path), "ls"]))
    assert capsys.readouterr().out.count("specdec") >= records

    table = pandas.read_csv(sweep / "table.csv")
    assert table["job"].tolist() == list(range(records))
    assert table["bleu"].tolist() == pytest.approx([0.1 * (job % 100 + 1) for job in range(records)])
    assert f"{records} jobs" in (sweep / "report.html").read_text().replace(",", "")


def _timed(name: str, figures: Counter[str], command: Callable[[], int]) -> None:
    began_s = time.monotonic()
    assert command() == 0
    figures[f"ms: {name}"] = round(1000 * (time.monotonic() - began_s))


def launch_weighed(arguments: list[str], weights: Path) -> int:
    """The launch; after each job the size of the process (resident, bytes) goes into `weights`."""
    process, sizes = psutil.Process(), list[int]()
    # what is freed and not given back yet, a few MB here or there, is no growth
    give_back = getattr(ctypes.CDLL(None), "malloc_trim", lambda pad: None)  # of glibc alone

    def watch(event: str, given: tuple[Any, ...]) -> None:
        if event == "os.rename" and os.fsdecode(given[1]).endswith("record.json"):
            gc.collect()
            give_back(0)
            sizes.append(process.memory_info().rss)

    sys.addaudithook(watch)
    code = forked.launch(arguments)
    weights.write_text(json.dumps(sizes))
    return code


@pytest.mark.slow
def test_memory_stays_flat_over_many_jobs(studies: Studies, tmp_path: Path, figures: Counter[str]) -> None:
    config, experiments = studies.sweep()[1:3], studies.sweep()[3]
    arguments = ["-m", *config, f"seed=range({-(-JOBS // 3)})", experiments, "hydra.sweep.dir=sweep"]
    process = forked.start(launch_weighed, tmp_path, arguments, tmp_path / "weights")
    assert forked.finish(process) == 0, (tmp_path / "out.txt").read_text()
    assert len(finished(tmp_path / "sweep")) >= JOBS
    sizes = json.loads((tmp_path / "weights").read_text())
    growth_kb = (sizes[JOBS - 1] - sizes[WARM]) / 1000 / (JOBS - WARM)
    figures[f"MB resident after {WARM} jobs"] = round(sizes[WARM] / 1e6)
    figures[f"MB resident after {JOBS} jobs"] = round(sizes[JOBS - 1] / 1e6)
    assert growth_kb < GROWTH_KB
