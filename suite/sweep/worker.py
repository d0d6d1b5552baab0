"""The worker's side of a sweep that runs its jobs side by side: one job as a value, run as the launch would run it.

Hydra loads its plugins outside of the module table, where nothing can be pickled by name; hence this is no plugin.
"""

from __future__ import annotations

import fcntl
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.singleton import Singleton
from hydra.core.utils import run_job, setup_globals
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from suite import job
from suite.config import RunConfig
from suite.errors import UserError
from suite.hardware import nvml
from suite.progress import QUIET

FAILED = "failed"


@dataclass(frozen=True, kw_only=True)
class Work:
    """Everything a worker needs to run one job as this process would; it is pickled."""

    config: DictConfig
    context: HydraContext
    task_function: TaskFunction
    singletons: Any
    siblings: tuple[RunConfig, ...]
    folder: str
    """Working folder of the launch."""
    command: tuple[str, ...]
    cards: tuple[str, ...] = ()
    """GPUs, of which a worker process takes one for itself; none: it sees what there is."""
    locks: str = ""
    """Folder in which taken GPUs are noted."""


def run_one(work: Work) -> str:
    """Run a job in a worker process; returns its status. An error is printed and is this job's alone."""
    try:
        os.chdir(work.folder)
        sys.argv[:] = work.command  # a record tells the command that was typed
        os.environ[QUIET] = "1"
        if work.cards:
            hold_card(work.cards, Path(work.locks))
        Singleton.set_state(work.singletons)
        setup_globals()
        job.siblings[:] = work.siblings
        done = run_job(
            hydra_context=work.context,
            task_function=work.task_function,
            config=work.config,
            job_dir_key="hydra.sweep.dir",
            job_subdir_key="hydra.sweep.subdir",
        )
        return str(done.return_value)
    except Exception as error:  # of Hydra: the job's folder cannot be made, say
        print(f"A job could not be started: {type(error).__name__}: {error}", file=sys.stderr)
        return FAILED


_held: dict[str, Any] = {}


def hold_card(cards: Sequence[str], locks: Path) -> str:
    """Take a GPU that no other worker of the sweep holds, for as long as this process lives.

    By worker, not by job number: jobs differ in length, and two of one number modulo the GPUs would meet on a card.

    Raises:
        UserError: there are more workers than GPUs.
    """
    for card in cards:
        if card in _held:
            return card
    for card in cards:
        lock = (locks / card).open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            continue
        _held[card] = lock
        os.environ["CUDA_VISIBLE_DEVICES"] = card
        return card
    raise UserError(f"All {len(cards)} GPUs are taken; set hydra.launcher.n_jobs={len(cards)}.")


def visible_cards() -> tuple[str, ...]:
    """Names of the GPUs that this process may use, as CUDA_VISIBLE_DEVICES takes them."""
    driver = nvml.load()
    count = len(nvml.cards(driver)) if driver is not None else 0
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = listed.split(",") if listed is not None else [str(i) for i in range(count)]
    return tuple(name.strip() for name in names[:count])
