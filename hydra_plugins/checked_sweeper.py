"""A sweep that checks every job before the first one starts, and tells the whole story at its end.

Hydra's own sweeper composes each job before launching, but knows nothing of our types; and it raises the first failed
job's error and forgets the rest. This one checks, skips what is finished, runs duplicates once, and hands what is left
to whatever launcher is configured. Hydra finds it because this folder is named as it is.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from copy import deepcopy
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.errors import HydraException
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from suite.config import explain, typed
from suite.errors import ConfigError, JobsFailed, UserError

if TYPE_CHECKING:  # only a sweep needs them; `--help` must stay fast
    from suite.sweep.jobs import SweepJob
    from suite.sweep.watch import Watch

# task -> what looks at a whole sweep of it, given its folder
ANALYSES = {"specdec": "edgecloud.analysis:analyse", "argo": "argo.analysis:analyse"}
SUBDIR = "hydra.sweep.subdir"


class CheckedSweeper(BasicSweeper):
    """Hydra's grid of jobs, with type checks before, a skip of finished jobs, and a table after."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """See `Sweeper.setup`."""
        super().setup(hydra_context=hydra_context, task_function=task_function, config=config)
        self.compose = _Composer(hydra_context.config_loader, config)
        if isinstance(self.launcher, BasicLauncher):  # it would compose each job anew
            shared: Any = self.compose
            self.launcher.hydra_context = HydraContext(config_loader=shared, callbacks=hydra_context.callbacks)
        self.folder = Path(config.hydra.sweep.dir)
        self.jobs: dict[int, SweepJob] = {}
        self.completed: set[int] = set()

    def sweep(self, arguments: list[str]) -> None:
        """Run all jobs; always show what is there, and raise if any job failed."""
        from suite import job
        from suite.sweep.dry_run import show_dry_run
        from suite.sweep.watch import Watch
        from suite.tracking.tracker import show_sweep

        assert self.config is not None
        overrides = self.compose.parser.parse_overrides([*self._parse_config(), *arguments])
        candidates = self.candidates(overrides)
        job.siblings[:] = [self._checked(candidate) for candidate in candidates]
        if any(config.dry_run for config in job.siblings):
            show_dry_run([self._job(number, candidate) for number, candidate in enumerate(candidates)])
            print(self.remark(), end="")
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(self.config, self.folder / "multirun.yaml")
        try:
            with Watch(self.total(candidates)) as watch:
                for batch in self.batches(candidates):
                    self._run(batch, watch)
        finally:
            _aggregate(self.folder)
            show_sweep(job.siblings[0].tracker, self.folder)
        failed = [job.folder for number, job in self.jobs.items() if number not in self.completed]
        if failed:
            logs = "".join(f"\n  {folder.absolute() / self.config.hydra.job.name}.log" for folder in failed)
            raise JobsFailed(f"{len(failed)} of {len(self.jobs)} jobs failed; the rest is kept. Their logs:{logs}")

    def candidates(self, overrides: list[Override]) -> list[list[str]]:
        """Overrides of each job that is checked before the first one starts: of all."""
        (jobs,) = self.split_arguments(overrides, None)
        bare = deletions(overrides)
        return [[bare.get(text, text) for text in job] for job in jobs]

    def total(self, candidates: list[list[str]]) -> int:
        """How many jobs will run."""
        return len(candidates)

    def remark(self) -> str:
        """What a dry run says under its table."""
        return ""

    def batches(self, candidates: list[list[str]]) -> Iterator[Sequence[Sequence[str]]]:
        """Overrides of the jobs that are launched together; the next batch is asked for when this one is done."""
        yield from self.split_overrides_to_chunks(candidates, self.max_batch_size)

    def _checked(self, overrides: Sequence[str]) -> Any:
        """The typed configuration of a job."""
        try:
            return typed(self.compose(overrides))
        except (UserError, HydraException, OmegaConfBaseException) as error:
            said = " ".join(overrides)
            raise ConfigError(f"Nothing was started: the job {said} cannot run. {explain(error)}") from error

    def _job(self, number: int, overrides: Sequence[str]) -> SweepJob:
        from suite.sweep.jobs import sweep_job

        folder = self.folder / self.compose.subdir(number, overrides)
        return sweep_job(number, overrides, folder, self.compose(overrides))

    def _run(self, batch: Sequence[Sequence[str]], watch: Watch) -> None:
        """Launch the jobs of a batch that are neither finished nor duplicates, then fill the others' folders."""
        from suite.sweep.jobs import standings

        jobs = [self._job(len(self.jobs) + place, overrides) for place, overrides in enumerate(batch)]
        self.jobs |= {job.number: job for job in jobs}
        found = standings(jobs)
        todo, twins = [], [row.job for row in found if row.state == "duplicate"]
        for row in found:
            if row.state != "duplicate" and not (row.state == "finished" and self._reused(row.job, watch)):
                todo.append(row.job)
        if reused := len(jobs) - len(todo) - len(twins):
            print(f"{reused} of {len(jobs)} jobs were finished before; nothing is computed for them.")
        if twins:
            print(f"{len(twins)} of {len(jobs)} jobs are the same as another; each runs once.")
        if todo:
            with watch.launched(todo):
                self._launch(todo, batch, jobs[0].number)
        for job in twins:
            self._reused(job, watch)

    def _launch(self, jobs: list[SweepJob], batch: Sequence[Sequence[str]], first: int) -> None:
        """Hand the jobs to the launcher at once; each is told its folder, since the launcher would count anew."""
        assert self.launcher is not None and self.config is not None
        logging.getLogger("hydra._internal.core_plugins.basic_launcher").setLevel(logging.WARNING)  # it miscounts
        places = [str(job.folder.relative_to(self.folder)).replace("'", "\\'") for job in jobs]
        lines = [[*batch[job.number - first], f"{SUBDIR}='{place}'"] for job, place in zip(jobs, places, strict=True)]
        # Hydra's own launcher runs one job after the other, and keeps the configurations of all that it is handed
        size = 1 if isinstance(self.launcher, BasicLauncher) else len(jobs)
        for begin in range(0, len(jobs), size):
            returns = self.launcher.launch(lines[begin : begin + size], initial_job_idx=jobs[begin].number)
            for job, done in zip(jobs[begin : begin + size], returns, strict=True):
                if done.return_value == "completed":
                    self.completed.add(job.number)

    def _reused(self, job: SweepJob, watch: Watch) -> bool:
        """Fill the job's folder from the record of an earlier run as if it had run; False where there is none."""
        from suite.job import reuse

        assert job.plan is not None  # else nobody could know that it was finished
        hidden = job.folder / ".hydra"
        hidden.mkdir(parents=True, exist_ok=True)
        try:
            record = reuse(job.plan, job.folder, self.folder.as_posix())
        except UserError:
            return False  # the launched job tells
        if record is None:
            return False
        OmegaConf.save(OmegaConf.create(job.plan.head["config"]), hidden / "config.yaml")
        OmegaConf.save(job.plan.head["overrides"], hidden / "overrides.yaml")
        self.completed.add(job.number)
        watch.reused(job, record)
        return True


def deletions(overrides: Sequence[Override]) -> dict[str, str]:
    """`~key=null` -> `~key` as it was typed: Hydra 1.3 spells deletions the first way, 1.4 takes that for a value."""
    typed_bare = [override for override in overrides if override.is_delete() and override.value() is None]
    return {f"{override.get_key_element()}=null": override.get_key_element() for override in typed_bare}


class _Composer:
    """Configurations of a sweep's jobs. Composing costs Hydra 80 ms; jobs that differ in values alone share a base."""

    def __init__(self, loader: Any, config: DictConfig) -> None:
        self.loader, self.config = loader, config
        self.parser = OverridesParser.create(config_loader=loader)
        self.bases: dict[tuple[str, ...], DictConfig] = {}

    def __call__(self, overrides: Sequence[str]) -> DictConfig:
        """The job's configuration, as Hydra would compose it, without the `hydra` node."""
        composed = self.load_sweep_config(self.config, overrides)
        with open_dict(composed):
            del composed["hydra"]
        return composed

    def load_sweep_config(self, master_config: DictConfig, sweep_overrides: Sequence[str]) -> DictConfig:
        """The whole of it: what Hydra's `ConfigLoader.load_sweep_config` returns, `hydra` node included."""
        parsed = self.parser.parse_overrides(list(sweep_overrides))
        values = [override for override in parsed if self._sets_value(override)]
        others = tuple(str(override.input_line) for override in parsed if override not in values)
        if others not in self.bases:
            self.bases[others] = self.loader.load_sweep_config(master_config, list(others))
        composed = deepcopy(self.bases[others])
        for override in values:
            OmegaConf.update(composed, override.key_or_group, override.value(), merge=True)
        mine = [override for override in parsed if not override.is_hydra_override()]
        composed.hydra.overrides.task = [override.input_line for override in mine]
        hydras = [override.input_line for override in parsed if override.is_hydra_override()]
        composed.hydra.overrides.hydra = [*master_config.hydra.overrides.hydra, *hydras]
        if not OmegaConf.is_interpolation(composed.hydra.job, "override_dirname"):  # 1.4 works it out when asked
            how = composed.hydra.job.config.override_dirname
            lines = sorted(str(one.input_line) for one in mine if one.key_or_group not in how.exclude_keys)
            composed.hydra.job.override_dirname = how.item_sep.join(lines).replace("=", how.kv_sep)
        return composed

    def subdir(self, number: int, overrides: Sequence[str]) -> str:
        """The folder of a job inside the sweep's, named as the user chose."""
        sweep = OmegaConf.to_container(self.config.hydra.sweep, resolve=False)
        assert isinstance(sweep, dict)
        if sweep["subdir"] == "${hydra.job.num}":
            return str(number)
        whole = self.load_sweep_config(self.config, overrides)
        with open_dict(whole):
            whole.hydra.job.num = whole.hydra.job.id = number
        before = HydraConfig.instance().cfg
        HydraConfig.instance().set_config(whole)  # where ${hydra:...} looks
        name = str(whole.hydra.sweep.subdir)
        HydraConfig.instance().cfg = before
        return name

    def _sets_value(self, override: Override) -> bool:
        key = override.key_or_group
        plain = override.type == OverrideType.CHANGE and override.package is None
        ours = key == SUBDIR or not key.startswith("hydra.")
        return plain and ours and not self.loader.repository.group_exists(key)


def _aggregate(folder: Path) -> None:
    """The studies' analyses, table on the screen, table.csv, table.parquet and report.html, from the records."""
    from suite.report.export import write_table
    from suite.report.html import write_report
    from suite.report.table import show_sweep

    if any(folder.rglob("record.json")):
        _analyse(folder)
        show_sweep(folder)
        write_table(folder)
        print(f"report: {write_report(folder)}")


def _analyse(folder: Path) -> None:
    """Let each study look at its jobs; an analysis that fails costs a sentence, not the table."""
    from suite.records.store import read_record

    tasks = {record["task"] for path in folder.rglob("record.json") if (record := read_record(path.parent))}
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
