"""Importance statistics (C6): rank correlations equal scipy's, known orders are found, verdicts tell cases apart."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats as scipy_stats

from controller import importance
from controller.importance import MERGED, Importance, analyse, kendall, overlap, spearman
from controller.space import kept_blocks
from suite.errors import UserError
from suite.stats import Estimate

BLOCKS, N, SETS = 8, 300, ("shapes", "text", "commonsense", "diagram")
SAME = np.array([0.60, 0.02, 0.05, 0.09, 0.14, 0.20, 0.27, 0.35])
"""Chance that a sample is lost with each block."""
few = arrays(np.float64, (6, 7), elements=st.integers(0, 4).map(float))


def runs(lost: dict[str, Any], *, n: int = N, seed: int = 0) -> tuple[Any, Any, list[str]]:
    """Samples all right with every block; those of a data set lose block b with chance lost[set][b]."""
    draw = np.random.default_rng(seed)
    gone = np.concatenate([draw.random((n, BLOCKS)) < chance for chance in lost.values()])
    correct = np.vstack([np.ones(len(gone)), 1.0 - gone.T])
    influence = np.concatenate([draw.normal(chance, 0.05, (n, BLOCKS)) for chance in lost.values()])
    return correct, influence, [name for name in lost for _ in range(n)]


def found(lost: dict[str, Any], **other: Any) -> Importance:
    return analyse(*runs(lost, **other), depths=(4, 6, 8), diagrams=("diagram",), seed=7)


def known(one: Estimate) -> float:
    assert one.value is not None
    return one.value


def pair(of: Importance, measures: tuple[str, str], datasets: tuple[str, str]) -> importance.Agreement:
    (one,) = [one for one in of.agreements if (one.measures, one.datasets) == (measures, datasets)]
    return one


@settings(max_examples=40, deadline=None)
@given(few, few)
def test_rank_correlations_equal_scipy_with_ties(a: Any, b: Any) -> None:
    rho, tau = spearman(a, b), kendall(a, b)
    for i in range(len(a)):
        if np.ptp(a[i]) == 0 or np.ptp(b[i]) == 0:
            assert np.isnan(rho[i])
            assert np.isnan(tau[i])
        else:
            assert rho[i] == pytest.approx(scipy_stats.spearmanr(a[i], b[i]).statistic, abs=1e-12)
            assert tau[i] == pytest.approx(scipy_stats.kendalltau(a[i], b[i]).statistic, abs=1e-12)


@settings(max_examples=40, deadline=None)
@given(few, few, st.integers(1, 6))
def test_overlap_is_of_what_kept_blocks_drops(a: Any, b: Any, m: int) -> None:
    told = overlap(a, b, m)
    for i in range(len(a)):
        gone = [set(range(7)) - set(kept_blocks(list(one[i]), 7 - m)) for one in (a, b)]
        assert told[i] == pytest.approx(len(gone[0] & gone[1]) / m)


def test_scores_are_mean_losses_and_the_merged_one_weighs_sets_alike() -> None:
    correct, influence, sets = runs({"shapes": SAME, "diagram": SAME[::-1]})
    keep = np.r_[0:N, N : N + 20]  # a small second set
    said = analyse(
        correct[:, keep], influence[keep], [sets[i] for i in keep], depths=(4,), diagrams=("diagram",), seed=7
    )
    shapes, diagram = 1 - correct[1:, :N].mean(1), 1 - correct[1:, N : N + 20].mean(1)
    drops = said.scores["accuracy_drop"]
    assert [known(one) for one in drops["shapes"]] == pytest.approx(list(shapes))
    assert said.keep_by == pytest.approx(list((shapes + diagram) / 2))
    assert [one.n for one in drops["diagram"]] == [20] * BLOCKS
    assert drops[MERGED][0].n == N + 20
    assert [known(one) for one in said.scores["block_influence"]["shapes"]] == pytest.approx(
        list(influence[:N].mean(0))
    )


def test_intervals_are_those_of_a_mean() -> None:
    correct, influence, sets = runs({"shapes": SAME, "text": SAME})
    drops = analyse(correct, influence, sets, depths=(4,), diagrams=(), seed=7).scores["accuracy_drop"]
    for name, rows in (("shapes", slice(0, N)), ("text", slice(N, None))):
        for block, one in enumerate(drops[name]):
            values = 1 - correct[1 + block, rows]
            half = 1.96 * values.std() / np.sqrt(N)
            assert one.ci95 == pytest.approx((values.mean() - half, values.mean() + half), abs=0.2 * half + 1e-9)
    widths = {name: np.array([one.ci95[1] - one.ci95[0] for one in drops[name] if one.ci95]) for name in drops}
    apart = (widths["shapes"] ** 2 + widths["text"] ** 2) ** 0.5 / 2  # sets are drawn independently
    assert widths[MERGED] == pytest.approx(apart, rel=0.1)


def test_one_order_everywhere_holds_and_does_not_differ() -> None:
    said = found(dict.fromkeys(SETS, SAME), n=800)
    assert said.dominating == 0
    assert "over 0.9, without block 0: holds;" in said.verdict[3]
    assert "differs, without block 0: does not hold" in said.verdict[4] or "is not shown" in said.verdict[4]
    for name in SETS:
        assert known(pair(said, importance.MEASURES, (name, name)).spearman) > 0.9
    one = pair(said, ("accuracy_drop",) * 2, ("shapes", "text"))
    assert {m: known(share) for m, share in one.overlap.items()} == {4: 1.0, 2: 1.0}


def test_another_task_with_another_order_clearly_differs() -> None:
    said = found({**dict.fromkeys(SETS[:3], SAME), "diagram": np.r_[0.6, SAME[:0:-1]]}, n=500)
    assert "holds; Spearman among VQA" in said.verdict[4]
    one = pair(said, ("accuracy_drop",) * 2, ("text", "diagram"))
    assert known(one.spearman_rest) == pytest.approx(-1)
    assert known(one.overlap[2]) == 0


def test_the_dominating_block_alone_makes_a_correlation() -> None:
    other = np.r_[0.6, SAME[[3, 1, 7, 5, 2, 6, 4]]]
    said = found({"shapes": SAME, "text": other}, n=500)
    one = pair(said, ("accuracy_drop",) * 2, ("shapes", "text"))
    assert known(one.spearman) > known(one.spearman_rest)
    assert (
        "correlate over 0.9, without block 0: does not hold; Spearman is least for shapes and text" in said.verdict[2]
    )
    assert not any("differs" in sentence for sentence in said.verdict)  # there is no diagram


def test_noise_is_told_from_difference() -> None:
    steady, noisy = (found({name: SAME for name in SETS[:2]}, n=n).reliability["shapes"] for n in (600, 20))
    assert steady.spearman_rest is not None
    assert noisy.spearman_rest is not None
    assert steady.spearman_rest > 0.95
    assert noisy.spearman_rest < steady.spearman_rest


def test_same_seed_same_numbers_whatever_other_sets_there_are() -> None:
    alone, both = found({"shapes": SAME}), found({"shapes": SAME, "text": SAME})
    assert alone.to_json() == found({"shapes": SAME}).to_json()
    widths = [[one.ci95 for one in said.scores["accuracy_drop"]["shapes"]] for said in (alone, both)]
    assert widths[0] == widths[1]
    assert json.loads(json.dumps(alone.to_json()))["keep_by"] == alone.keep_by


def test_undefined_is_none_and_never_zero() -> None:
    correct, influence = np.ones((BLOCKS + 1, 4)), np.random.default_rng(0).random((4, BLOCKS))
    said = analyse(correct, influence, ["shapes"] * 2 + ["text"] * 2, depths=(4,), diagrams=(), seed=7)
    assert pair(said, ("accuracy_drop",) * 2, ("shapes", "text")).spearman == Estimate(value=None, ci95=None, n=4)
    assert said.reliability["shapes"].spearman is None
    assert any("cannot be told" in sentence for sentence in said.verdict)
    single = analyse(correct[:, :1], influence[:1], ["shapes"], depths=(4,), diagrams=(), seed=7)
    assert single.scores["accuracy_drop"]["shapes"][0] == Estimate(value=0.0, ci95=None, n=1)


def test_blocks_equal_but_for_rounding_are_equal() -> None:
    correct = np.ones((BLOCKS + 1, 4))
    correct[1] = [0.3, 0.3, 0.0, 0.0]
    correct[2] = [0.3, 0.0, 0.0, 0.3]  # the same in another order of summation
    assert (1 - correct[1]).mean() != (1 - correct[2]).mean()
    said = analyse(correct, np.zeros((4, BLOCKS)), ["shapes"] * 4, depths=(4,), diagrams=(), seed=7)
    drops = said.scores["accuracy_drop"]["shapes"]
    assert drops[0].value == drops[1].value


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda c, i, d: (c, i[:, :-1], d), "influence has shape"),
        (lambda c, i, d: (c, i, d[:-1]), "data sets are named"),
        (lambda c, i, d: (c[:3], i[:, :2], d), "at least 3 blocks"),
        (lambda c, i, d: (c * np.nan, i, d), "accuracies of some samples are missing"),
    ],
)
def test_bad_input_is_a_sentence(change: Any, told: str) -> None:
    correct, influence, datasets = change(*runs({"shapes": SAME}, n=5))
    with pytest.raises(UserError, match=told):
        analyse(correct, influence, datasets, depths=(4,), diagrams=(), seed=7)
