"""A sweep of sixty jobs over the three studies, killed five times and finished: as if nobody had interrupted it."""

from __future__ import annotations

import random
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.faults import forked
from tests.faults.sweeps import Studies, final_table, finished, ids

pytestmark = pytest.mark.slow

AXIS, JOBS, KILLS = "seed=range(1,21)", 60, 5
HOUR_S = 3600.0


def attempt(folder: Path, arguments: list[str], seconds: float) -> int:
    """The command, killed after so many seconds if it still runs; its exit code, or minus the signal."""
    process = forked.start(forked.launch, folder, arguments)
    process.join(seconds)
    process.kill()
    return forked.finish(process)


def test_sixty_jobs_killed_five_times(studies: Studies, tmp_path: Path, figures: Counter[str]) -> None:
    quiet, rough = tmp_path / "quiet", tmp_path / "rough"
    arguments = [*studies.sweep(AXIS), "hydra.sweep.dir=sweep"]
    for folder in (quiet, rough):
        folder.mkdir()
    began_s = time.monotonic()
    assert attempt(quiet, arguments, HOUR_S) == 0, (quiet / "out.txt").read_text()
    wall_s = time.monotonic() - began_s
    assert len(finished(quiet / "sweep")) == JOBS

    luck, at = random.Random(0), list[int]()
    while len(at) < KILLS:
        # within what is left at most: a sweep of which nothing is left cannot be killed
        left_s = wall_s * (1 - (at[-1] / JOBS if at else 0))
        if attempt(rough, arguments, 4 + luck.uniform(0.1, 0.4) * left_s) != 0:
            at.append(len(finished(rough)))
    assert attempt(rough, arguments, HOUR_S) == 0, (rough / "out.txt").read_text()
    figures[f"jobs in {wall_s:.0f} s; killed with {', '.join(map(str, at))} of them done, and finished"] = JOBS
    assert ids(rough / "sweep") == ids(quiet / "sweep")
    assert final_table(rough / "sweep") == final_table(quiet / "sweep")
