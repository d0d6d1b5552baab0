"""The child's side of `limits`: apply what can be applied, say what could not, answer jobs.

Order matters: CPU affinity and OMP_NUM_THREADS first, then the job's imports, because torch counts its threads once.
Cores are logical CPUs, the first ones allowed; the kernel does not say which of them are performance cores.
Memory is RLIMIT_DATA, not RLIMIT_AS: libraries map tens of GB that they never touch. Weights mapped from a file escape
it, so read the meters' `peak_rss_mb` beside it.
"""

from __future__ import annotations

import ctypes
import errno
import os
import pickle
import signal
import sys
import traceback
from dataclasses import dataclass
from multiprocessing.connection import Connection

import psutil

from suite.errors import UserError

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What to hold a job to; None leaves that side free."""

    cores: int | None
    memory_gb: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """What really holds in the child, for the record.

    Attributes:
        cores: logical CPUs the job may run on.
        threads: of torch, OpenMP and BLAS; None leaves them to the libraries.
        memory_limit_gb: enforced limit on data memory (GB = 1e9 bytes); None where nothing is enforced.
        notes: each limit that was asked for and could not be applied, and why.
    """

    cores: int
    threads: int | None
    memory_limit_gb: float | None
    notes: tuple[str, ...]


def serve(pipe: Connection, limits: Limits, parent: int) -> None:
    """Apply the limits, say which hold, then answer jobs until the pipe closes."""
    die_with(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    applied = _apply(limits)
    pipe.send_bytes(pickle.dumps(applied))
    while True:
        try:
            job = pipe.recv_bytes()
        except EOFError:
            return
        pipe.send_bytes(_answer(job, applied.threads, limits))


def die_with(parent: int) -> None:
    """End this process when its parent ends, by whatever signal. Elsewhere than on Linux: at the end of its job."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before the request
            os._exit(1)


def _apply(limits: Limits) -> Applied:
    notes: list[str] = []
    cores = os.cpu_count() or 1
    memory_gb = None
    if sys.platform == "linux":
        cores = _apply_cores(limits, notes)
        memory_gb = _apply_memory(limits, notes)
    else:
        notes += [f"{sys.platform} has no CPU affinity: only threads are limited"] if limits.cores else []
        notes += [f"{sys.platform} enforces no limit on data memory"] if limits.memory_gb else []
    if limits.cores:
        os.environ.update(dict.fromkeys(_THREAD_VARIABLES, str(min(limits.cores, cores))))
    return Applied(
        cores=cores,
        threads=min(limits.cores, cores) if limits.cores else None,
        memory_limit_gb=memory_gb,
        notes=tuple(notes),
    )


def _apply_cores(limits: Limits, notes: list[str]) -> int:
    allowed = sorted(os.sched_getaffinity(0))
    if limits.cores is None:
        return len(allowed)
    if limits.cores > len(allowed):
        notes.append(f"{limits.cores} cores asked for, {len(allowed)} available")
    for thread in os.listdir("/proc/self/task"):  # affinity is per thread, and an import may have started some
        os.sched_setaffinity(int(thread), allowed[: limits.cores])
    return len(os.sched_getaffinity(0))


def _apply_memory(limits: Limits, notes: list[str]) -> float | None:
    import resource

    if limits.memory_gb is None:
        return None
    machine_gb = psutil.virtual_memory().total / 1e9
    if limits.memory_gb > machine_gb:
        notes.append(f"{limits.memory_gb:g} GB asked for, the machine has {machine_gb:.1f} GB")
    _, most = resource.getrlimit(resource.RLIMIT_DATA)
    wanted = int(limits.memory_gb * 1e9)
    granted = wanted if most == resource.RLIM_INFINITY else min(wanted, most)
    if granted < wanted:
        notes.append(f"{limits.memory_gb:g} GB asked for, the system grants this user {granted / 1e9:.1f} GB")
    resource.setrlimit(resource.RLIMIT_DATA, (granted, most))
    return granted / 1e9


def _answer(job: bytes, threads: int | None, limits: Limits) -> bytes:
    """The pickled (value, error) of one job."""
    try:
        function, args = pickle.loads(job)  # imports the function's module, under the limits
        if threads and "torch" in sys.modules:
            sys.modules["torch"].set_num_threads(threads)
        return pickle.dumps((function(*args), None))
    except (Exception, SystemExit) as error:
        return pickle.dumps((None, _portable(error, limits)))


def _portable(error: BaseException, limits: Limits) -> BaseException:
    """The error as the parent is to raise it: picklable, with this process's traceback as a note."""
    text = traceback.format_exc()
    if _is_out_of_memory(error):
        error = UserError(f"The job ran out of memory {memory_words(limits)}")
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        error = RuntimeError(f"{type(error).__name__}: {error}")
    error.add_note(f"In the limited process:\n{text}")
    return error


def _is_out_of_memory(error: BaseException) -> bool:
    """MemoryError, the kernel's ENOMEM, or torch's CPU allocator, which raises a bare RuntimeError."""
    return (
        isinstance(error, MemoryError)
        or (isinstance(error, OSError) and error.errno == errno.ENOMEM)
        or (isinstance(error, RuntimeError) and "can't allocate memory" in str(error))
    )


def memory_words(limits: Limits) -> str:
    """The end of every sentence about memory: which limit held, what there is, what to do."""
    machine = f"the machine has {psutil.virtual_memory().total / 1e9:.1f} GB"
    limit = "" if limits.memory_gb is None else f"hardware.max_memory_gb={limits.memory_gb:g}, "
    return f"({limit}{machine}); try a smaller model or precision, or another hardware.max_memory_gb."
