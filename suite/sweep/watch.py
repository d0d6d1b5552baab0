"""How far a sweep is, read off its folders: a live table on a terminal, a line for each finished job elsewhere.

Jobs may run in this process, in others or on other machines: whoever runs them writes the same files.
"""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from types import TracebackType
from typing import Any, Literal, Self

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from suite.errors import UserError
from suite.progress import QUIET, spoken
from suite.records.store import read_record
from suite.report.words import less_is_better, metric_text
from suite.sweep.estimate import past
from suite.sweep.jobs import SweepJob, in_common

POLL_S = 0.5
FRAME = 8
"""Lines of the terminal that the table leaves to the rest."""
RESULT, OTHERS = 40, 56
"""Characters for the main metric, and for everything else but the overrides."""
COLOURS = {"completed": "green", "failed": "red", "running": "yellow", "finished before": "cyan", "waiting": "dim"}


@dataclass(slots=True, kw_only=True)
class Row:
    """A job as it is seen from outside."""

    job: SweepJob
    state: Literal["waiting", "running", "completed", "failed", "finished before"] = "waiting"
    stamps: tuple[int | None, int | None] = (None, None)
    """When its configuration and its record were written before this launch, ns; None where there were none."""
    begun_s: float = 0.0
    wall_s: float | None = None
    estimate_s: float | None = None
    samples: int = 0
    told: str = ""
    """The main metric, or the error."""

    @property
    def age_s(self) -> float:
        """Seconds since it began to run."""
        return time.monotonic() - self.begun_s


class Watch:
    """Shows the jobs of a sweep while the block runs.

    Args:
        total: jobs of the whole sweep, those that are not known yet too.
    """

    def __init__(self, total: int) -> None:
        """Nothing is shown yet."""
        self.total = total
        self.rows: list[Row] = []
        self._console = Console()
        self._lock = threading.Lock()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._poll, name="sweep-watch", daemon=True)
        self._live: Live | None = None

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            os.environ[QUIET] = "1"
            self._live = Live(console=self._console, auto_refresh=False, transient=True)
            self._live.start()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.set()
        self._thread.join()
        if self._live is not None:
            self._live.stop()
            del os.environ[QUIET]

    def reused(self, job: SweepJob, record: Mapping[str, Any]) -> None:
        """A job needs no work."""
        with self._lock:
            self.rows.append(Row(job=job, state="finished before", told=headline(record)))

    @contextmanager
    def launched(self, jobs: Sequence[SweepJob]) -> Iterator[None]:
        """These jobs run within the block; one that leaves no record of this launch has failed."""
        rows = [Row(job=job, stamps=_stamps(job.folder)) for job in jobs]
        with self._lock:
            self.rows += rows
        yield
        with self._lock:
            self._look()
            for row in rows:
                if row.state in ("waiting", "running"):
                    row.state = "failed"
                    self._say(row)

    def left_s(self) -> float | None:
        """Seconds to the end: estimates by earlier jobs, set right by those that finished here; None: unknown."""
        done = [row for row in self.rows if row.wall_s is not None]
        usual = median(row.wall_s or 0.0 for row in done) if done else None  # the first job loads the models for all
        guessed = [(row.wall_s or 0.0, row.estimate_s) for row in done if row.estimate_s]
        right = sum(wall for wall, _ in guessed) / sum(estimate for _, estimate in guessed) if guessed else 1.0
        total, running = 0.0, 0
        for row in (row for row in self.rows if row.state in ("waiting", "running")):
            whole_s = self._by_samples_s(row) or (right * row.estimate_s if row.estimate_s else usual)
            if whole_s is None:
                return None
            running += row.state == "running"
            total += max(0.0, whole_s - row.age_s) if row.state == "running" else whole_s
        unseen = self.total - len(self.rows)
        if (unseen and usual is None) or (running and not total and not unseen):  # longer than was thought
            return None
        return (total + unseen * (usual or 0.0)) / max(1, running)

    def _by_samples_s(self, row: Row) -> float | None:
        """What a job that runs will take, by the samples it has done; None before the first one."""
        counts = [one.samples for one in self.rows if one.state == "completed"]
        if not counts and row.job.plan is not None:
            counts = [row.job.plan.head["config"]["dataset"].get("max_samples") or 0]
        if row.state != "running" or not counts or not 0 < row.samples <= max(counts):
            return None
        return row.age_s * max(counts) / row.samples

    def summary(self) -> str:
        """Counts and the time left, in one line."""
        counts: Counter[str] = Counter(row.state for row in self.rows)
        counts["waiting"] += self.total - len(self.rows)
        told = ", ".join(f"{counts[state]} {state}" for state in COLOURS if counts[state])
        left = self.left_s()
        return f"{told}; {'time left unknown' if left is None else f'about {spoken(left)} left'}"

    def _poll(self) -> None:
        known = None
        while not self._end.wait(POLL_S):
            with self._lock:
                self._look()
                fresh = [row for row in self.rows if row.estimate_s is None and row.state in ("waiting", "running")]
            if fresh:  # outside the lock: the first look at thousands of records takes a while
                known = known or past()
                for row in fresh:
                    estimate = known.estimate(row.job.plan.head["config"]) if row.job.plan else None
                    row.estimate_s = estimate.wall_s if estimate else 0.0
            if self._live is not None:
                self._live.update(self._table(), refresh=True)

    def _look(self) -> None:
        """Bring the rows up to date with the disk."""
        for row in self.rows:
            if row.state not in ("waiting", "running"):
                continue
            config, record = _stamps(row.job.folder)
            if record != row.stamps[1]:
                self._finish(row)
            elif config != row.stamps[0]:
                if row.state == "waiting":
                    row.state, row.begun_s = "running", time.monotonic()
                row.samples = _lines(row.job.folder / "samples.jsonl")

    def _finish(self, row: Row) -> None:
        try:
            record = read_record(row.job.folder)
        except UserError as error:
            row.state, row.told = "failed", str(error)
            return
        if record is not None:
            row.state = "completed" if record["status"] == "completed" else "failed"
            row.wall_s, row.samples = record["wall_time_s"], record["samples"]["completed"]
            row.told = headline(record)
            self._say(row)

    def _say(self, row: Row) -> None:
        """One line for a job that ended, where no table stands."""
        if self._live is None:
            took = f" in {spoken(row.wall_s)}" if row.wall_s is not None else ""
            told = f": {row.told}" if row.told else ""
            said = row.job.said(in_common([row.job for row in self.rows]))
            print(f"job {row.job.number} {row.state}{took} ({said}){told}  [{self.summary()}]", flush=True)

    def _table(self) -> Table:
        """The jobs that fit: what runs, what finished last, what comes next."""
        table = Table(header_style="bold", caption=self.summary(), caption_justify="left")
        for name in ("job", "overrides", "state", "samples", "time", "result"):
            table.add_column(name, justify="right" if name in ("samples", "time") else "left", no_wrap=True)
        shared = in_common([row.job for row in self.rows])
        for row in self._shown():
            time_s = row.age_s if row.state == "running" else row.wall_s
            said, told = Text(row.job.said(shared)), Text(row.told)
            told.truncate(RESULT, overflow="ellipsis")
            said.truncate(max(RESULT // 2, self._console.width - RESULT - OTHERS), overflow="ellipsis")
            table.add_row(
                str(row.job.number),
                said,
                Text(row.state, COLOURS[row.state]),
                str(row.samples) if row.samples else "",
                spoken(time_s) if time_s is not None else "",
                told,
            )
        return table

    def _shown(self) -> list[Row]:
        rows = sorted(self.rows, key=lambda row: row.job.number)
        room = max(3, self._console.height - FRAME)
        active = [i for i, row in enumerate(rows) if row.state == "running"] or [
            i for i, row in enumerate(rows) if row.state != "waiting"
        ]
        begin = max(0, min((active[0] if active else 0) - room // 2, len(rows) - room))
        return rows[begin : begin + room]


def headline(record: Mapping[str, Any]) -> str:
    """What a job reached, with its interval: the first headline metric of which more is better; or its error."""
    if record["status"] != "completed":
        return " ".join(str(record["error"]).split())
    metrics = record["metrics"]
    shown = record["facts"].get("headline", metrics)
    names = [name for name in shown if name in metrics and metrics[name]["value"] is not None]
    gained = [name for name in names if not less_is_better(name, metrics[name]["unit"])]
    return next((f"{name} {metric_text(metrics[name])}" for name in (*gained, *names)), "")


def _stamps(folder: Path) -> tuple[int | None, int | None]:
    return _stamp(folder / ".hydra" / "config.yaml"), _stamp(folder / "record.json")


def _stamp(path: Path) -> int | None:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return None


def _lines(path: Path) -> int:
    try:
        with path.open("rb") as file:
            return sum(1 for _ in file)
    except OSError:
        return 0
