"""How a controller stands on `test`: beside lookup table, random, oracle and the hull of fixed configurations."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from controller import baselines, plots
from controller.baselines import Standing
from controller.space import Space
from controller.steps.ground import Floats, Ground, Ints, Side
from controller.supervised import shares
from controller.targets import points, share
from suite.result import Metric
from suite.stats import Difference, Estimate, mean_ci, paired_difference

ESTIMATED = "latency: the estimator's"


def baselines_of(ground: Ground, *, seed: int) -> dict[str, Ints]:
    """Columns (n, m) on `test` of what every controller stands next to; the lookup table is made on `tune`."""
    tune, test, budgets = ground.tune, ground.test, ground.budgets_ms
    mean, p95 = tune.latency_ms.mean(axis=0), tune.p95_ms.mean(axis=0)
    right = tune.accuracy.mean(axis=0)
    shape = (len(test.ids), len(budgets))
    return {
        "lookup": np.broadcast_to(baselines.lookup(right, mean, budgets), shape),
        "lookup_p95": np.broadcast_to(baselines.lookup(right, p95, budgets), shape),
        "random": baselines.random_within(mean, budgets, test.ids, seed=seed),
        "oracle": baselines.oracle(test.table, budgets),
    }


def stand(ground: Ground, columns: Mapping[str, Ints], *, seed: int) -> dict[str, list[Standing]]:
    """Standings by budget of policies given as columns (n, m) on `test`."""
    table = ground.test.table
    return {
        name: baselines.standings(table.pick(chosen), table, ground.budgets_ms, seed=seed)
        for name, chosen in columns.items()
    }


def over_budgets(ground: Ground, columns: Ints, *, seed: int) -> dict[str, Metric]:
    """Accuracy, latency and adherence of a policy, each the mean over the budgets; the sample is the unit."""
    got = ground.test.table.pick(columns)
    within = (got.latency_ms <= ground.budgets_ms).mean(axis=1)
    accuracy = mean_ci(got.accuracy.mean(axis=1), seed=seed)
    return {
        "accuracy": accuracy.metric(unit="1", origin="computed", note="mean over the budgets"),
        "latency_ms": mean_ci(got.latency_ms.mean(axis=1), seed=seed).metric(
            unit="ms", origin="modelled", note=ESTIMATED
        ),
        "adherence": mean_ci(within, seed=seed).metric(unit="1", origin="modelled", note=ESTIMATED),
    }


def above_hull(test: Side, columns: Ints, *, seed: int) -> Difference:
    """Accuracy minus the hull's at the same mean latency, mean over the budgets of columns (n, m), paired by sample."""
    got = test.table.pick(columns)
    edge = baselines.hull(test.accuracy.mean(axis=0), test.latency_ms.mean(axis=0))
    pairs = [
        baselines.net_of_latency(got.accuracy[:, place], got.latency_ms[:, place], test.table, edge)
        for place in range(columns.shape[1])
    ]
    own, mixed = np.mean(pairs, axis=0)
    return paired_difference(own, mixed, seed=seed, purpose="above hull")


def rows(standings: Mapping[str, list[Standing]]) -> list[list[str]]:
    """Lines of a table: policy, budget, accuracy, latency, share within, above the hull, regret."""
    told = []
    for name, by_budget in standings.items():
        for one in by_budget:
            told.append(
                [
                    name,
                    f"{one.budget_ms:.1f}",
                    _share(one.accuracy),
                    f"{one.latency_ms.value:.1f}",
                    f"{one.p95_ms:.1f}",
                    _share(one.within),
                    points(one.above_hull.value, one.above_hull.ci95),
                    f"{100 * (one.regret.value or 0.0):.1f}",
                ]
            )
    return told


def table(title: str, standings: Mapping[str, list[Standing]]) -> dict[str, Any]:
    """Standings as a table of a record."""
    header = ["policy", "budget, ms", "accuracy", "mean ms", "p95 ms", "within", "above the hull", "regret, points"]
    return {"title": title, "header": header, "rows": rows(standings), "report_only": True}


def _share(one: Estimate) -> str:
    return "-" if one.value is None else share(one.value, one.ci95)


def draw(
    folder: Path, name: str, ground: Ground, columns: Mapping[str, Ints], standings: Mapping[str, list[Standing]]
) -> None:
    """Accuracy against latency, adherence, and the knobs chosen, as `<name>_*.svg`."""
    (folder / "plots").mkdir(exist_ok=True)
    mean, right = ground.test.latency_ms.mean(axis=0), ground.test.accuracy.mean(axis=0)
    budgets = ground.budgets_ms.tolist()
    plots.draw_tradeoff(
        folder / "plots" / f"{name}_tradeoff.svg",
        latency_ms=mean,
        accuracy=right,
        hull=baselines.hull(right, mean).columns.tolist(),
        lines={
            policy: ([one.latency_ms.value for one in found], [one.accuracy for one in found])
            for policy, found in standings.items()
        },
    )
    own = {policy: chosen for policy, chosen in columns.items() if policy not in ("random", "oracle")}
    plots.draw_knobs(
        folder / "plots" / f"{name}_knobs.svg",
        budgets_ms=budgets,
        shares={policy: knob_shares(ground.space, chosen) for policy, chosen in own.items()},
        settings={"tier": ground.space.tiers, "top_k": ground.space.top_ks, "blocks": ground.space.depths},
    )


def knob_shares(space: Space, columns: Ints) -> dict[str, Floats]:
    """Share of samples by setting of each knob, (m, settings), from columns (n, m)."""
    places = space.places()[columns]
    names = ("tier", "top_k", "blocks")
    return {name: shares(places[..., knob], space.shape[knob]) for knob, name in enumerate(names)}
