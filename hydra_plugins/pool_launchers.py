"""Launchers that run the jobs of a sweep side by side: joblib here, submitit on a Slurm cluster, Ray on a Ray cluster.

Hydra's own plugins of these names know nothing of GPUs to share out, of jobs that share work, or of a job whose worker
died. Each launcher here is the library's plainest use. What none of them knows: which jobs need no run; the sweeper
leaves those out. docs/sweeps.md shows them at work.
"""

from __future__ import annotations

import os
import sys
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict

from suite.errors import UserError

if TYPE_CHECKING:  # only a sweep needs it
    from suite.sweep.worker import Work

ROOT = Path(__file__).resolve().parents[1]


class PoolLauncher(Launcher):
    """What the launchers share: a job as a value, and its status when it is done."""

    library = ""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """See `Launcher.setup`."""
        if find_spec(self.library) is None:
            raise UserError(f"This launcher needs {self.library}: pip install {self.library}.")
        self.context, self.task_function, self.config = hydra_context, task_function, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """See `Launcher.launch`."""
        paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(paths))  # a worker imports this module by its name
        works = [self._work(list(line), initial_job_idx + place) for place, line in enumerate(job_overrides)]
        return [
            JobReturn(overrides=list(line), status=JobStatus.COMPLETED, _return_value=status)
            for line, status in zip(job_overrides, self.statuses(works), strict=True)
        ]

    @abstractmethod
    def statuses(self, works: list[Work]) -> Iterator[str]:
        """The status of each job, in order, when all are done."""

    def _work(self, overrides: list[str], number: int) -> Work:
        from suite import job
        from suite.sweep.worker import Work

        config = self.context.config_loader.load_sweep_config(self.config, overrides)
        with open_dict(config):
            config.hydra.job.id = config.hydra.job.num = number
            config.hydra.job_logging.handlers.console.level = "ERROR"  # the rest is in the job's own log
        return Work(
            config=config,
            context=self.context,
            task_function=self.task_function,
            singletons=Singleton.get_state(),
            siblings=tuple(job.siblings),
            folder=os.getcwd(),
            command=tuple(sys.argv),
        )


class JoblibLauncher(PoolLauncher):
    """Processes on this machine that stay warm from job to job.

    Args:
        n_jobs: at the same time; null: one for each GPU, without a GPU one for every two cores.
    """

    library = "joblib"

    def __init__(self, n_jobs: int | None) -> None:
        """No process is started."""
        if n_jobs is not None and n_jobs < 1:
            raise UserError(f"hydra.launcher.n_jobs={n_jobs} must be at least 1.")
        self.n_jobs = n_jobs

    def statuses(self, works: list[Work]) -> Iterator[str]:
        """See `PoolLauncher.statuses`."""
        from joblib import Parallel, delayed

        from suite.sweep.worker import FAILED, run_one, visible_cards

        cards = visible_cards()
        n_jobs = self.n_jobs or len(cards) or max(1, (os.cpu_count() or 1) // 2)
        sent = works
        if len(cards) > 1:
            locks = Path(self.config.hydra.sweep.dir).absolute() / ".cards"
            locks.mkdir(exist_ok=True)
            sent = [replace(work, cards=cards, locks=str(locks)) for work in works]
        done = 0
        try:
            for status in Parallel(n_jobs, batch_size=1, return_as="generator")(delayed(run_one)(w) for w in sent):
                done += 1
                yield status
        except BrokenProcessPool:  # joblib does not say whose fault it was, and drops the other jobs too
            print("A worker process was killed, most likely because memory ran out: one job at a time from here on.")
            for work in sent[done:]:
                try:
                    yield from Parallel(2)([delayed(run_one)(work)])  # with 1 it would run in this process
                except BrokenProcessPool:
                    yield FAILED


class SubmititLauncher(PoolLauncher):
    """One Slurm job for each job of the sweep.

    Args:
        cluster: slurm, or local: processes of this machine, to try it out; null: slurm where there is one.
        parameters: of `submitit.AutoExecutor.update_parameters`, such as timeout_min, gpus_per_node, slurm_partition.
    """

    library = "submitit"

    def __init__(self, cluster: str | None, parameters: dict[str, Any]) -> None:
        """Nothing is submitted."""
        self.cluster, self.parameters = cluster, parameters

    def statuses(self, works: list[Work]) -> Iterator[str]:
        """See `PoolLauncher.statuses`."""
        import submitit
        from submitit.core.utils import FailedJobError, UncompletedJobError

        from suite.sweep.worker import FAILED, run_one

        executor = submitit.AutoExecutor(folder=Path(self.config.hydra.sweep.dir) / ".submitit", cluster=self.cluster)
        executor.update_parameters(**self.parameters)
        handles = executor.map_array(run_one, works)
        try:
            for handle in handles:
                try:
                    yield handle.result()
                except (FailedJobError, UncompletedJobError) as error:
                    print(f"Slurm job {handle.job_id} died: {str(error).splitlines()[0]}", file=sys.stderr)
                    yield FAILED
        except KeyboardInterrupt:
            for handle in handles:
                handle.cancel()
            raise


class RayLauncher(PoolLauncher):
    """Tasks of a Ray cluster.

    Args:
        init: of `ray.init`; empty: a cluster of this machine for as long as the launch lasts.
        remote: of `ray.remote`: what one job needs, such as num_cpus, num_gpus.
    """

    library = "ray"

    def __init__(self, init: dict[str, Any], remote: dict[str, Any]) -> None:
        """Nothing is started."""
        self.init, self.remote = init, remote

    def statuses(self, works: list[Work]) -> Iterator[str]:
        """See `PoolLauncher.statuses`."""
        import ray
        from ray.exceptions import RayError

        from suite.sweep.worker import FAILED, run_one

        if not ray.is_initialized():
            variables = {"PYTHONPATH": os.environ["PYTHONPATH"]}
            ray.init(**{"runtime_env": {"env_vars": variables}, "log_to_driver": False, **self.init})
        task = ray.remote(run_one).options(**self.remote)
        for waiting in [task.remote(work) for work in works]:
            try:
                yield ray.get(waiting)
            except RayError as error:
                print(f"A job's worker died: {type(error).__name__}: {error}", file=sys.stderr)
                yield FAILED
