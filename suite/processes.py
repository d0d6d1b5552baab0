"""Several processes for one job, each with a copy of its models and a share of its samples.

accelerate prepares the processes and carries rows between them, over gloo and on this machine alone; they stay for the
next job of a sweep, so models stay warm. The first one leads: it runs the whole job, keeps the samples and writes the
record, so a record does not depend on how many helped. Which process holds which cards is the planner's choice.
"""

from __future__ import annotations

import atexit
import functools
import logging
import multiprocessing
import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol, TypeVar

from suite.errors import UserError
from suite.hardware.child import die_with
from suite.hardware.machine import allowed_cores

log = logging.getLogger(__name__)
ROUND = 4
"""Samples that a process does between two exchanges of rows; more waste less on waiting, and a kill loses more."""
FOR_EVER = timedelta(days=365)
POLL_S = 0.05


class HasId(Protocol):
    """A sample of any study."""

    @property
    def id(self) -> str:
        """Unique in the data set."""


S = TypeVar("S", bound=HasId)
Row = dict[str, Any]


class Served(BaseException):
    """A process that does not lead has done its share of the samples; the rest of the job is not for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """Process `rank` (0 leads) of `of` processes that run the same job."""

    rank: int
    of: int

    def rows(
        self, todo: Sequence[S], made: Callable[[Sequence[S]], list[Row]], workers: int
    ) -> Generator[Row, None, None]:
        """The rows of `todo` in its order, each made by one of the processes. All of them call this together.

        Args:
            todo: what the leader still has to do; the others need not know what is done.
            made: makes the rows of some samples.
            workers: samples that `made` works on at the same time.

        Raises:
            Exception: in the leader, what `made` raised in any process.
            Served: in the others, at the end.
        """
        from accelerate.utils import broadcast_object_list, gather_object

        (wanted,) = broadcast_object_list([[sample.id for sample in todo]])
        by_id = {sample.id: sample for sample in todo}
        size = self.of * ROUND * workers
        for start in range(0, len(wanted), size):
            dealt = wanted[start : start + size]
            mine: list[Row] | Exception
            try:
                mine = made([by_id[name] for name in dealt[self.rank :: self.of]])
            except Exception as error:  # the others would wait for these rows
                mine = _portable(error)
            hands: list[list[Row] | Exception] = gather_object([mine])
            for hand in hands:
                if isinstance(hand, Exception):
                    raise hand if self.rank == 0 else Served
            if self.rank == 0:
                yield from (hands[place % self.of][place // self.of] for place in range(len(dealt)))  # type: ignore[index]
        if self.rank:
            raise Served


@functools.cache
def team(size: int) -> Team:
    """The processes of this size, started by their first job."""
    return Team(size)


class Team:
    """Processes that run jobs together; all end with the first that dies, and the next job starts new ones."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._running: Any = None
        self._meeting: tempfile.TemporaryDirectory[str] | None = None
        atexit.register(self.stop)

    def run(self, function: Callable[..., Any], *args: Any) -> Any:
        """`function(*args, share=...)` in every process at once, and what it returns in the first.

        Raises:
            UserError: as a process raised it, or a process was killed.
            Exception: whatever else a process raised, with its traceback as a note.
        """
        try:
            if self._running is None:
                self._start()
            for line in self._lines:
                line.put((Path.cwd(), function, args))
            while self._answers.empty():
                self._running.join(timeout=POLL_S)  # raises where a process has died
            value, error = self._answers.get()
        except BaseException as reason:  # an interrupt above all: their answers would meet the next job
            self.stop()
            from torch.multiprocessing.spawn import ProcessException

            if isinstance(reason, ProcessException):
                said = str(reason).strip().splitlines()[-1]
                raise UserError(
                    f"One of the {self.size} processes of gpu_mode ended ({said}), most likely because memory ran out; "
                    "use fewer with gpu_mode.replicas, or gpu_mode=single."
                ) from reason
            raise
        if error is not None:
            self.stop()
            raise error
        return value

    def stop(self) -> None:
        """End all processes by force."""
        for process in self._running.processes if self._running else ():
            process.kill()
            process.join()
        if self._meeting is not None:
            self._meeting.cleanup()
        self._running = self._meeting = None

    def _start(self) -> None:
        from accelerate.utils import PrepareForLaunch, patch_environment
        from torch.multiprocessing.spawn import start_processes

        fresh = multiprocessing.get_context("spawn")
        self._lines = [fresh.SimpleQueue() for _ in range(self.size)]
        self._answers: Any = fresh.SimpleQueue()
        threads = max(1, allowed_cores() // self.size)
        loopback = {"linux": "lo", "darwin": "lo0"}.get(sys.platform)
        self._meeting = tempfile.TemporaryDirectory()
        with patch_environment(
            world_size=self.size,
            local_world_size=self.size,
            accelerate_use_cpu="yes",  # of accelerate's own tensors; models go where the planner says
            omp_num_threads=min(threads, int(os.environ.get("OMP_NUM_THREADS", threads))),
            **({"gloo_socket_ifname": loopback} if loopback else {}),
        ):
            self._running = start_processes(  # type: ignore[no-untyped-call]
                PrepareForLaunch(_serve, distributed_type="MULTI_CPU"),
                args=(self._lines, self._answers, Path(self._meeting.name) / "meeting", os.getpid()),
                nprocs=self.size,
                join=False,
                daemon=True,
                start_method="spawn",
            )


def _serve(lines: Sequence[Any], answers: Any, meeting: Path, parent: int) -> None:
    """A process's life: meet the others, then jobs until it is ended."""
    die_with(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    from accelerate import PartialState

    state = PartialState(cpu=True, timeout=FOR_EVER, init_method=meeting.as_uri())
    share = Share(rank=state.process_index, of=state.num_processes)
    if share.rank:
        os.environ["TQDM_DISABLE"] = "1"  # one bar is enough
    while True:
        folder, function, args = lines[share.rank].get()
        os.chdir(folder)  # it may be another one than that of the job before
        try:
            value = function(*args, share=share)
            if share.rank == 0:
                answers.put((value, None))
        except Served:
            pass
        except (Exception, SystemExit) as error:
            answers.put((None, _portable(error)))


def _portable(error: BaseException) -> Exception:
    """The error as another process can raise it, with this process's traceback as a note."""
    said = error if isinstance(error, UserError) else RuntimeError(f"{type(error).__name__}: {error}")
    said.add_note(traceback.format_exc())
    return said
