"""A sweep that checks every job before the first one starts, and tells the whole story at its end.

Hydra's own sweeper composes each job before launching, but knows nothing of our types; and it raises the first failed
job's error and forgets the rest. Works with any launcher. Hydra finds it because this folder is named as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from importlib import import_module
from itertools import chain, groupby
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import HydraException
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from suite.config import explain, typed
from suite.errors import ConfigError, UserError

# task -> what looks at a whole sweep of it, given its folder
ANALYSES = {"specdec": "edgecloud.analysis:analyse", "argo": "argo.analysis:analyse"}


class CheckedSweeper(BasicSweeper):
    """Hydra's basic sweeper, plus type checks before, a skip of finished jobs, and a table after."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """See `Sweeper.setup`."""
        super().setup(hydra_context=hydra_context, task_function=task_function, config=config)
        assert self.launcher is not None
        self.compose = _Composer(hydra_context.config_loader, config)
        self.launcher = _SkipFinished(self.launcher, self.compose, config)

    def validate_batch_is_legal(self, batch: Sequence[Sequence[str]]) -> None:
        """Compose and check every job, those of later batches too, before the first batch starts."""
        from suite import job  # only a sweep needs it; `--help` must stay fast

        assert self.overrides is not None
        for overrides in chain.from_iterable(self.overrides if self.batch_index == 1 else []):
            try:
                job.siblings.append(typed(self.compose(overrides)))
            except (UserError, HydraException, OmegaConfBaseException) as error:
                said = " ".join(overrides)
                raise ConfigError(f"Nothing was started: the job {said} cannot run. {explain(error)}") from error

    def sweep(self, arguments: list[str]) -> Any:
        """Run all jobs; always show what is there, and raise if any job failed."""
        from suite import job

        assert self.config is not None
        job.siblings.clear()
        try:
            returns = super().sweep(arguments)
        finally:
            _aggregate(Path(self.config.hydra.sweep.dir))
        jobs = [job for batch in returns for job in batch]
        failed = [job.hydra_cfg.hydra for job in jobs if job.return_value != "completed"]
        if failed:
            logs = [f"\n  {hydra.runtime.output_dir}/{hydra.job.name}.log" for hydra in failed]
            raise UserError(f"{len(failed)} of {len(jobs)} jobs failed; the rest is kept. Their logs:{''.join(logs)}")
        return returns


class _Composer:
    """Configurations of a sweep's jobs. Composing costs Hydra 80 ms; jobs that differ in values alone share a base."""

    def __init__(self, loader: Any, config: DictConfig) -> None:
        self.loader, self.config = loader, config
        self.parser = OverridesParser.create(config_loader=loader)
        self.bases: dict[tuple[str, ...], DictConfig] = {}

    def __call__(self, overrides: Sequence[str]) -> DictConfig:
        """The job's configuration, as Hydra would compose it, without the `hydra` node."""
        parsed = self.parser.parse_overrides(list(overrides))
        values = [override for override in parsed if self._sets_value(override)]
        others = tuple(str(override.input_line) for override in parsed if override not in values)
        if others not in self.bases:
            base = self.loader.load_sweep_config(self.config, list(others))
            with open_dict(base):
                del base["hydra"]
            self.bases[others] = base
        composed = deepcopy(self.bases[others])
        for override in values:
            OmegaConf.update(composed, override.key_or_group, override.value(), merge=True)
        return composed

    def _sets_value(self, override: Override) -> bool:
        key = override.key_or_group
        plain = override.type == OverrideType.CHANGE and override.package is None
        return plain and not key.startswith("hydra.") and not self.loader.repository.group_exists(key)


class _SkipFinished:
    """A launcher that launches what is not finished, in as few batches as the order of the jobs allows."""

    def __init__(self, launcher: Launcher, compose: _Composer, config: DictConfig) -> None:
        self.launcher, self.compose, self.config = launcher, compose, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """See `Launcher.launch`."""
        found = [self._finished(overrides, initial_job_idx + i) for i, overrides in enumerate(job_overrides)]
        reused = len(found) - found.count(None)
        if reused:
            print(f"{reused} of {len(found)} jobs were finished before; nothing is computed for them.")
        returns: list[JobReturn] = []
        for _, group in groupby(range(len(found)), key=lambda i: found[i] is None):
            jobs = list(group)
            first = found[jobs[0]]
            if first is None:
                batch = [job_overrides[i] for i in jobs]
                returns.extend(self.launcher.launch(batch, initial_job_idx=initial_job_idx + jobs[0]))
            else:
                returns.extend(job for i in jobs if (job := found[i]) is not None)
        return returns

    def _finished(self, overrides: Sequence[str], number: int) -> JobReturn | None:
        """The job from its record, its folder filled as if it had run; None when it has to run."""
        from suite.job import reuse  # only a sweep needs it; `--help` must stay fast

        sweep = self.config.hydra.sweep
        if OmegaConf.to_container(sweep, resolve=False)["subdir"] != "${hydra.job.num}":
            return None  # a folder named otherwise is Hydra's to name
        folder = Path(sweep.dir) / str(number)
        hidden = folder / ".hydra"
        hidden.mkdir(parents=True, exist_ok=True)
        cfg = self.compose(overrides)
        try:
            record = reuse(cfg, folder, [override for override in overrides if not override.startswith("tracker")])
        except UserError:
            return None  # the launched job tells
        if record is None:
            return None
        OmegaConf.save(cfg, hidden / "config.yaml")
        OmegaConf.save(list(overrides), hidden / "overrides.yaml")
        return JobReturn(overrides=list(overrides), cfg=cfg, status=JobStatus.COMPLETED, _return_value="completed")


def _aggregate(folder: Path) -> None:
    """The studies' analyses, table on the screen, table.csv, table.parquet and report.html, from the records."""
    from suite.report.export import write_table
    from suite.report.html import write_report
    from suite.report.table import show_sweep

    if any(folder.glob("*/record.json")):
        _analyse(folder)
        show_sweep(folder)
        write_table(folder)
        print(f"report: {write_report(folder)}")


def _analyse(folder: Path) -> None:
    """Let each study look at its jobs; an analysis that fails costs a sentence, not the table."""
    from suite.records.store import read_record

    tasks = {record["task"] for path in folder.glob("*/record.json") if (record := read_record(path.parent))}
    for task in sorted(tasks):
        if entry := ANALYSES.get(task):
            module, _, function = entry.partition(":")
            try:
                getattr(import_module(module), function)(folder)
            except UserError as error:
                print(f"no analysis: {error}")


ConfigStore.instance().store(
    group="hydra/sweeper",
    name="checked",
    node={"_target_": f"{__name__}.CheckedSweeper", "max_batch_size": None, "params": None},
    provider="suite",
)
