"""A sweep that checks every job before the first one starts, and tells the whole story at its end.

Hydra's own sweeper composes each job before launching, but knows nothing of our types; and it raises the first failed
job's error and forgets the rest. Works with any launcher.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from omegaconf import open_dict

from suite.config import typed
from suite.errors import UserError


class CheckedSweeper(BasicSweeper):
    """Hydra's basic sweeper, plus type checks before and a table after."""

    def validate_batch_is_legal(self, batch: Sequence[Sequence[str]]) -> None:
        """Compose and check every job of the batch."""
        assert self.hydra_context is not None and self.config is not None
        for overrides in batch:
            loaded = self.hydra_context.config_loader.load_sweep_config(self.config, list(overrides))
            with open_dict(loaded):
                del loaded["hydra"]
            try:
                typed(loaded)
            except UserError as error:
                raise type(error)(f"Nothing was started: the job {' '.join(overrides)} cannot run. {error}") from error

    def sweep(self, arguments: list[str]) -> Any:
        """Run all jobs; always show what is there, and raise if any job failed."""
        assert self.config is not None
        try:
            returns = super().sweep(arguments)
        finally:
            _aggregate(Path(self.config.hydra.sweep.dir))
        failed = [job for batch in returns for job in batch if job.return_value != "completed"]
        if failed:
            jobs = len([job for batch in returns for job in batch])
            raise UserError(f"{len(failed)} of {jobs} jobs failed; the table above lists them. The rest is kept.")
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


def register() -> None:
    """Make the sweeper known to Hydra as `hydra/sweeper=checked`."""
    Plugins.instance().register(CheckedSweeper)
    node = {"_target_": f"{__name__}.CheckedSweeper", "max_batch_size": None, "params": None}
    ConfigStore.instance().store(group="hydra/sweeper", name="checked", node=node, provider="suite")
