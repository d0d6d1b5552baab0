"""launch.py in processes of their own that start at once, being forked from one that has imported everything."""

from __future__ import annotations

import multiprocessing
import os
import resource
import runpy
import signal
import sys
from collections.abc import Callable, Sequence
from multiprocessing import forkserver
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import pytest

from tests.runs import LAUNCH, ROOT, environment

CONTEXT = multiprocessing.get_context("forkserver")
PRELOADED = ["torch", "transformers", "launch", "edgecloud.task", "argo.task", "controller.task", "suite.report.html"]
WRITES = ("os.rename", "os.mkdir", "os.remove", "os.truncate")
"""Events that change a folder, besides opening a file to write; see Python's table of audit events."""
PATIENCE_S = 240.0


def prepare() -> None:
    """Start the process that forks; it takes the seconds that the imports take."""
    CONTEXT.set_forkserver_preload(PRELOADED)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (environment() | {"PYTHONPATH": str(ROOT)}).items():
            patch.setenv(name, value)
        forkserver.ensure_running()


def start(function: Callable[..., int], folder: Path, *arguments: Any, out: str = "out.txt") -> ForkServerProcess:
    """`function(*arguments)` in `folder`; its output goes to `out` there, its exit code is what it returns."""
    process = CONTEXT.Process(target=_inside, args=(function, folder, out, arguments))
    process.start()
    return process


def finish(process: ForkServerProcess) -> int:
    """Wait for the end; the exit code, or minus the signal that killed it."""
    process.join(PATIENCE_S)
    code = process.exitcode
    process.kill()  # if it hangs
    process.join()
    assert code is not None, "it hung"
    return code


def run(folder: Path, arguments: Sequence[str]) -> tuple[int, str]:
    """`python launch.py ARGUMENTS` in `folder`: exit code, and what it printed."""
    code = finish(start(launch, folder, list(arguments)))
    return code, (folder / "out.txt").read_text()


def launch(arguments: list[str]) -> int:
    """`python launch.py ARGUMENTS` here and now; returns the exit code."""
    sys.argv = [str(LAUNCH), *arguments]
    os.environ.pop("HYDRA_FULL_ERROR", None)
    try:
        runpy.run_path(str(LAUNCH), run_name="__main__")
    except SystemExit as end:
        return int(end.code or 0)
    raise AssertionError("launch.py ends with sys.exit")


def launch_until_event(arguments: list[str], number: int, count: Path) -> int:
    """The same, killed as by kill -9 right before its `number`-th change of the file system here.

    How many there were is kept in `count`, one character for each.
    """
    folder, seen = str(Path.cwd()), 0
    log = os.open(count, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)

    def watch(event: str, given: tuple[Any, ...]) -> None:
        nonlocal seen
        writes = event in WRITES or (event == "open" and isinstance(given[2], int) and given[2] & _TO_WRITE)
        if not writes or isinstance(given[0], int) or not os.path.abspath(os.fsdecode(given[0])).startswith(folder):
            return
        seen += 1
        os.write(log, b".")
        if seen == number:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)
    return launch(arguments)


def launch_until_byte(arguments: list[str], size: int) -> int:
    """The same, killed by the kernel in the middle of the write that would make any file longer than `size` bytes."""
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    return launch(arguments)


_TO_WRITE = os.O_WRONLY | os.O_RDWR


def _inside(function: Callable[..., int], folder: Path, out: str, arguments: tuple[Any, ...]) -> None:
    os.chdir(folder)
    file = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, 1)
    os.dup2(file, 2)
    sys.exit(function(*arguments))
