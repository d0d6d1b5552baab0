"""`task=argo_graphs`: every strategy at every cost of a retrieval, on one tree of calls; Graph 1.A, Graph 1.B, tables.

Read next: study.py.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from argo.curves import Cell
from argo.mdp import cost_points
from argo.schema import ArgoGraphsConfig
from argo.study import Study, outcome, told
from argo.task import answer, asked, first_error, of_process
from argo.tree import Tree
from suite.config import RunConfig
from suite.context import ok
from suite.errors import UserError
from suite.result import Result

if TYPE_CHECKING:
    from suite.context import RunContext

POINTS = {"small": 5, "medium": 10, "full": 10}


def run(cfg: RunConfig, ctx: RunContext) -> Result:
    """Grow the trees, read every cell off them, compare.

    Raises:
        UserError: bad input, or no question was answered.
    """
    from argo import page, plots
    from argo.summary import accuracy_of, summarise

    task: ArgoGraphsConfig = cfg.task
    ratios = list(task.cost_ratios) or cost_points(task.mdp, task.cost_axis, task.cost_points or POINTS[task.mode])
    cells = [Cell(strategy=strategy, cost_ratio=ratio) for strategy in task.strategies for ratio in ratios]
    study = Study(task, cfg.seed, cells)

    def row(tree: Tree) -> dict[str, Any]:
        walks = study.walks(tree)
        if not walks:
            raise UserError(study.failure(tree) or "no strategy came through this question")
        found = [
            (cell, number, outcome(tree, walk, task, cell.cost_ratio))
            for number, (policy, walk) in enumerate(walks.items())
            for cell in study.policies[policy]
        ]
        return {
            **asked(tree.question),
            "walks": [told(tree, walk) for walk in walks.values()],
            "cells": [
                {"strategy": cell.strategy, "cost_ratio": written(cell.cost_ratio), "walk": number, "metrics": metrics}
                for cell, number, metrics in found
            ],
            "error": study.failure(tree),  # of cells that are missing; retry_failed=true asks for them again
            "metrics": {accuracy_of(cell): metrics["correct"] for cell, _, metrics in found},
        }

    data, facts = answer(cfg, ctx, study, row)
    rows = ok(ctx.samples)
    if not rows:
        raise UserError(f"No question was answered; the first one: {first_error(ctx)}")
    grid: dict[Cell, dict[str, Any]] = {cell: {} for cell in cells}
    for sample in rows:
        for one in sample["cells"]:
            grid[Cell(strategy=one["strategy"], cost_ratio=float(one["cost_ratio"]))][sample["id"]] = one["metrics"]
    facts |= of_process(task, ratios)
    summary = summarise(grid, facts, seed=cfg.seed)
    plots.draw(ctx.folder / "plots", summary, facts)
    page.write(ctx.folder / "trajectories.html", rows, {passage.id: passage for passage in data.passages})
    facts |= {"headline": [*summary.headline], "tables": summary.tables, "verdict": summary.verdict}
    return Result(metrics=summary.metrics, facts=facts)


def written(ratio: float) -> float | str:
    """A cost ratio as JSON has it, which knows no infinity."""
    return ratio if math.isfinite(ratio) else "inf"
