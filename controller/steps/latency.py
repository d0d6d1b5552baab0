"""C1: the latency estimator, fitted on the timed `tune` samples and judged on the timed `test` samples.

A row is a (sample, configuration), its time the median of its runs; the p95 is judged on single runs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from controller import estimator, estimator_fit, plots
from controller import estimator_report as told
from controller.estimator import OUTPUTS, Estimator, measured, only
from controller.recalibrate import draw_rows, learning_curve, recalibrate
from controller.steps import profile
from controller.table import Profile
from controller.targets import Target, target
from suite.result import Metric, Result

if TYPE_CHECKING:
    from controller.steps.bench import Bench

MAE_MS = {"prefill": 5.0, "decode_per_token": 1.0}
R2, UNSEEN_MAPE, COVERED = 0.9, 10.0, (93.0, 97.0)
LEAST_SAMPLES = 4
"""Timed samples of which half can recalibrate and half can judge."""


def run(bench: Bench, folder: Path) -> Result:
    """Fit, or recalibrate `task.estimator`; writes the estimator."""
    found, task, seed = profile.read(bench), bench.task, bench.cfg.seed
    tune, test = found.split("tune"), found.split("test")
    tables = []
    if task.estimator is None:
        made = estimator_fit.fit(tune, task.latency, machine=bench.machine, seed=seed).estimator
    else:
        carried = estimator.load(Path(task.estimator))
        rows = draw_rows(tune, task.recalibrate, seed=seed)
        made = recalibrate(carried, only(tune, rows), machine=bench.machine)
        if tune.timed.sum() >= LEAST_SAMPLES:
            tables.append(_by_rows(learning_curve(carried, tune, machine=bench.machine, seed=seed)))
    made.save(folder)
    scores = told.standing(made, tune, test, seed=seed)
    covered = told.coverage(made, test, seed=seed)
    unseen, held_out = told.unseen_configurations(tune, test, task.latency, seed=seed)
    _draw(folder / "plots", made, test, seed=seed)
    metrics = {name: metric for name, metric in scores["estimator"].items() if metric.value is not None}
    metrics |= {"p95_coverage": covered, "unseen_configurations_mape": held_out["total_mape"]}
    metrics |= told.single_runs(test, made.predict(test), seed=seed)
    facts = {
        "unseen_configurations": list(unseen),
        "headline": ["prefill_mae", "decode_per_token_mae", "total_mape", "total_r2", "p95_coverage"],
        "targets": [*_targets(made, scores, covered, held_out, tune, test, seed=seed)],
        "tables": [*tables, _table(scores)],
    }
    return Result(metrics=metrics, facts=facts)


def read(bench: Bench) -> Estimator:
    """The estimator of an earlier step, which must be of these knobs and this machine."""
    found = estimator.load(bench.folder("latency"))
    found.check(space=profile.read(bench).space, machine=bench.machine)
    return found


def _targets(
    made: Estimator, scores: Mapping[str, Mapping[str, Metric]], covered: Metric, held_out: Mapping[str, Metric],
    tune: Profile, test: Profile, *, seed: int,
) -> Iterator[Target]:  # fmt: skip
    ours = scores["estimator"]
    for part, aim in MAE_MS.items():
        yield _at_most(f"{part} MAE", ours[f"{part}_mae"], aim, "ms")
    for name in OUTPUTS:
        metric = ours[f"{name.removesuffix('_ms')}_r2"]
        met = None if metric.value is None else metric.value > R2
        yield target("C1", f"{name.removesuffix('_ms')} R2", f"over {R2}", _said(metric), met=met)
    yield _at_most("MAPE of the total, configurations held out of training", held_out["total_mape"], UNSEEN_MAPE, "%")
    inside = None if covered.value is None else COVERED[0] <= covered.value <= COVERED[1]
    yield target("C1", "runs within their p95", f"{COVERED[0]:g} to {COVERED[1]:g} %", _said(covered), met=inside)
    teach, _ = estimator_fit.split(tune, seed=seed)
    predicted = made.predict(test)
    for name, of in (("the lookup table's mean", told.lookup_means), ("linear regression", told.linear_regression)):
        gap = told.gains(test, predicted, of(teach, test), seed=seed)["total"]
        interval = f" [{-gap.ci95[1]:+.2f}, {-gap.ci95[0]:+.2f}]" if gap.ci95 else ""
        met = None if gap.ci95 is None or gap.ci95[0] <= 0 <= gap.ci95[1] else gap.value > 0
        yield target("C1", f"MAE of the total against {name}", "lower", f"{-gap.value:+.2f} ms" + interval, met=met)


def _at_most(what: str, metric: Metric, aim: float, unit: str) -> Target:
    met = None if metric.value is None else metric.value <= aim
    return target("C1", what, f"at most {aim:g} {unit}", _said(metric), met=met)


def _said(metric: Metric) -> str:
    if metric.value is None:
        return "-"
    unit = "" if metric.unit == "1" else f" {metric.unit}"
    interval = f" [{metric.ci95[0]:.2f}, {metric.ci95[1]:.2f}]" if metric.ci95 else ""
    return f"{metric.value:.2f}{unit}{interval}"


def _table(scores: Mapping[str, Mapping[str, Metric]]) -> dict[str, Any]:
    """Errors of the estimator beside the baselines'."""
    rows = [[name, *(_said(by_name[name]) for by_name in scores.values())] for name in scores["estimator"]]
    return {"title": "C1: errors on test samples", "header": ["", *scores], "rows": rows, "report_only": True}


def _by_rows(curve: Mapping[int, Mapping[str, Metric]]) -> dict[str, Any]:
    """What recalibration from so many runs brings; 0 is the other machine's estimator as it came."""
    names = ("prefill_mape", "decode_per_token_mape", "total_mape", "coverage")
    rows = [[str(count), *(_said(scores[name]) for name in names)] for count, scores in curve.items()]
    return {"title": "C1: recalibrated from so many runs", "header": ["runs", *names], "rows": rows}


def _draw(where: Path, made: Estimator, test: Profile, *, seed: int) -> None:
    where.mkdir(exist_ok=True)
    predicted, times = made.predict(test), measured(test)
    rows = told.by_configuration(test, predicted, seed=seed)
    names = ("prefill", "decode_per_token", "total")
    mape = {name: np.array([row[f"{name}_mape"] or np.nan for row in rows]) / 100 for name in names}
    plots.draw_estimator_errors(where / "c1_errors.svg", test.space, mape)
    parts = {name: (np.nan_to_num(times[name]).ravel(), predicted[name].ravel()) for name in (*OUTPUTS, "total_ms")}
    plots.draw_estimates(where / "c1_estimates.svg", parts)
