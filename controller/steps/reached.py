"""What adaptive inference reached (C8): accuracy, latency and adherence of every policy on real runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from controller import baselines, plots
from controller.baselines import Table
from controller.space import Knobs
from controller.steps import stage2, standing
from controller.steps.ground import Floats, Ground
from controller.targets import Target, points, share, target
from suite.result import Metric, Result
from suite.stats import Estimate, corpus_ci, mean_ci, ratio_ci

OWN = "controller"
ADHERENCE, DECISION = 0.80, 0.01
STATISTICS: dict[str, Callable[[Floats], Any]] = {
    "mean": np.mean,
    "p90": partial(np.quantile, q=0.9),
    "p95": partial(np.quantile, q=0.95),
}


def report(here: Ground, rows: list[dict[str, Any]], budgets: Floats, folder: Path, *, seed: int) -> Result:
    """Metrics, targets, tables and plots of the rows of `adaptive.run`; all policies ran on the same samples."""
    runs = {OWN: [row["runs"] for row in rows]}
    runs |= {name: [row["beside"][name] for row in rows] for name in rows[0]["beside"]}
    got = {name: Table(accuracy=_grid(found, "accuracy"), latency_ms=_grid(found, "total_ms"))
           for name, found in runs.items()}  # fmt: skip
    metrics: dict[str, Metric] = {}
    for name, table in got.items():
        within = (table.latency_ms <= budgets).mean(axis=1)
        metrics |= {
            f"{name}_accuracy": mean_ci(table.accuracy.mean(axis=1), seed=seed).metric(unit="1", origin="computed"),
            f"{name}_latency_ms": mean_ci(table.latency_ms.mean(axis=1), seed=seed).metric(unit="ms"),
            f"{name}_adherence": mean_ci(within, seed=seed).metric(unit="1", note="runs within the budget"),
        }
    decision = _grid(runs[OWN], "decision_ms")
    part = ratio_ci(decision.sum(axis=1), got[OWN].latency_ms.sum(axis=1), seed=seed)
    metrics["decision_ms"] = mean_ci(decision.mean(axis=1), seed=seed).metric(unit="ms")
    metrics["decision_share"] = part.metric(unit="1", note="of the whole run's time")
    _draw(here, got, budgets, folder, seed=seed)
    facts = {
        "budgets_ms": budgets.tolist(),
        "headline": [*metrics][:6] + ["decision_share"],
        "targets": [*_targets(here, rows, got, budgets, metrics, seed=seed)],
        "tables": [_table(got, budgets)],
    }
    return Result(metrics=metrics, facts=facts)


def _grid(runs: list[list[dict[str, Any]]], key: str) -> Floats:
    """(samples, budgets)."""
    return np.array([[float(one[key]) for one in row] for row in runs])


def _targets(
    here: Ground, rows: list[dict[str, Any]], got: Mapping[str, Table], budgets: Floats, metrics: Mapping[str, Metric],
    *, seed: int,
) -> Iterator[Target]:  # fmt: skip
    own = got[OWN]
    gap = baselines.compare(own, got["lookup"], seed=seed)
    told = f"{points(gap['accuracy'].value, gap['accuracy'].ci95)}, {gap['latency_ms'].value:+.2f} ms"
    yield target("C8", "accuracy against the lookup table's configurations", "above", told,
                 met=stage2.sign(gap["accuracy"].ci95))  # fmt: skip
    known = here.test.take(np.array([here.test.ids.index(row["id"]) for row in rows]))
    columns = np.array([[here.space.index(Knobs(tier=one["tier"], top_k=one["top_k"], blocks=one["blocks"]))
                         for one in row["runs"]] for row in rows])  # fmt: skip
    above = standing.above_hull(known, columns, seed=seed)
    yield target("C8", "accuracy against the fixed hull at equal expected latency", "above",
                 points(above.value, above.ci95), met=stage2.sign(above.ci95))  # fmt: skip
    late = [f"{budget:.1f}" for budget, mean in zip(budgets, own.latency_ms.mean(axis=0), strict=True) if mean > budget]
    said = f"{len(budgets) - len(late)} of {len(budgets)} budgets" + (f"; not {', '.join(late)} ms" if late else "")
    yield target("C8", "mean latency within the budget", "every budget", said, met=not late)
    for name, aim, over in (("controller_adherence", ADHERENCE, True), ("decision_share", DECISION, False)):
        one = metrics[name]
        assert one.value is not None  # a mean of at least one run
        what = "runs within their budget" if over else "the controller's own time"
        word = "over" if over else "under"
        met = one.value > aim if over else one.value < aim
        yield target("C8", what, f"{word} {100 * aim:.0f} %", share(one.value, one.ci95), met=met)


def _table(got: Mapping[str, Table], budgets: Floats) -> dict[str, Any]:
    """Every policy at every budget."""
    rows = []
    for name, table in got.items():
        for place, budget in enumerate(budgets):
            times = table.latency_ms[:, place]
            p50, p90, p95 = np.percentile(times, (50, 90, 95))
            within = baselines.wilson(int((times <= budget).sum()), len(times))
            right = f"{100 * table.accuracy[:, place].mean():.1f} %"
            figures = (times.mean(), p50, p90, p95)
            told = share(within.value or 0.0, within.ci95)
            rows.append([name, f"{budget:.1f}", right, *(f"{value:.1f}" for value in figures), told])
    header = ["policy", "budget, ms", "accuracy", "mean ms", "p50", "p90", "p95", "within"]
    return {"title": "C8: real runs by budget", "header": header, "rows": rows}


def _draw(here: Ground, got: Mapping[str, Table], budgets: Floats, folder: Path, *, seed: int) -> None:
    """What was really run: accuracy against latency, adherence, regret to the oracle."""
    (folder / "plots").mkdir(exist_ok=True)
    right = {name: [mean_ci(values, seed=seed) for values in table.accuracy.T] for name, table in got.items()}
    mean, fixed = here.test.latency_ms.mean(axis=0), here.test.accuracy.mean(axis=0)
    plots.draw_tradeoff(
        folder / "plots" / "c8_tradeoff.svg", latency_ms=mean, accuracy=fixed,
        hull=baselines.hull(fixed, mean).columns.tolist(),
        lines={name: (table.latency_ms.mean(axis=0).tolist(), right[name]) for name, table in got.items()},
    )  # fmt: skip
    relative = {name: got[name].latency_ms / budgets for name in (OWN, "lookup")}
    plots.draw_adherence(
        folder / "plots" / "c8_adherence.svg", budgets_ms=budgets.tolist(), target=ADHERENCE,
        within={name: _within(table, budgets) for name, table in got.items()},
        relative={
            name: {what: [_statistic(one, of, seed=seed) for one in ratios.T] for what, of in STATISTICS.items()}
            for name, ratios in relative.items()
        },
    )  # fmt: skip
    missed = {name: [mean_ci(gap, seed=seed) for gap in (got["oracle"].accuracy - table.accuracy).T]
              for name, table in got.items() if name != "oracle"}  # fmt: skip
    plots.draw_regret(folder / "plots" / "c8_regret.svg", budgets_ms=budgets.tolist(), regret=missed)


def _within(table: Table, budgets: Floats) -> list[Estimate]:
    kept = (table.latency_ms <= budgets).sum(axis=0)
    return [baselines.wilson(int(count), len(table.latency_ms)) for count in kept]


def _statistic(values: Floats, of: Callable[[Floats], Any], *, seed: int) -> Estimate:
    """A statistic of values (n,)."""
    return corpus_ci(lambda rows: float(of(values[rows])), len(values), seed=seed, draws=500, method="percentile")
