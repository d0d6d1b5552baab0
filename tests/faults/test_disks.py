"""Disks that are full or read-only, clocks that jump, and two launches at once in one folder."""

from __future__ import annotations

import itertools
import os
import shutil
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.faults import forked
from tests.faults.mounts import MS_RDONLY, MS_REMOUNT, alone, skip_unless_allowed, small_disk
from tests.faults.sweeps import AXIS, Studies, Whole, final_table, finished, ids

pytestmark = pytest.mark.slow
ROOMY = "64m"
HERE = ["hydra.sweep.dir=sweep"]


def on_a_full_disk(arguments: list[str], size: str) -> int:
    """The launch on a disk of this size, and again with room enough; what it leaves is copied to `left`."""
    with _disk(size):
        small = forked.launch(arguments)
        print(f"\nexit code {small}", flush=True)
        small_disk(Path.cwd(), ROOMY, MS_REMOUNT)
        code = forked.launch(arguments)
        shutil.copytree(".", "../left")
    return code


def on_a_read_only_disk(arguments: list[str]) -> int:
    """The launch on a read-only disk, on one that can be written, and a table of it when it cannot again."""
    from suite.__main__ import main

    with _disk(ROOMY):
        small_disk(Path.cwd(), ROOMY, MS_REMOUNT | MS_RDONLY)
        print(f"\nexit code {forked.launch(arguments)}", flush=True)
        small_disk(Path.cwd(), ROOMY, MS_REMOUNT)
        code = forked.launch(arguments)
        small_disk(Path.cwd(), ROOMY, MS_REMOUNT | MS_RDONLY)
        print(f"\nexit code {main(['table', 'sweep'])} of the table", flush=True)
    return code


class _disk:
    """A disk of one's own to work on."""

    def __init__(self, size: str) -> None:
        self.size = size

    def __enter__(self) -> None:
        alone()
        Path("disk").mkdir()
        small_disk(Path("disk"), self.size)
        os.chdir("disk")

    def __exit__(self, *_: object) -> None:
        os.chdir("..")


@pytest.mark.parametrize("size", [f"{size}k" for size in range(20, 600, 40)])
def test_a_disk_that_is_full_costs_a_sentence_and_nothing_that_was_computed(
    size: str, studies: Studies, whole: Whole, tmp_path: Path
) -> None:
    skip_unless_allowed()
    code = forked.finish(forked.start(on_a_full_disk, tmp_path, [*studies.sweep(AXIS), *HERE], size))
    said = (tmp_path / "out.txt").read_text()
    assert code == 0, said
    assert "Traceback" not in said and "Logging error" not in said, said
    if "exit code 0" not in said:
        assert "No space left on device" in said.partition("exit code")[0]
    assert final_table(tmp_path / "left" / "sweep") == whole.table
    assert ids(tmp_path / "left" / "sweep") == whole.ids


def test_a_read_only_folder_is_a_sentence(studies: Studies, tmp_path: Path) -> None:
    skip_unless_allowed()
    arguments = [*studies.sweep(studies=("specdec",)), *HERE]
    code = forked.finish(forked.start(on_a_read_only_disk, tmp_path, arguments))
    first, second, third = (tmp_path / "out.txt").read_text().split("exit code ")
    assert code == 0, second
    assert "Read-only file system" in first and "Traceback" not in first + second + third
    assert second.startswith(("1\n", "2\n")) and third.startswith("2 of the table")
    assert "Cannot write" in second


def in_another_time(arguments: list[str], year: int, number: int, count: Path) -> int:
    """The launch while the clock on the wall says so and jumps by days, there and back, each time it is looked at."""
    import suite.job

    jumps = itertools.cycle([0, 40 * 86_400, -9 * 86_400])

    class FakeDatetime(datetime):
        @classmethod
        def now(cls, tz: object = None) -> FakeDatetime:  # type: ignore[override]
            return cls.fromtimestamp(time.time(), UTC)

    start = datetime(year, 3, 31, tzinfo=UTC).timestamp()
    time.time = lambda: start + next(jumps)  # type: ignore[assignment]
    suite.job.datetime = FakeDatetime  # type: ignore[misc]
    return forked.launch_until_event(arguments, number, count)


@pytest.mark.slow
def test_a_clock_that_jumps_changes_no_number(studies: Studies, whole: Whole, tmp_path: Path) -> None:
    for year, number in ((2031, whole.events // 2), (1999, whole.events // 3), (2024, 0)):
        arguments = [*studies.sweep(AXIS), f"hydra.sweep.dir=multirun/{year}-03-31/12-00-00"]
        code = forked.finish(forked.start(in_another_time, tmp_path, arguments, year, number, tmp_path / "events"))
    assert code == 0, (tmp_path / "out.txt").read_text()
    sweep = tmp_path / "multirun" / "2024-03-31" / "12-00-00"
    assert final_table(sweep) == whole.table
    assert ids(sweep) == whole.ids


@pytest.mark.slow
def test_two_launches_at_once_in_one_folder(studies: Studies, whole: Whole, tmp_path: Path) -> None:
    arguments = [*studies.sweep(AXIS), *HERE]
    both = [forked.start(forked.launch, tmp_path, arguments, out=name) for name in ("one.txt", "two.txt")]
    codes = [forked.finish(process) for process in both]
    said = [(tmp_path / name).read_text() for name in ("one.txt", "two.txt")]
    assert set(codes) <= {0, 1}, said
    assert not any("Traceback" in text for text in said), said
    for code, text in zip(codes, said, strict=True):  # a job that the other one is at work on is refused
        assert code == 0 or "is running already" in text, text
    done = finished(tmp_path / "sweep")
    assert forked.run(tmp_path, arguments)[0] == 0
    assert done.items() <= finished(tmp_path / "sweep").items()
    assert final_table(tmp_path / "sweep") == whole.table
    assert ids(tmp_path / "sweep") == whole.ids
