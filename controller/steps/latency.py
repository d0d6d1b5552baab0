"""C1: fit the latency estimator on the timed `tune` samples, and judge it on the timed `test` samples."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from controller import estimator, estimator_fit
from controller.estimator import Estimator
from controller.steps import profile
from suite.hardware.machine import cpu_model
from suite.result import Result

if TYPE_CHECKING:
    from controller.steps.bench import Bench


def run(bench: Bench, folder: Path) -> Result:
    """Fit and report; writes the estimator."""
    found, task, seed = profile.read(bench), bench.task, bench.cfg.seed
    fitted = estimator_fit.fit(found.split("tune"), task.latency, machine=cpu_model(), seed=seed)
    fitted.estimator.save(folder)
    raise NotImplementedError


def read(bench: Bench) -> Estimator:
    """The estimator of an earlier step, which must be of these knobs and this machine."""
    found = estimator.load(bench.folder("latency"))
    found.check(space=profile.read(bench).space, machine=cpu_model())
    return found
