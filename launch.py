"""Run one study: compose the configuration, check it, return the record if there is one, else run the task.

Read next: edgecloud/task.py, argo/task.py, controller/task.py.  `python launch.py --help` shows what to type.
"""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

import argo.schema
import controller.schema
import edgecloud.schema
import suite.config
from suite.errors import JobsFailed, UserError
from suite.tracking.secrets import refuse_secrets

TASKS = {
    "specdec": "edgecloud.task:run",
    "specdec_what_if": "edgecloud.what_if:run",
    "argo": "argo.task:run",
    "argo_graphs": "argo.graphs:run",
    "argo_calibration": "argo.calibration:run",
    "controller": "controller.task:run",
}
SCHEMAS = (suite.config, edgecloud.schema, argo.schema, controller.schema)

log = logging.getLogger("launch")
failures: list[str] = []


@hydra.main(version_base="1.3", config_path=str(suite.config.CONF), config_name="config")
def launch(cfg: DictConfig) -> str:
    """One job; returns the status of its record. In a sweep, a job that fails does not stop the others."""
    from edgecloud.live import replay
    from suite.job import run_job
    from suite.report.table import show_job
    from suite.sweep.dry_run import show_single

    hydra_cfg = HydraConfig.get()
    sweep = Path(hydra_cfg.sweep.dir).as_posix() if hydra_cfg.mode == RunMode.MULTIRUN else None
    overrides = [override for override in hydra_cfg.overrides.task if not override.startswith("tracker")]
    folder = Path(hydra_cfg.runtime.output_dir)
    if cfg.dry_run:
        return show_single(cfg, overrides, folder)
    try:
        record, found = run_job(cfg, folder, TASKS[cfg.task.name], overrides, sweep)
    except Exception as error:
        log.debug("the job failed", exc_info=True)  # the traceback is for the job's log, not for the screen
        failures.append(str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}")
        log.error("%s", failures[-1])
        return "failed"
    if record["status"] != "completed":
        failures.append(f"{record['error']} (as recorded; retry_failed=true runs it again)")
        log.error("%s", failures[-1])
    elif sweep is None:
        if found and cfg.dataset.get("audio"):
            replay(folder)
        show_job(record)
    return str(record["status"])


def main() -> int:
    """Exit code: 0 done, 1 a job failed or was refused, 2 the command cannot be composed, 130 interrupted."""
    if {"--help", "-h"} & set(sys.argv[1:]):
        print(suite.config.help_text())
        return 0
    for module in SCHEMAS:
        module.register()
    logging.raiseExceptions = False  # a log that cannot be written: the samples, on the same disk, tell
    traceback_wanted = "HYDRA_FULL_ERROR" in os.environ
    os.environ["HYDRA_FULL_ERROR"] = "1"  # hand errors to us instead of printing them
    try:
        suite.config.check_text(sys.argv[1:])
        refuse_secrets(sys.argv[1:])
        launch()
    except KeyboardInterrupt:
        print("\nInterrupted. What was computed is kept; the same command goes on from there.", file=sys.stderr)
        return 130
    except (UserError, HydraException, OmegaConfBaseException, OSError) as error:  # Hydra makes the folders
        if traceback_wanted:
            raise
        print(suite.config.explain(error), file=sys.stderr)
        return 1 if failures or isinstance(error, JobsFailed) else 2
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
