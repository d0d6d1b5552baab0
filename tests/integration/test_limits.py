"""Jobs in the limited child process: real processes, real limits, real kills."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from suite.errors import UserError
from suite.hardware.limits import Limits, Worker, worker
from suite.hardware.profile import HardwareConfig

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="affinity and RLIMIT_DATA exist on Linux only")
STATE: dict[str, int] = {}


# ---- jobs (run in the child, imported there by name) ----


def add(a, b):
    return a + b


def remember(key):
    STATE[key] = STATE.get(key, 0) + 1
    return os.getpid(), STATE[key]


def torch_threads():
    before = "torch" in sys.modules
    import torch

    return before, torch.get_num_threads(), os.environ["OMP_NUM_THREADS"], os.sched_getaffinity(0)


def allocate(kind, size_gb):
    size = int(size_gb * 1e9)
    if kind == "bytes":
        return len(bytearray(size))
    import torch

    return torch.zeros(size, dtype=torch.uint8).numel()


class TwoArguments(Exception):
    """Pickles, but does not unpickle: the classic trap of an exception with its own __init__."""

    def __init__(self, where, what):
        super().__init__(f"{where}: {what}")


def fail(kind):
    if kind == "user":
        raise UserError("clip.wav is not readable: give a 16 kHz file.")
    if kind == "unpicklable":
        raise TwoArguments("here", "that")
    if kind == "exit":
        sys.exit(7)
    return [1 / 0]


def return_unpicklable():
    return lambda: None


def die(number):
    os.kill(os.getpid(), number)


def end_at_once(pipe, limits, parent):
    os._exit(3)


def hang(mark):
    Path(mark).write_text(str(os.getpid()))
    time.sleep(60)


@pytest.fixture
def child():
    made = Worker(Limits(cores=1, memory_gb=2.0))
    yield made
    made.stop()


# ---- limits ----


@LINUX
def test_cores_and_threads_hold_before_torch_is_imported(child):
    imported_before, threads, variable, affinity = child.run(torch_threads)
    assert not imported_before
    assert (threads, variable) == (1, "1")
    assert affinity == {min(os.sched_getaffinity(0))}
    assert (child.applied.cores, child.applied.threads, child.applied.memory_limit_gb) == (1, 1, 2.0)
    assert child.applied.notes == ()


@LINUX
@pytest.mark.parametrize("kind", ["bytes", "torch"])
def test_memory_over_the_limit_is_a_sentence_and_the_child_lives_on(child, kind):
    first, _ = child.run(remember, "memory")
    assert child.run(allocate, kind, 0.5) == 500_000_000
    with pytest.raises(UserError, match=r"ran out of memory \(hardware.max_memory_gb=2, the machine has"):
        child.run(allocate, kind, 2.5)
    assert child.run(remember, "memory") == (first, 2)


@LINUX
def test_what_the_machine_lacks_is_noted_not_ignored():
    greedy = Worker(Limits(cores=4096, memory_gb=1e6))
    have = len(os.sched_getaffinity(0))
    assert greedy.applied.cores == greedy.applied.threads == have
    assert greedy.applied.notes[0] == f"4096 cores asked for, {have} available"
    assert greedy.applied.notes[1].startswith("1e+06 GB asked for, the machine has")
    greedy.stop()


@LINUX
def test_only_what_is_limited_is_limited():
    free = Worker(Limits(cores=None, memory_gb=1.0))
    assert (free.applied.threads, free.applied.memory_limit_gb) == (None, 1.0)
    assert free.applied.cores == len(os.sched_getaffinity(0))
    free.stop()


# ---- one warm process ----


def test_jobs_share_a_warm_process_per_set_of_limits():
    phone = HardwareConfig(name="phone", max_cpu_cores=1, max_memory_gb=2.0)
    same_limits = HardwareConfig(name="other", max_cpu_cores=1, max_memory_gb=2.0)
    try:
        pid, count = worker(phone).run(remember, "warm")
        assert worker(same_limits).run(remember, "warm") == (pid, count + 1)
        assert pid != os.getpid()
        assert worker(HardwareConfig(max_cpu_cores=1)) is not worker(phone)
    finally:
        worker(phone).stop()


def test_stop_ends_the_process_and_the_next_job_starts_another(child):
    pid, _ = child.run(remember, "stop")
    child.stop()
    assert not psutil.pid_exists(pid)
    assert child.run(remember, "stop")[1] == 1


# ---- errors ----


def test_errors_come_back_as_raised_with_the_traceback_of_the_child(child):
    with pytest.raises(UserError) as user:
        child.run(fail, "user")
    assert str(user.value) == "clip.wav is not readable: give a 16 kHz file."
    with pytest.raises(ZeroDivisionError) as other:
        child.run(fail, "zero")
    assert "return [1 / 0]" in other.value.__notes__[0]
    with pytest.raises(RuntimeError, match="TwoArguments: here: that"):
        child.run(fail, "unpicklable")
    with pytest.raises(SystemExit) as left:
        child.run(fail, "exit")
    assert left.value.code == 7
    with pytest.raises(Exception, match="return_unpicklable"):
        child.run(return_unpicklable)
    assert child.run(add, 1, 2) == 3


def test_a_job_that_cannot_be_sent_leaves_the_child_in_step(child):
    assert child.run(add, 1, 1) == 2
    with pytest.raises((AttributeError, TypeError), match="lambda"):
        child.run(lambda: 1)
    assert child.run(add, 2, 2) == 4


@pytest.mark.parametrize(
    ("number", "words"),
    [(signal.SIGKILL, "SIGKILL, most likely because memory ran out"), (signal.SIGSEGV, "SIGSEGV")],
)
def test_a_killed_child_is_a_sentence_with_the_signal_and_the_limit(child, number, words):
    with pytest.raises(UserError, match=rf"was killed by {words} \(hardware.max_memory_gb=2,"):
        child.run(die, number)
    assert child.run(add, 1, 2) == 3  # the next job of the sweep gets a new process


def test_a_child_that_ends_before_it_is_ready_is_a_sentence(child, monkeypatch):
    monkeypatch.setattr("suite.hardware.limits.serve", end_at_once)
    with pytest.raises(UserError, match=r"ended with exit code 3 \(hardware.max_memory_gb=2, the machine has"):
        child.run(add, 1, 2)


def test_a_worker_started_in_a_side_thread_is_refused():
    # The kernel's death signal follows the thread, so the child would die in the middle of a sweep.
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as pool, pytest.raises(RuntimeError, match="main thread"):
        pool.submit(Worker(Limits(cores=1, memory_gb=None)).run, add, 1, 2).result()


# ---- the parent's end ----

PARENT = """
import sys, time
sys.path[:0] = {path!r}
import test_limits
from suite.hardware.limits import Limits, Worker
if __name__ == "__main__":
    try:
        Worker(Limits(cores=1, memory_gb=None)).run(test_limits.hang, {mark!r})
    except KeyboardInterrupt:
        print("interrupted", flush=True)
        time.sleep(30)
"""


def gone(pid, within_s):
    """Whether the process ends (a zombie has ended) in time."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.02)
    return False


def start_parent(tmp_path):
    mark = tmp_path / "child.pid"
    script = tmp_path / "parent.py"
    here = [str(Path(__file__).parent), str(Path(__file__).parents[2])]
    script.write_text(PARENT.format(path=here, mark=str(mark)))
    with open(tmp_path / "output.txt", "w") as output:  # a file, not a pipe: the child would hold a pipe open
        parent = subprocess.Popen(
            [sys.executable, str(script)], stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
    deadline = time.monotonic() + 60
    while not (mark.exists() and mark.read_text()):
        assert parent.poll() is None, "the parent ended early"
        assert time.monotonic() < deadline, "the child never started its job"
        time.sleep(0.02)
    return parent, int(mark.read_text())


@LINUX
def test_the_child_dies_with_a_parent_killed_by_sigkill(tmp_path):
    parent, pid = start_parent(tmp_path)
    parent.kill()
    parent.wait()
    assert gone(pid, within_s=10)


@pytest.mark.parametrize("group", [False, True], ids=["parent only", "whole group, as a terminal does"])
def test_ctrl_c_stops_the_child_at_once(tmp_path, group):
    parent, pid = start_parent(tmp_path)
    (os.killpg if group else os.kill)(parent.pid, signal.SIGINT)
    assert gone(pid, within_s=10)
    assert parent.poll() is None  # the parent still lives: it was not its death that ended the child
    deadline = time.monotonic() + 10
    while not (tmp_path / "output.txt").read_text() and time.monotonic() < deadline:
        time.sleep(0.02)  # the child may be gone before the parent has said so
    parent.kill()
    parent.wait()
    assert (tmp_path / "output.txt").read_text() == "interrupted\n"  # and no traceback of the child
