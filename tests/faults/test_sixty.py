"""Sixty jobs over the three studies: killed five times and finished, and through every launcher, the same results."""

from __future__ import annotations

import random
import time
from collections import Counter
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.chrome import CHROMIUM, Chrome
from tests.faults import forked
from tests.faults.sweeps import Studies, final_table, finished, ids, results
from tests.integration.test_launchers import LAUNCHERS

pytestmark = pytest.mark.slow

AXIS, JOBS, KILLS = "seed=range(1,21)", 60, 5
HOUR_S = 3600.0


@dataclass(frozen=True, kw_only=True)
class Quiet:
    """The sweep, one job after the other, when nobody interrupts it."""

    arguments: list[str]
    sweep: Path
    wall_s: float


@pytest.fixture(scope="module")
def quiet(studies: Studies, tmp_path_factory: pytest.TempPathFactory) -> Quiet:
    folder = tmp_path_factory.mktemp("quiet")
    arguments = [*studies.sweep(AXIS), "hydra.sweep.dir=sweep"]
    began_s = time.monotonic()
    assert attempt(folder, arguments, HOUR_S) == 0, (folder / "out.txt").read_text()
    wall_s = time.monotonic() - began_s
    assert len(finished(folder / "sweep")) == JOBS
    return Quiet(arguments=arguments, sweep=folder / "sweep", wall_s=wall_s)


def attempt(folder: Path, arguments: list[str], seconds: float) -> int:
    """The command, killed after so many seconds if it still runs; its exit code, or minus the signal."""
    process = forked.start(forked.launch, folder, arguments)
    process.join(seconds)
    process.kill()
    return forked.finish(process)


def test_sixty_jobs_killed_five_times(quiet: Quiet, tmp_path: Path, figures: Counter[str]) -> None:
    luck, at = random.Random(0), list[int]()
    while len(at) < KILLS:
        # within what is left at most: a sweep of which nothing is left cannot be killed
        left_s = quiet.wall_s * (1 - (at[-1] / JOBS if at else 0))
        if attempt(tmp_path, quiet.arguments, 4 + luck.uniform(0.1, 0.4) * left_s) != 0:
            at.append(len(finished(tmp_path)))
    assert attempt(tmp_path, quiet.arguments, HOUR_S) == 0, (tmp_path / "out.txt").read_text()
    figures[f"jobs in {quiet.wall_s:.0f} s; killed with {', '.join(map(str, at))} of them done, and finished"] = JOBS
    _same(tmp_path / "sweep", quiet.sweep)


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on the path")
def test_the_report_of_sixty_jobs_opens(quiet: Quiet, tmp_path: Path) -> None:
    chrome = Chrome(tmp_path)
    try:
        chrome.open(quiet.sweep / "report.html")
        assert chrome.js("document.querySelectorAll('#jobs tbody tr').length") == JOBS
        assert chrome.js("document.querySelectorAll('.chart').length") > 0
        assert [address for address in chrome.requests if not address.startswith(("file://", "data:"))] == []
        assert chrome.complaints == []
    finally:
        chrome.close()


@pytest.mark.parametrize("name", LAUNCHERS)
def test_sixty_jobs_through_every_launcher(name: str, quiet: Quiet, tmp_path: Path, figures: Counter[str]) -> None:
    if find_spec(name) is None:
        pytest.skip(f"needs {name}: pip install {name}")
    began_s = time.monotonic()
    code = attempt(tmp_path, [*quiet.arguments, *LAUNCHERS[name]], HOUR_S)
    assert code == 0, (tmp_path / "out.txt").read_text()
    figures[f"jobs through {name}, in {time.monotonic() - began_s:.0f} s"] = len(finished(tmp_path / "sweep"))
    _same(tmp_path / "sweep", quiet.sweep)


def _same(sweep: Path, quiet: Path) -> None:
    assert ids(sweep) == ids(quiet)
    assert results(sweep) == results(quiet)
    assert final_table(sweep) == final_table(quiet)
