"""How a controller stands on `test`: beside lookup table, random, oracle and the hull of fixed configurations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from controller import baselines, plots
from controller.baselines import Standing, Table
from controller.space import Space
from controller.steps.ground import Floats, Ground, Ints
from controller.supervised import shares
from controller.targets import Target, points, share, target
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


def above_hull(table: Table, got: Table, *, seed: int, beforehand: Table | None = None) -> Difference:
    """Accuracy of a policy (n, m) minus the hull's at the same mean latency, mean over budgets, paired by sample.

    Args:
        table: every fixed configuration on the same samples, (n, c).
        got: what the policy got, (n, m).
        seed: of the bootstrap.
        beforehand: every fixed configuration on the samples that choose the hull; None: those of `table`.
    """
    chosen_on = beforehand or table
    edge = baselines.hull(chosen_on.accuracy.mean(axis=0), chosen_on.latency_ms.mean(axis=0))
    if beforehand:
        edge = baselines.carried(edge, table)
    pairs = [
        baselines.net_of_latency(accuracy, latency, table, edge)
        for accuracy, latency in zip(got.accuracy.T, got.latency_ms.T, strict=True)
    ]
    own, mixed = np.mean(pairs, axis=0)
    return paired_difference(own, mixed, seed=seed, purpose="above hull")


def hull_targets(row: str, what: str, table: Table, got: Table, beforehand: Table, *, seed: int) -> Iterator[Target]:
    """Against the hull chosen on the very samples judged on, and against that chosen on others, as the policy was."""
    for whose, chosen_on in (("", None), (" chosen on tune", beforehand)):
        gap = above_hull(table, got, seed=seed, beforehand=chosen_on)
        name = f"{what}accuracy against the fixed hull{whose} at equal mean latency"
        yield target(row, name, "above", points(gap.value, gap.ci95), met=sign(gap.ci95))


def sign(ci95: tuple[float, float] | None) -> bool | None:
    """Whether a difference is above 0; None where its interval holds 0."""
    if ci95 is None or (ci95[0] <= 0 <= ci95[1]):
        return None
    return ci95[0] > 0


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


def table_of(title: str, standings: Mapping[str, list[Standing]]) -> dict[str, Any]:
    """Standings as a table of a record."""
    header = ["policy", "budget, ms", "accuracy", "mean ms", "p95 ms", "within", "above the hull", "regret, points"]
    return {"title": title, "header": header, "rows": rows(standings), "report_only": True}


def _share(one: Estimate) -> str:
    return "-" if one.value is None else share(one.value, one.ci95)


def draw(
    folder: Path, name: str, ground: Ground, columns: Mapping[str, Ints], standings: Mapping[str, list[Standing]]
) -> None:
    """Accuracy against latency, regret, and the knobs chosen, as `<name>_*.svg`."""
    where = folder / "plots"
    where.mkdir(exist_ok=True)
    plots.draw_tradeoff(where / f"{name}_tradeoff.svg", ground.test.table, standings)
    plots.draw_regret(where / f"{name}_regret.svg", standings)
    own = {policy: chosen for policy, chosen in columns.items() if policy not in ("random", "oracle")}
    shares_of = {policy: knob_shares(ground.space, chosen) for policy, chosen in own.items()}
    plots.draw_knobs(where / f"{name}_knobs.svg", ground.space, ground.budgets_ms.tolist(), shares_of)


def knob_shares(space: Space, columns: Ints) -> dict[str, Floats]:
    """Share of samples by setting of each knob, (m, settings), from columns (n, m)."""
    places = space.places()[columns]
    names = ("tier", "top_k", "blocks")
    return {name: shares(places[..., knob], space.shape[knob]) for knob, name in enumerate(names)}
