"""A sweep over all three studies, killed again and again: nothing is lost, nothing done twice, the table the same.

Kills are of three kinds, all from outside the code under test: at a random time; right before a random change of the
output folder (a file opened to write, renamed, removed; a folder made); in the middle of a write, where a file reaches
a random length. The same command is given until the sweep ends, every other time into the same folder; then a new sweep
is begun, until there were kills enough.
"""

from __future__ import annotations

import random
import shutil
import signal
from collections import Counter
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import pytest

from tests.faults import forked
from tests.faults.sweeps import AXIS, Studies, Whole, final_table, finished, ids, kept_lines

LONGEST_BYTES = 20_000
"""Of the files that a job writes; most are shorter."""


def attempt(folder: Path, arguments: list[str], whole: Whole, luck: random.Random) -> int:
    """The command, with a kill ahead of it that may come too late; its exit code, or minus the signal."""
    kind = luck.choice(["time", "event", "byte"])
    if kind == "event":
        number = luck.randint(1, whole.events)
        return forked.finish(forked.start(forked.launch_until_event, folder, arguments, number, folder / "events"))
    if kind == "byte":
        size = int(LONGEST_BYTES ** luck.random())
        return forked.finish(forked.start(forked.launch_until_byte, folder, arguments, size))
    process = forked.start(forked.launch, folder, arguments)
    return _after(process, luck.uniform(0.0, whole.wall_s))


def _after(process: ForkServerProcess, seconds: float) -> int:
    process.join(seconds)
    process.kill()
    return forked.finish(process)


@pytest.mark.parametrize("kills", [3, pytest.param(200, marks=pytest.mark.slow)])
def test_a_sweep_that_is_killed_loses_and_doubles_nothing(
    kills: int, studies: Studies, whole: Whole, tmp_path: Path, figures: Counter[str]
) -> None:
    luck = random.Random(kills)
    for name in ("kills", "samples lost", "samples done twice", "tables that differ"):
        figures[name] += 0
    done = sweeps = 0
    while done < kills:
        folder = tmp_path / f"sweep{sweeps}"
        folder.mkdir()
        code, tries = -signal.SIGKILL, 0
        kept: dict[str, list[bytes]] = {}
        records: dict[str, bytes] = {}
        while code != 0:
            where = "sweep" if sweeps % 2 else f"sweep{tries}"
            arguments = [*studies.sweep(AXIS), f"hydra.sweep.dir={where}"]
            if done < kills:
                code = attempt(folder, arguments, whole, luck)
            else:
                code, _ = forked.run(folder, arguments)
            said = (folder / "out.txt").read_text()
            assert code in (0, -signal.SIGKILL, -signal.SIGXFSZ), said
            assert "Traceback" not in said, said
            done, tries = done + (code != 0), tries + 1
            # what was there before the kill is there after it, to the byte
            now, ended = kept_lines(folder), finished(folder)
            lost = sum(now.get(mark, [])[: len(lines)] != lines for mark, lines in kept.items())
            lost += sum(ended.get(mark) != record for mark, record in records.items())
            figures["samples lost"] += lost
            assert not lost
            kept, records = now, ended
        figures["kills"] += tries - 1
        _same(folder / where, whole, figures)
        shutil.rmtree(folder)
        sweeps += 1
    figures["sweeps that were killed and finished"] += sweeps


def _same(sweep: Path, whole: Whole, figures: Counter[str]) -> None:
    found = ids(sweep)
    figures["samples lost"] += sum(len(set(names) - set(found.get(mark, ()))) for mark, names in whole.ids.items())
    figures["samples done twice"] += sum(len(names) - len(set(names)) for names in found.values())
    assert found == whole.ids
    figures["tables that differ"] += final_table(sweep) != whole.table
    assert final_table(sweep) == whole.table
