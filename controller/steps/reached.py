"""What adaptive inference reached (C8): accuracy, latency and adherence of every policy on real runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from controller import baselines, plots
from controller.baselines import Floats, Standing, Table
from controller.estimator_report import lookup_means
from controller.space import Knobs, Space
from controller.steps import standing
from controller.table import Profile
from controller.targets import Target, points, share, target
from suite.result import Metric, Result
from suite.stats import mean_ci, ratio_ci

OWN = "controller"
ADHERENCE, DECISION = 0.80, 0.01


def report(
    profile: Profile, beforehand: Table, rows: list[dict[str, Any]], budgets: Floats, folder: Path, *, seed: int
) -> Result:
    """Metrics, targets, tables and plots of the rows of `adaptive.run`; all policies ran on the same samples.

    The hull is that of all configurations on these samples, and beside it the one that `beforehand` (tune) chooses:
    real answers, and the mean times that C7 found in each configuration, for answers of these lengths. The machine was
    faster or slower in that hour than in this one; the lookup table's runs tell by how much, and the hull is moved by
    it.
    """
    known = profile.take(np.array([profile.ids.index(row["id"]) for row in rows]))
    clocked = profile.take(profile.timed).split("test").averaged()
    fixed = Table(accuracy=known.accuracy, latency_ms=lookup_means(clocked, known)["total_ms"])
    runs = {OWN: [row["runs"] for row in rows]}
    runs |= {name: [row["beside"][name] for row in rows] for name in rows[0]["beside"]}
    got = {name: Table(accuracy=_grid(found, "accuracy"), latency_ms=_grid(found, "total_ms"))
           for name, found in runs.items()}  # fmt: skip
    drift = _drift(fixed, known.space, runs["lookup"])
    fixed = Table(accuracy=fixed.accuracy, latency_ms=fixed.latency_ms * drift)
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
    found = {name: baselines.standings(table, fixed, budgets, seed=seed) for name, table in got.items()}
    metrics |= {
        f"budgets_kept_by_{name}": one.metric(unit="1", note=f"share of the budgets that the {name} latency keeps")
        for name, one in baselines.adherence(found[OWN]).items()
    }
    _draw(fixed, found, folder / "plots")
    hulls = standing.hull_targets("C8", "", fixed, got[OWN], beforehand, seed=seed)
    facts = {
        "budgets_ms": budgets.tolist(),
        "slower_than_profiled": drift,
        "headline": [*metrics][:6] + ["decision_share"],
        "targets": [*_targets(got, hulls, budgets, metrics, seed=seed)],
        "tables": [_short(found), standing.table_of("C8: real runs by budget", found)],
    }
    return Result(metrics=metrics, facts=facts)


def _short(found: Mapping[str, list[Standing]]) -> dict[str, Any]:
    """Budget by budget: the controller's accuracy, latency and adherence, and the accuracy of the others, in %."""
    others = [name for name in found if name != OWN]
    rows = []
    for place, own in enumerate(found[OWN]):
        right = [f"{100 * (found[name][place].accuracy.value or 0.0):.0f}" for name in (OWN, *others)]
        times = [f"{own.latency_ms.value:.1f}", f"{own.p95_ms:.1f}", f"{100 * (own.within.value or 0.0):.0f}"]
        rows.append([f"{own.budget_ms:.1f}", *times, *right])
    header = ["budget, ms", "mean ms", "p95 ms", "within, %", OWN, *others]
    return {"title": f"C8: {OWN}'s latency, and accuracy in %", "header": header, "rows": rows}


def _drift(fixed: Table, space: Space, runs: list[list[dict[str, Any]]]) -> float:
    """Time of the lookup table's runs over what C7 found such runs to take: the machine's doing, not ours."""
    columns = np.array([[space.index(Knobs(tier=one["tier"], top_k=one["top_k"], blocks=one["blocks"])) for one in row]
                        for row in runs])  # fmt: skip
    return float(_grid(runs, "total_ms").mean() / fixed.pick(columns).latency_ms.mean())


def _grid(runs: list[list[dict[str, Any]]], key: str) -> Floats:
    """(samples, budgets)."""
    return np.array([[float(one[key]) for one in row] for row in runs])


def _targets(
    got: Mapping[str, Table], hulls: Iterator[Target], budgets: Floats, metrics: Mapping[str, Metric], *, seed: int
) -> Iterator[Target]:
    own = got[OWN]
    for name, what in (("lookup_p95", "p95"), ("lookup", "mean")):
        gap = baselines.compare(own, got[name], seed=seed)
        told = f"{points(gap['accuracy'].value, gap['accuracy'].ci95)}, {gap['latency_ms'].value:+.2f} ms"
        against = f"accuracy against the best fixed configuration whose {what} latency keeps the budget"
        yield target("C8", against, "above", told, met=standing.sign(gap["accuracy"].ci95))
    yield from hulls
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


def _draw(fixed: Table, found: Mapping[str, list[Standing]], where: Path) -> None:
    """What was really run: accuracy against latency, adherence, regret to the oracle."""
    where.mkdir(exist_ok=True)
    plots.draw_tradeoff(where / "c8_tradeoff.svg", fixed, found)
    plots.draw_adherence(where / "c8_adherence.svg", found, target=ADHERENCE)
    plots.draw_regret(where / "c8_regret.svg", found)
