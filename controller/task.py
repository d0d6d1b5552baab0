"""`task=controller`: one step of the study, or all of them; needed earlier steps are found or made first.

Read next: steps/bench.py, the order of the steps; then steps/<step>.py, what each does.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from controller.steps.bench import STEPS, Bench
from controller.targets import Target, table
from suite.config import RunConfig
from suite.result import Metric, Result

if TYPE_CHECKING:
    from suite.context import RunContext


def run(cfg: RunConfig, ctx: RunContext) -> Result:
    """Run `task.step`; plots and pages of the steps go beside the record.

    Raises:
        UserError: bad input.
    """
    from controller.steps import adaptive

    bench = Bench(cfg=cfg, ctx=ctx)
    step = bench.task.step
    if step in STEPS:
        result = bench.result(step)
        show(bench.folder(step), ctx.folder)
        return _with_targets(result)
    if step == "adaptive":
        return _with_targets(adaptive.run(bench, ctx))
    metrics: dict[str, Metric] = {}
    facts: dict[str, Any] = {}
    targets: list[Target] = []
    tables: list[dict[str, Any]] = []
    for name in STEPS:
        one = bench.result(name)
        show(bench.folder(name), ctx.folder)
        metrics |= {f"{name}_{key}": metric for key, metric in one.metrics.items()}
        facts[name] = _findings(one)
        tables += one.facts["tables"]
        targets += one.facts["targets"]
    last = adaptive.run(bench, ctx)
    metrics |= {f"adaptive_{key}": metric for key, metric in last.metrics.items()}
    facts["adaptive"] = _findings(last)
    more = [{**one, "report_only": True} for one in (*tables, *last.facts["tables"])]
    facts["tables"] = [table([*targets, *last.facts["targets"]]), *more]
    facts["headline"] = [f"adaptive_{name}" for name in last.facts["headline"]]
    return Result(metrics=metrics, facts=facts)


def _findings(result: Result) -> dict[str, Any]:
    """Facts of a step but for those that a record gathers from all steps."""
    return {key: value for key, value in result.facts.items() if key not in ("targets", "headline", "tables")}


def _with_targets(result: Result) -> Result:
    """A step's result as a record shows it: its targets are the first table."""
    facts = dict(result.facts)
    tables = [table(facts.pop("targets")), *facts.pop("tables", ())]
    return Result(metrics=result.metrics, facts={**facts, "tables": tables})


def show(step: Path, folder: Path) -> None:
    """Copy a step's plots and pages into a job's folder."""
    for plot in sorted((step / "plots").glob("*.svg")):
        (folder / "plots").mkdir(exist_ok=True)
        shutil.copyfile(plot, folder / "plots" / plot.name)
    for page in sorted(step.glob("*.html")):
        shutil.copyfile(page, folder / page.name)
