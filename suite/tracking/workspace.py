"""A wandb workspace for one sweep, as code: what to chart, in which order the runs stand, what to filter by.

Made from the records of the sweep, so its panels name the metrics that are there. Building it needs no server; saving
it does, and a key.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from suite.errors import UserError
from suite.report.collect import flatten, read_sweep
from suite.report.words import less_is_better
from suite.tracking.overview import shown, tradeoff
from suite.tracking.schema import TrackerConfig
from suite.tracking.view import group_name


def workspace_of(cfg: TrackerConfig, folder: Path) -> Any:
    """The view of a sweep, a `wandb_workspaces.workspaces.Workspace`: results, trade-off, settings, curves.

    Args:
        cfg: entity, project, and the group if it was named.
        folder: of the sweep.

    Raises:
        UserError: wandb-workspaces is not installed, or there are no records.
    """
    try:
        import wandb_workspaces.reports.v2 as panels
        import wandb_workspaces.workspaces as spaces
    except ImportError as error:
        raise UserError("wandb-workspaces is not installed; `pip install 'edgebench[workspace]'`.") from error
    sweep, group = read_sweep(folder), cfg.group or group_name(folder)
    names, axes = shown(sweep), tradeoff(sweep)
    results = [panels.BarPlot(title=name, metrics=[name], max_bars_to_show=100) for name in names]
    if axes is not None:
        x, y = (panels.SummaryMetric(name) for name in axes)
        results.insert(0, panels.ScatterPlot(title=" over ".join(reversed(axes)), x=x, y=y))
    config = flatten(sweep.jobs[0].record["config"])
    swept = [panels.Config(key) for name in sweep.settings for key in [_key(name, config)] if key]
    main = next((name for name in names if axes is None or name == axes[1]), None)
    if main is not None and swept:
        columns = [panels.ParallelCoordinatesPlotColumn(metric=one) for one in (*swept, panels.SummaryMetric(main))]
        results.append(panels.ParallelCoordinatesPlot(title="settings", columns=columns))
    curves = [panels.LinePlot(title=name, x="sample", y=[f"so_far/{name}"]) for name in names]
    tables = [panels.MediaBrowser(title="sweep", media_keys=["jobs", "overview"])]
    order = [spaces.Ordering(spaces.Summary(main), ascending=less_is_better(main, ""))] if main else []
    return spaces.Workspace(
        entity=cfg.entity,
        project=cfg.project,
        name=f"sweep {group}",
        sections=[
            spaces.Section(name="Results", panels=results, is_open=True),
            spaces.Section(name="While it runs", panels=curves, is_open=True),
            spaces.Section(name="Tables and plots", panels=tables),
        ],
        runset_settings=spaces.RunsetSettings(filters=f"Metric('Group') == {group!r}", order=order),
    )


def _key(name: str, config: Mapping[str, Any]) -> str | None:
    """The full key of a setting that a table shows by its short name; None for one that is not of the config."""
    ends = (name, f"{name}.name", f"{name}.id")
    return next((key for key in config if f".{key}".endswith(tuple(f".{end}" for end in ends))), None)


def specification(view: Any) -> str:
    """What saving a workspace would send, as JSON."""
    return json.dumps(view._to_model().model_dump(mode="json", by_alias=True, exclude_none=True), indent=1)
