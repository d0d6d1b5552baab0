"""Run jobs in one long-lived child process under a hardware profile's limits: cores, threads, memory.

The child stays warm between the jobs of a sweep, so models stay loaded. It is a fresh interpreter (spawn) with the
environment of the moment it started: what the parent set up later (logging, variables) a job has to set up itself.
"""

from __future__ import annotations

import atexit
import functools
import multiprocessing
import os
import pickle
import signal
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import Any, NoReturn, TypeVar

from suite.errors import UserError
from suite.hardware.child import Applied, Limits, memory_words, serve
from suite.hardware.profile import HardwareConfig

__all__ = ["Applied", "Limits", "Worker", "worker"]

T = TypeVar("T")


def worker(hardware: HardwareConfig) -> Worker:
    """The worker for this profile's limits, one per set of limits and process."""
    return _worker(Limits(cores=hardware.max_cpu_cores, memory_gb=hardware.max_memory_gb))


@functools.cache
def _worker(limits: Limits) -> Worker:
    return Worker(limits)


class Worker:
    """A child process under limits; started by its first job, and again by the next one if it died."""

    def __init__(self, limits: Limits) -> None:
        """No process yet: the first `run` or `applied` starts it."""
        self.limits = limits
        self._process: SpawnProcess | None = None
        self._pipe: Connection | None = None
        self._applied: Applied | None = None
        atexit.register(self.stop)

    @property
    def applied(self) -> Applied:
        """The limits that hold in the child, started if need be."""
        if self._applied is None:
            self._applied = self._start()
        return self._applied

    def run(self, function: Callable[..., T], *args: Any) -> T:
        """`function(*args)` in the child; everything must pickle, `function` by its importable name.

        Raises:
            UserError: as the job raised it; or the job ran out of memory, or its process was killed.
            Exception: whatever else the job raised, with the child's traceback as a note.
        """
        job = pickle.dumps((function, args))
        _ = self.applied
        value: T
        value, error = self._exchange(job)
        if error is not None:
            raise error
        return value

    def stop(self, grace_s: float = 2.0) -> None:
        """End the child: by closing its pipe, then after `grace_s` by force. The next job starts a new one."""
        process, pipe = self._process, self._pipe
        self._process = self._pipe = self._applied = None
        if process is None or pipe is None:
            return
        pipe.close()
        process.join(grace_s)
        if process.is_alive():
            process.kill()
            process.join()
        process.close()

    def _start(self) -> Applied:
        if threading.current_thread() is not threading.main_thread():
            # The kernel ends the child with the thread that started it, not with the process.
            raise RuntimeError("start the limited worker from the main thread: on Linux it would die with this one.")
        spawn = multiprocessing.get_context("spawn")
        self._pipe, far_end = spawn.Pipe()
        self._process = spawn.Process(target=serve, args=(far_end, self.limits, os.getpid()), name="limited-worker")
        self._process.start()
        far_end.close()  # else the parent would hold the child's end open and never see it die
        applied: Applied = self._exchange(None)
        return applied

    def _exchange(self, job: bytes | None) -> Any:
        """Send a job (None: nothing to send) and wait for its answer."""
        assert self._pipe is not None
        try:
            if job is not None:
                self._pipe.send_bytes(job)
            return pickle.loads(self._pipe.recv_bytes())
        except (EOFError, ConnectionError):
            self._report_death()
        except BaseException:  # KeyboardInterrupt above all: the answer would meet the next job
            self.stop(grace_s=0)
            raise

    def _report_death(self) -> NoReturn:
        assert self._process is not None
        self._process.join(2.0)
        code = self._process.exitcode or 0
        self.stop()
        end = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        cause = ", most likely because memory ran out" if -code in (signal.SIGKILL, signal.SIGABRT) else ""
        raise UserError(f"The job's process {end}{cause} {memory_words(self.limits)}")
