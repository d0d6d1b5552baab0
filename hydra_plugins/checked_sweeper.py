"""A sweep that checks every job before the first one starts, and tells the whole story at its end.

Hydra's own sweeper composes each job before launching, but knows nothing of our types; and it raises the first failed
job's error and forgets the rest. Works with any launcher. Hydra finds it because this folder is named as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException
from omegaconf import open_dict
from omegaconf.errors import OmegaConfBaseException

from suite.config import explain, typed
from suite.errors import ConfigError, UserError


class CheckedSweeper(BasicSweeper):
    """Hydra's basic sweeper, plus type checks before and a table after."""

    def validate_batch_is_legal(self, batch: Sequence[Sequence[str]]) -> None:
        """Compose and check every job, those of later batches too, before the first batch starts."""
        assert self.hydra_context is not None and self.config is not None and self.overrides is not None
        for overrides in chain.from_iterable(self.overrides if self.batch_index == 1 else []):
            try:
                loaded = self.hydra_context.config_loader.load_sweep_config(self.config, list(overrides))
                with open_dict(loaded):
                    del loaded["hydra"]
                typed(loaded)
            except (UserError, HydraException, OmegaConfBaseException) as error:
                job = " ".join(overrides)
                raise ConfigError(f"Nothing was started: the job {job} cannot run. {explain(error)}") from error

    def sweep(self, arguments: list[str]) -> Any:
        """Run all jobs; always show what is there, and raise if any job failed."""
        assert self.config is not None
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


def _aggregate(folder: Path) -> None:
    """Table on the screen, table.csv, table.parquet and report.html in the folder, from the records there are."""
    from suite.report.export import write_table
    from suite.report.html import write_report
    from suite.report.table import show_sweep

    if any(folder.glob("*/record.json")):
        show_sweep(folder)
        write_table(folder)
        print(f"report: {write_report(folder)}")


ConfigStore.instance().store(
    group="hydra/sweeper",
    name="checked",
    node={"_target_": f"{__name__}.CheckedSweeper", "max_batch_size": None, "params": None},
    provider="suite",
)
