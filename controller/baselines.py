"""What every controller stands next to: fixed configurations and their hull, lookup table, random, oracle; and regret.

A policy is a table of columns (n, m): the configuration of each of n samples at each of m budgets. Column c is the
c-th configuration of the `Space`. Latency is in ms. Everything is exact. The oracle takes
the latencies as they are: of single timings it would also profit from their noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from suite.errors import UserError
from suite.rng import generator
from suite.stats import Difference, Estimate, mean_ci, paired_difference, wilson

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Ties = Literal["accurate", "cheapest"]


@dataclass(frozen=True, kw_only=True)
class Table:
    """Accuracy (0 to 1) and latency (ms) of n samples in c configurations, or at m budgets; both (n, c)."""

    accuracy: Floats
    latency_ms: Floats

    def __post_init__(self) -> None:
        if self.accuracy.shape != self.latency_ms.shape or self.accuracy.ndim != 2 or not self.accuracy.size:
            raise UserError(
                f"Accuracy is {self.accuracy.shape} and latency {self.latency_ms.shape}; "
                "give both for the same samples and configurations, one at least."
            )
        for name, values in (("accuracy", self.accuracy), ("latency_ms", self.latency_ms)):
            if not np.isfinite(values).all():
                row, column = np.argwhere(~np.isfinite(values))[0]
                raise UserError(
                    f"{name} of sample {row} in column {column} is {values[row, column]}; "
                    "give timed samples only, or the estimator's latency."
                )

    def pick(self, columns: Ints) -> Table:
        """What a policy gets: its `columns`, (n, m), or (m,) where they are the same for every sample."""
        chosen = np.broadcast_to(columns, (len(self.accuracy), columns.shape[-1]))
        return Table(
            accuracy=np.take_along_axis(self.accuracy, chosen, axis=1),
            latency_ms=np.take_along_axis(self.latency_ms, chosen, axis=1),
        )


@dataclass(frozen=True, kw_only=True)
class Hull:
    """Fixed configurations that no mixture of others beats, from the cheapest to the most accurate; all (h,)."""

    columns: Ints
    latency_ms: Floats
    accuracy: Floats

    def at(self, latency_ms: Floats) -> Floats:
        """Best accuracy of a mixture of fixed configurations at these mean latencies, both (k,).

        Beyond the most accurate configuration its accuracy; before the cheapest, which no mixture reaches, that
        one's, in favour of the hull.
        """
        return np.asarray(np.interp(latency_ms, self.latency_ms, self.accuracy))


def hull(accuracy: Floats, latency_ms: Floats) -> Hull:
    """Upper convex hull of the points (mean latency, mean accuracy) of the fixed configurations, each (c,).

    Andrew's monotone chain (1979), as far as the first point of the highest accuracy. Of equal points, the first.
    """
    columns: list[int] = []
    for column in np.lexsort((-accuracy, latency_ms)).tolist():
        if columns and accuracy[column] <= accuracy[columns[-1]]:
            continue
        while len(columns) > 1 and _below(columns[-2], columns[-1], column, accuracy, latency_ms):
            columns.pop()
        columns.append(column)
    return Hull(columns=np.array(columns), latency_ms=latency_ms[columns], accuracy=accuracy[columns])


def carried(edge: Hull, table: Table) -> Hull:
    """The configurations of a hull with what they get on other samples, (n, c).

    The hull of the samples that a policy is judged on was chosen with their answers in sight, which flatters it: of 75
    configurations some are lucky. This one was chosen beforehand, as the policy was.
    """
    latency, accuracy = (getattr(table, name)[:, edge.columns].mean(axis=0) for name in ("latency_ms", "accuracy"))
    order = np.argsort(latency, kind="stable")
    return Hull(columns=edge.columns[order], latency_ms=latency[order], accuracy=accuracy[order])


def _below(a: int, b: int, c: int, accuracy: Floats, latency_ms: Floats) -> bool:
    """Whether point b is on or under the line from a to c."""
    rise, run = accuracy[c] - accuracy[a], latency_ms[c] - latency_ms[a]
    return bool((accuracy[b] - accuracy[a]) * run <= rise * (latency_ms[b] - latency_ms[a]))


def budgets(latency_ms: Floats, count: int = 10) -> Floats:
    """Evenly spaced budgets from the cheapest to the dearest of the mean latencies (c,)."""
    return np.linspace(latency_ms.min(), latency_ms.max(), count)


def lookup(accuracy: Floats, latency_ms: Floats, budgets_ms: Floats) -> Ints:
    """The lookup table: for each budget the most accurate fixed configuration that fits, columns (m,).

    Args:
        accuracy: mean of each configuration, (c,).
        latency_ms: mean, or p95, of each configuration, (c,).
        budgets_ms: (m,). Where nothing fits, the cheapest configuration is taken.

    Returns:
        Columns (m,); of equally accurate ones the cheapest, of these the first.
    """
    chosen: Ints = best(accuracy[None], latency_ms[None], budgets_ms)[0]
    return chosen


def random_within(latency_ms: Floats, budgets_ms: Floats, ids: Sequence[str], *, seed: int) -> Ints:
    """For each sample (n,) and budget (m,) one of the configurations whose latency (c,) fits, all equally likely.

    Where nothing fits, the cheapest. Columns (n, m); a draw depends on seed, sample and the budget's place.
    """
    order = np.argsort(latency_ms, kind="stable")
    fitting = np.maximum(np.searchsorted(latency_ms[order], budgets_ms, side="right"), 1)
    draws = np.stack([generator(seed, name, "random within budget").random(len(budgets_ms)) for name in ids])
    chosen: Ints = order[(draws * fitting).astype(np.int64)]
    return chosen


def oracle(table: Table, budgets_ms: Floats) -> Ints:
    """For each sample the most accurate configuration within the budget, the cheapest of equals; columns (n, m)."""
    return best(table.accuracy, table.latency_ms, budgets_ms)


def labels(table: Table, budgets_ms: Floats, *, ties: Ties = "accurate", groups: Sequence[str] | None = None) -> Ints:
    """What supervised learning is to predict: the most accurate configuration within each budget, columns (n, m).

    VQA accuracy has few values, so most samples have many best configurations. `accurate` takes of these the one of
    the higher mean accuracy over all samples, and of those the one that was faster for this sample: a label that
    other samples share. `cheapest` takes the fastest, which is the oracle's choice.

    Args:
        table: of the samples to label.
        budgets_ms: (m,).
        ties: which of the best.
        groups: of each sample, for who can tell them apart: the mean is over samples of its own group.
    """
    if ties == "cheapest":
        return oracle(table, budgets_ms)
    _, group = np.unique(groups or ["all"] * len(table.accuracy), return_inverse=True)
    means = np.stack([table.accuracy[group == number].mean(axis=0) for number in range(group.max() + 1)])
    return best(table.accuracy, table.latency_ms, budgets_ms, prefer=means[group])


def best(accuracy: Floats, latency_ms: Floats, budgets_ms: Floats, *, prefer: Floats | None = None) -> Ints:
    """Columns (n, m) of the most accurate configurations within budget, in tables (n, c); the fastest if none fits.

    Of equally accurate ones that with the highest `prefer` (n, c), then the fastest, then the first.
    """
    keys = [latency_ms, -accuracy] if prefer is None else [latency_ms, -prefer, -accuracy]
    order = np.lexsort(np.stack(keys), axis=-1)
    ranked = np.take_along_axis(latency_ms, order, axis=1)
    chosen = np.empty((len(accuracy), len(budgets_ms)), dtype=np.int64)
    fastest = latency_ms.argmin(axis=1)
    for place, budget in enumerate(budgets_ms):
        fits = ranked <= budget
        first = np.take_along_axis(order, fits.argmax(axis=1)[:, None], axis=1)[:, 0]
        chosen[:, place] = np.where(fits.any(axis=1), first, fastest)
    return chosen


@dataclass(frozen=True, kw_only=True)
class Standing:
    """One policy at one budget, on samples that all policies share.

    Attributes:
        budget_ms: the budget.
        accuracy: mean over samples.
        latency_ms: mean over samples;  p90_ms, p95_ms: quantiles over samples.
        within: share of samples within the budget, with Wilson's interval.
        regret: accuracy of the oracle minus this one's. Below 0 where runs over the budget bought accuracy.
        above_hull: accuracy minus that of the hull at the same mean latency.
    """

    budget_ms: float
    accuracy: Estimate
    latency_ms: Estimate
    p90_ms: float
    p95_ms: float
    within: Estimate
    regret: Estimate
    above_hull: Difference

    def row(self) -> dict[str, Any]:
        """A plain row of numbers; of an estimate also `_low` and `_high`."""
        told: dict[str, Any] = {"budget_ms": self.budget_ms, "n": self.accuracy.n}
        told |= {"p90_ms": self.p90_ms, "p95_ms": self.p95_ms}
        for name in ("accuracy", "latency_ms", "within", "regret", "above_hull"):
            estimate = getattr(self, name)
            low, high = estimate.ci95 or (None, None)
            told |= {name: estimate.value, f"{name}_low": low, f"{name}_high": high}
        return told


def standings(got: Table, table: Table, budgets_ms: Floats, *, seed: int) -> list[Standing]:
    """How a policy stands at each budget.

    Args:
        got: what it got, (n, m): `table.pick(columns)`, or really run with the controller's own time in it.
        table: every fixed configuration on the same samples, (n, c); gives the hull and the oracle.
        budgets_ms: (m,).
        seed: of the bootstrap.
    """
    edge = hull(table.accuracy.mean(axis=0), table.latency_ms.mean(axis=0))
    ideal = table.pick(oracle(table, budgets_ms))
    told = []
    for place, budget in enumerate(budgets_ms.tolist()):
        accuracy, latency = got.accuracy[:, place], got.latency_ms[:, place]
        p90, p95 = np.quantile(latency, (0.9, 0.95)).tolist()
        told.append(
            Standing(
                budget_ms=budget,
                accuracy=mean_ci(accuracy, seed=seed),
                latency_ms=mean_ci(latency, seed=seed),
                p90_ms=p90,
                p95_ms=p95,
                within=wilson(int((latency <= budget).sum()), len(latency)),
                regret=mean_ci(ideal.accuracy[:, place] - accuracy, seed=seed),
                above_hull=above_hull(accuracy, latency, table, edge, seed=seed),
            )
        )
    return told


def above_hull(accuracy: Floats, latency_ms: Floats, table: Table, edge: Hull, *, seed: int) -> Difference:
    """Mean accuracy (n,) minus the hull's at the same mean latency, paired by sample; see `net_of_latency`."""
    own, mixed = net_of_latency(accuracy, latency_ms, table, edge)
    return paired_difference(own, mixed, seed=seed, purpose="above hull")


def net_of_latency(accuracy: Floats, latency_ms: Floats, table: Table, edge: Hull) -> tuple[Floats, Floats]:
    """A policy's accuracy at one budget and the hull's, both (n,), to be compared at equal mean latency.

    The hull's side is the mixture of the two fixed configurations around that latency. On both sides accuracy is
    counted net of latency times the slope between the two, which changes nothing in the difference, as the means of
    latency are equal, and lets the interval know that they vary from resample to resample (to first order).
    """
    at = float(np.clip(latency_ms.mean(), edge.latency_ms[0], edge.latency_ms[-1]))
    right = int(np.clip(np.searchsorted(edge.latency_ms, at), min(1, len(edge.columns) - 1), None))
    left = max(right - 1, 0)
    run = float(edge.latency_ms[right] - edge.latency_ms[left])
    inside = run > 0 and at == float(latency_ms.mean())
    share = (at - float(edge.latency_ms[left])) / run if run else 0.0
    slope = float(edge.accuracy[right] - edge.accuracy[left]) / run if inside else 0.0
    net = table.accuracy - slope * table.latency_ms
    mixed = (1 - share) * net[:, edge.columns[left]] + share * net[:, edge.columns[right]]
    return accuracy - slope * latency_ms, mixed


def adherence(standing: Sequence[Standing]) -> dict[str, Estimate]:
    """Share of the budgets that a policy's mean, p90 and p95 latency keeps, with Wilson's interval over budgets."""
    kept = {
        "mean": [one.latency_ms.value is not None and one.latency_ms.value <= one.budget_ms for one in standing],
        "p90": [one.p90_ms <= one.budget_ms for one in standing],
        "p95": [one.p95_ms <= one.budget_ms for one in standing],
    }
    return {name: wilson(sum(flags), len(flags)) for name, flags in kept.items()}


def compare(a: Table, b: Table, *, seed: int) -> dict[str, Difference]:
    """Policy `a` minus `b`, both (n, m), paired by sample: accuracy and latency, each the mean over budgets."""
    return {
        name: paired_difference(getattr(a, name).mean(axis=1), getattr(b, name).mean(axis=1), seed=seed)
        for name in ("accuracy", "latency_ms")
    }
