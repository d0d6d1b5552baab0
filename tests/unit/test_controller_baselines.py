"""Baselines of the controller against brute force, on small tables with many ties."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from controller.baselines import (
    Table,
    above_hull,
    adherence,
    best,
    budgets,
    compare,
    hull,
    labels,
    lookup,
    oracle,
    random_within,
    standings,
)
from suite.errors import UserError

few = settings(max_examples=60, deadline=None)


@st.composite
def tables(draw: st.DrawFn) -> Table:
    """Up to 6 samples in up to 7 configurations, with few values, so that ties are common."""
    shape = draw(st.tuples(st.integers(1, 6), st.integers(1, 7)))
    accuracy = draw(arrays(np.float64, shape, elements=st.sampled_from([0.0, 0.3, 0.6, 1.0])))
    latency = draw(arrays(np.float64, shape, elements=st.integers(1, 8).map(float)))
    return Table(accuracy=accuracy, latency_ms=latency)


def by_hand(accuracy: list[float], latency: list[float], budget: float, prefer: list[float] | None = None) -> int:
    places = range(len(accuracy))
    fits = [c for c in places if latency[c] <= budget]
    if not fits:
        return min(places, key=lambda c: (latency[c], c))
    return min(fits, key=lambda c: (-accuracy[c], -prefer[c] if prefer else 0, latency[c], c))


@few
@given(tables())
def test_oracle_labels_and_lookup_are_those_of_brute_force(table: Table) -> None:
    at = np.array([0.5, 1.0, 2.5, 4.0, 9.0])  # 0.5: nothing fits
    accuracy, latency = table.accuracy.tolist(), table.latency_ms.tolist()
    mean, fixed = table.accuracy.mean(axis=0).tolist(), table.latency_ms.mean(axis=0).tolist()
    assert oracle(table, at).tolist() == [
        [by_hand(a, t, b) for b in at] for a, t in zip(accuracy, latency, strict=True)
    ]
    assert labels(table, at).tolist() == [
        [by_hand(a, t, b, mean) for b in at] for a, t in zip(accuracy, latency, strict=True)
    ]
    assert labels(table, at, ties="cheapest").tolist() == oracle(table, at).tolist()
    assert lookup(np.array(mean), np.array(fixed), at).tolist() == [by_hand(mean, fixed, b) for b in at]


def test_ties_of_labels() -> None:
    """Column 0 is fast, column 2 is right more often, column 1 as often and slower."""
    table = Table(
        accuracy=np.array([[1.0, 1.0, 1.0], [0.0, 1.0, 1.0]]), latency_ms=np.array([[1.0, 3.0, 2.0], [1.0, 3.0, 2.0]])
    )
    assert labels(table, np.array([9.0])).tolist() == [[2], [2]]
    assert labels(table, np.array([9.0]), ties="cheapest").tolist() == [[0], [2]]
    assert labels(table, np.array([1.5, 0.5])).tolist() == [[0, 0], [0, 0]]


def test_ties_of_labels_by_group() -> None:
    """Column 1 is right for all, which decides over all samples; within group b column 0 is, and it is faster."""
    accuracy = np.array([[1.0, 1.0], [0.0, 1.0], [1.0, 1.0], [1.0, 1.0]])
    table = Table(accuracy=accuracy, latency_ms=np.tile([1.0, 3.0], (4, 1)))
    assert labels(table, np.array([9.0])).tolist() == [[1]] * 4
    assert labels(table, np.array([9.0]), groups=["a", "a", "b", "b"]).tolist() == [[1], [1], [0], [0]]


@few
@given(tables())
def test_hull_is_the_best_mixture_of_two(table: Table) -> None:
    accuracy, latency = table.accuracy.mean(axis=0), table.latency_ms.mean(axis=0)
    edge = hull(accuracy, latency)
    places = range(len(accuracy))
    levels = np.linspace(latency.min(), latency.max(), 7)
    for at, reached in zip(levels, edge.at(levels), strict=True):
        mixtures = [accuracy[c] for c in places if latency[c] <= at]
        for a in places:
            for b in places:
                if latency[a] <= at < latency[b]:
                    share = (at - latency[a]) / (latency[b] - latency[a])
                    mixtures.append((1 - share) * accuracy[a] + share * accuracy[b])
        assert reached == pytest.approx(max(mixtures))
    assert (np.diff(edge.latency_ms) > 0).all() and (np.diff(edge.accuracy) > 0).all()
    slopes = np.diff(edge.accuracy) / np.diff(edge.latency_ms)
    assert all(earlier > later for earlier, later in pairwise(slopes))
    assert edge.accuracy[-1] == accuracy.max()


def test_hull_beyond_its_ends() -> None:
    edge = hull(np.array([0.5, 0.2, 0.9, 0.9, 0.55]), np.array([2.0, 1.0, 4.0, 6.0, 3.0]))
    assert edge.columns.tolist() == [1, 0, 2]
    assert edge.at(np.array([0.1, 1.0, 1.5, 3.0, 9.0])).tolist() == pytest.approx([0.2, 0.2, 0.35, 0.7, 0.9])


def test_budgets_reach_from_the_cheapest_to_the_dearest() -> None:
    assert budgets(np.array([4.0, 1.0, 10.0])).tolist() == list(range(1, 11))


def test_random_is_uniform_over_what_fits() -> None:
    latency, at = np.array([3.0, 1.0, 2.0, 9.0]), np.array([0.5, 2.0, 3.0, 20.0])
    names = [f"s{i}" for i in range(2000)]
    chosen = random_within(latency, at, names, seed=1)
    assert set(chosen[:, 0]) == {1}  # nothing fits: the cheapest
    for place, fits in enumerate([{1}, {1, 2}, {0, 1, 2}, {0, 1, 2, 3}]):
        counts = np.bincount(chosen[:, place], minlength=4)
        assert set(np.flatnonzero(counts)) == fits
        expected = len(names) / len(fits)
        assert (np.abs(counts[sorted(fits)] - expected) < 5 * np.sqrt(expected)).all()
    # a draw is the sample's own: neither other samples nor later budgets move it
    assert (random_within(latency, at[:2], names[7:9], seed=1) == chosen[7:9, :2]).all()
    assert (random_within(latency, at, names, seed=2) != chosen).any()


@few
@given(tables())
def test_above_hull_is_the_distance_to_the_hull(table: Table) -> None:
    """Whatever the policy and wherever its mean latency lies, even past the hull's ends."""
    edge = hull(table.accuracy.mean(axis=0), table.latency_ms.mean(axis=0))
    for stretch in (0.2, 1.0, 5.0):
        got = table.pick(oracle(table, np.array([4.0])))
        accuracy, latency = got.accuracy[:, 0], stretch * got.latency_ms[:, 0]
        told = above_hull(accuracy, latency, table, edge, seed=1)
        assert told.value == pytest.approx(accuracy.mean() - edge.at(latency.mean(keepdims=True))[0], abs=1e-9)


def test_a_coin_is_not_above_the_hull_and_the_interval_knows_how_much_it_varies() -> None:
    """Coins that pick the dear one more often also pay more: without that the interval would be thrice as wide."""
    rng = np.random.default_rng(3)
    accuracy = (rng.random((200, 2)) < [0.05, 0.95]).astype(float)
    table = Table(accuracy=accuracy, latency_ms=np.broadcast_to(np.array([10.0, 20.0]), accuracy.shape))
    edge = hull(table.accuracy.mean(axis=0), table.latency_ms.mean(axis=0))
    coins = [table.pick(rng.integers(2, size=(200, 1))) for _ in range(60)]
    told = [above_hull(got.accuracy[:, 0], got.latency_ms[:, 0], table, edge, seed=1) for got in coins]
    ends = np.array([one.ci95 for one in told])
    assert ((ends[:, 0] < 0) & (ends[:, 1] > 0)).mean() >= 0.9
    spread = np.std([one.value for one in told])
    assert np.mean(ends[:, 1] - ends[:, 0]) / (2 * 1.96) == pytest.approx(spread, rel=0.2)


def test_a_policy_that_looks_at_the_sample_is_above_the_hull() -> None:
    rng = np.random.default_rng(4)
    table = Table(accuracy=rng.integers(0, 2, (200, 2)).astype(float), latency_ms=np.ones((200, 2)) * [10.0, 20.0])
    edge = hull(table.accuracy.mean(axis=0), table.latency_ms.mean(axis=0))
    got = table.pick(table.accuracy.argmax(axis=1)[:, None])
    told = above_hull(got.accuracy[:, 0], got.latency_ms[:, 0], table, edge, seed=1)
    assert told.ci95 is not None and told.ci95[0] > 0.1


def test_standings_in_numbers() -> None:
    table = Table(
        accuracy=np.array([[0.0, 1.0], [0.0, 0.0], [1.0, 1.0], [0.0, 1.0]]),
        latency_ms=np.array([[1.0, 3.0], [1.0, 3.0], [1.0, 5.0], [1.0, 5.0]]),
    )
    at = np.array([1.0, 3.0])
    cheap, dear = standings(table.pick(np.array([0, 1])), table, at, seed=1)
    assert (cheap.accuracy.value, cheap.latency_ms.value, cheap.within.value) == (0.25, 1.0, 1.0)
    assert (cheap.regret.value, cheap.above_hull.value) == (0.0, 0.0)
    assert (dear.accuracy.value, dear.latency_ms.value, dear.within.value) == (0.75, 4.0, 0.5)
    assert dear.within.ci95 == pytest.approx((0.150, 0.850), abs=1e-3)  # Wilson, 2 of 4
    assert dear.regret.value == -0.25  # the oracle keeps the budget and misses the last sample
    assert (dear.p90_ms, dear.p95_ms) == (5.0, 5.0)
    kept = adherence([cheap, dear])
    assert {name: share.value for name, share in kept.items()} == {"mean": 0.5, "p90": 0.5, "p95": 0.5}
    row = dear.row()
    assert (row["accuracy"], row["within_low"], row["n"]) == (0.75, pytest.approx(0.150, abs=1e-3), 4)
    assert set(row) >= {"budget_ms", "p95_ms", "regret_low", "above_hull_high"}


def test_policies_are_compared_sample_by_sample() -> None:
    rng = np.random.default_rng(1)
    hard = rng.random((60, 1))
    table = Table(accuracy=hard + np.array([[0.0, 0.01]]), latency_ms=np.ones((60, 2)) * [[1.0, 2.0]])
    gaps = compare(table.pick(np.array([1, 1])), table.pick(np.array([0, 0])), seed=1)
    assert gaps["accuracy"].value == pytest.approx(0.01)
    assert gaps["accuracy"].ci95 == pytest.approx((0.01, 0.01))  # unpaired it would be 20 times as wide
    assert gaps["latency_ms"].value == 1.0


def test_a_table_with_holes_is_refused() -> None:
    holes = np.array([[1.0, 2.0], [np.nan, 2.0]])
    with pytest.raises(UserError, match="latency_ms of sample 1 in column 0 is nan; give timed samples only"):
        Table(accuracy=np.ones((2, 2)), latency_ms=holes)
    with pytest.raises(UserError, match=r"Accuracy is \(2, 3\) and latency \(2, 2\)"):
        Table(accuracy=np.ones((2, 3)), latency_ms=holes)


def test_many_samples_are_fast_enough_to_be_swept() -> None:
    """2000 samples x 75 configurations x 10 budgets in one go, and every choice keeps its budget."""
    rng = np.random.default_rng(2)
    accuracy, latency = rng.integers(0, 4, (2000, 75)) / 3, rng.lognormal(2, 1, (2000, 75))
    at = budgets(latency.mean(axis=0))
    chosen = best(accuracy, latency, at)
    assert (np.take_along_axis(latency, chosen, axis=1) <= np.maximum(at, latency.min(axis=1, keepdims=True))).all()
