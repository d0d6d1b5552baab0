"""Intervals and tests against scipy, closed forms and their own guarantees."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import example, given, settings
from hypothesis import strategies as st

from suite import stats
from suite.errors import UserError

SKEWED = np.random.default_rng(5).lognormal(size=40)
FIRST = [6, 3, 9, 7, 9, 2, 7, 3, 5, 7]
numbers = st.lists(st.integers(-50, 50).map(float), min_size=2, max_size=12)
few = settings(max_examples=25, deadline=None)


@pytest.mark.parametrize(("method", "theirs"), [("bca", "BCa"), ("percentile", "percentile")])
@pytest.mark.parametrize("of", ["mean", "corpus"])
def test_intervals_agree_with_scipy(method: stats.Method, theirs: str, of: str) -> None:
    """Same formula, other random numbers: with many draws both ends agree to a few percent of the width."""
    if of == "mean":
        ours = stats.mean_ci(SKEWED, seed=0, draws=20_000, method=method).ci95
    else:
        ours = stats.corpus_ci(lambda i: float(np.std(SKEWED[i])), 40, seed=0, draws=20_000, method=method).ci95
    reference = scipy.stats.bootstrap(
        (SKEWED,), np.mean if of == "mean" else np.std, n_resamples=20_000, method=theirs, rng=1, vectorized=True
    )
    low, high = reference.confidence_interval
    assert ours == pytest.approx((low, high), abs=0.03 * (high - low))


def test_bca_is_not_the_percentile_interval_on_skewed_data() -> None:
    bca = stats.mean_ci(SKEWED, seed=0, draws=20_000).ci95
    percentile = stats.mean_ci(SKEWED, seed=0, draws=20_000, method="percentile").ci95
    assert bca is not None and percentile is not None
    assert bca[0] > percentile[0] + 0.01 and bca[1] > percentile[1] + 0.05


def test_corpus_ci_of_the_mean_is_mean_ci() -> None:
    mean = stats.mean_ci(SKEWED, seed=3, purpose="x")
    assert mean.ci95 is not None
    corpus = stats.corpus_ci(lambda i: float(SKEWED[i].mean()), 40, seed=3, purpose="x")
    assert corpus.ci95 == pytest.approx(mean.ci95, rel=1e-9)
    assert corpus.value == pytest.approx(mean.value) == pytest.approx(SKEWED.mean())


def test_ratio_ci_weighs_samples_by_their_denominator() -> None:
    top, bottom = np.round(SKEWED * 3), np.round(SKEWED * 4) + 1
    ratio = stats.ratio_ci(top, bottom, seed=0)
    assert ratio.value == pytest.approx(top.sum() / bottom.sum())
    corpus = stats.corpus_ci(lambda i: float(top[i].sum() / bottom[i].sum()), 40, seed=0, purpose="ratio")
    assert ratio.ci95 == pytest.approx(corpus.ci95, rel=1e-9)


def test_ratio_ci_without_any_denominator_is_undefined() -> None:
    assert stats.ratio_ci([0, 0], [0, 0], seed=0) == stats.Estimate(value=None, ci95=None, n=2)
    mostly = stats.ratio_ci([3, 0, 0], [4, 0, 0], seed=0)
    assert (mostly.value, mostly.ci95, mostly.n) == (0.75, (0.75, 0.75), 3)


@pytest.mark.parametrize("method", ["bca", "percentile"])
def test_coverage_of_the_mean(method: stats.Method) -> None:
    """About 95 of 100 intervals hold the true mean (binomial limits at 5 sigma: 0.88 and 1)."""
    generator = np.random.default_rng(11)
    intervals = [
        stats.mean_ci(generator.normal(3, 2, size=40), seed=i, draws=500, method=method).ci95 for i in range(300)
    ]
    held = sum(low <= 3 <= high for low, high in filter(None, intervals))
    assert 0.88 <= held / 300 < 0.995


@few
@given(numbers, st.integers(-9, 9), st.sampled_from([0.25, 2.0, -4.0]))
def test_mean_ci_moves_with_its_data(values: list[float], shift: int, scale: float) -> None:
    before = stats.mean_ci(values, seed=1, draws=200)
    after = stats.mean_ci([scale * value + shift for value in values], seed=1, draws=200)
    assert before.value is not None and before.ci95 is not None
    assert after.value == pytest.approx(scale * before.value + shift)
    assert after.ci95 is not None
    expected = sorted(scale * end + shift for end in before.ci95)
    assert after.ci95 == pytest.approx(tuple(expected), rel=1e-6, abs=1e-6)
    assert min(values) <= before.ci95[0] <= before.ci95[1] <= max(values)


@few
@given(st.floats(-1e6, 1e6), st.integers(2, 30))
@example(0.1, 3)
def test_equal_values_have_an_interval_of_no_width(value: float, n: int) -> None:
    estimate = stats.mean_ci([value] * n, seed=0, draws=100)
    assert estimate.value == pytest.approx(value)
    assert estimate.ci95 == (estimate.value, estimate.value)


@few
@given(st.lists(st.integers(0, 30), min_size=5, max_size=5))
@example([14, 15, 22, 28, 1])
def test_rounding_does_not_decide_ties(values: list[int]) -> None:
    """Few samples make many resamples tie with the mean; in tenths, rounding once moved an end by several percent."""
    exact = stats.mean_ci([float(value) for value in values], seed=1).ci95
    tenths = stats.mean_ci([value / 10 for value in values], seed=1).ci95
    assert exact is not None
    assert tenths == pytest.approx((exact[0] / 10, exact[1] / 10), abs=1e-9)


def test_draws_depend_on_seed_and_purpose_only() -> None:
    first = stats.mean_ci(SKEWED, seed=1, purpose="latency")
    stats.mean_ci(SKEWED, seed=2)
    assert stats.mean_ci(SKEWED, seed=1, purpose="latency") == first
    others = [stats.mean_ci(SKEWED, seed=2, purpose="latency"), stats.mean_ci(SKEWED, seed=1, purpose="energy")]
    assert all(other.value == first.value and other.ci95 != first.ci95 for other in others)


def test_draws_are_the_same_on_every_machine() -> None:
    """Digits of a record must survive a change of platform; this is the stream's first resample."""
    (drawn,) = stats._resamples(10, 100, 7, "mean")
    assert drawn.shape == (100, 10)
    assert drawn[0].tolist() == FIRST


def test_blocks_do_not_change_the_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = stats.mean_ci(SKEWED, seed=1)
    monkeypatch.setattr(stats, "_CHUNK", 100)
    assert stats.mean_ci(SKEWED, seed=1) == whole


@few
@given(numbers, st.data())
def test_paired_difference_is_antisymmetric(a: list[float], data: st.DataObject) -> None:
    b = data.draw(st.lists(st.integers(-50, 50).map(float), min_size=len(a), max_size=len(a)))
    forth = stats.paired_difference(a, b, seed=0, draws=200)
    back = stats.paired_difference(b, a, seed=0, draws=200)
    assert forth.value == pytest.approx(-back.value) == pytest.approx(np.mean(a) - np.mean(b))
    assert forth.p_value == back.p_value
    assert forth.p_value is not None and 1 / 201 <= forth.p_value <= 1
    assert forth.ci95 is not None and back.ci95 is not None
    assert forth.ci95 == pytest.approx((-back.ci95[1], -back.ci95[0]), abs=1e-6)


def test_paired_difference_uses_the_pairs() -> None:
    """A small constant gain under large common noise is certain when paired, invisible when not."""
    generator = np.random.default_rng(2)
    common = generator.normal(0, 10, size=60)
    gain = common + 0.5 + generator.normal(0, 0.2, size=60)
    paired = stats.paired_difference(gain, common, seed=0)
    assert paired.p_value == pytest.approx(1 / 2001)
    assert paired.ci95 is not None and 0.4 < paired.ci95[0] < 0.5 < paired.ci95[1] < 0.62
    shuffled = stats.paired_difference(gain, generator.permutation(common), seed=0)
    assert shuffled.p_value is not None and shuffled.p_value > 0.2


def test_p_value_is_near_that_of_the_t_test() -> None:
    generator = np.random.default_rng(3)
    a, b = generator.normal(0.3, 1, size=80), generator.normal(0, 1, size=80)
    ours = stats.paired_difference(a, b, seed=0, draws=5000).p_value
    assert ours == pytest.approx(scipy.stats.ttest_rel(a, b).pvalue, abs=0.02)


def test_no_difference_has_p_1_and_no_difference_is_found_too_often() -> None:
    assert stats.paired_difference([1.0, 2.0, 3.0], [1.0, 2.0, 3.0], seed=0).p_value == 1
    generator = np.random.default_rng(4)
    found = 0
    for seed in range(150):
        a, b = generator.normal(size=(2, 30))
        p_value = stats.paired_difference(a, b, seed=seed, draws=200).p_value
        found += p_value is not None and p_value < 0.05
    assert 1 <= found <= 18  # 7.5 expected at the nominal level


def test_corpus_difference_of_a_statistic() -> None:
    a, b = SKEWED * 1.5, SKEWED
    gap = stats.corpus_difference(lambda i: float(np.median(a[i]) - np.median(b[i])), 40, seed=0)
    assert gap.value == pytest.approx(0.5 * np.median(SKEWED))
    assert gap.ci95 is not None and 0 < gap.ci95[0] < gap.value < gap.ci95[1]
    assert gap.p_value is not None and gap.p_value < 0.05


@given(st.integers(0, 60), st.integers(0, 60), st.integers(0, 5))
def test_mcnemar_is_the_exact_binomial_test(only_a: int, only_b: int, both: int) -> None:
    a = [True] * only_a + [False] * only_b + [True] * both + [False] * both
    b = [False] * only_a + [True] * only_b + [True] * both + [False] * both
    result = stats.mcnemar(a, b)
    assert (result.only_a, result.only_b) == (only_a, only_b)
    expected = scipy.stats.binomtest(only_a, only_a + only_b).pvalue if only_a + only_b else 1.0
    assert result.p_value == pytest.approx(expected, rel=1e-9)
    assert stats.mcnemar(b, a).p_value == result.p_value


@given(st.integers(2, 500), st.data())
def test_wilson_agrees_with_scipy(n: int, data: st.DataObject) -> None:
    successes = data.draw(st.integers(0, n))
    expected = scipy.stats.binomtest(successes, n).proportion_ci(0.95, method="wilson")
    estimate = stats.wilson(successes, n)
    assert (estimate.value, estimate.n) == (successes / n, n)
    assert estimate.ci95 == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_metric_counts_what_was_not_measured() -> None:
    whole = stats.metric([1.0, 3.0], unit="ms", seed=0)
    assert (whole.value, whole.n, whole.unit, whole.origin, whole.note) == (2.0, 2, "ms", "measured", "")
    part = stats.metric([1.0, None, 3.0], unit="ms", seed=0, origin="modelled", note="roofline")
    assert (part.value, part.n, part.ci95) == (2.0, 2, whole.ci95)
    assert (part.origin, part.note) == ("modelled", "roofline; 1 of 3 samples not measured")
    nothing = stats.metric([None, None], unit="J", seed=0)
    assert (nothing.value, nothing.n, nothing.ci95) == (None, 0, None)
    assert nothing.note == "2 of 2 samples not measured"
    assert stats.metric([], unit="J", seed=0).value is None
    assert stats.metric([0.0, 0.0], unit="J", seed=0).value == 0


def test_one_sample_has_a_value_and_no_interval() -> None:
    one = stats.Estimate(value=4.0, ci95=None, n=1)
    assert stats.mean_ci([4.0], seed=0) == stats.corpus_ci(lambda _: 4.0, 1, seed=0) == one
    difference = stats.paired_difference([4.0], [1.0], seed=0)
    assert (difference.value, difference.ci95, difference.p_value, difference.n) == (3.0, None, None, 1)
    assert stats.wilson(1, 1) == stats.Estimate(value=1.0, ci95=None, n=1)
    assert stats.wilson(0, 0) == stats.Estimate(value=None, ci95=None, n=0)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_numbers_that_are_none_are_refused(bad: float) -> None:
    with pytest.raises(UserError, match=r"values\[1\] is (nan|inf)"):
        stats.mean_ci([1.0, bad], seed=0)
    with pytest.raises(UserError, match=r"values\[1\]"):
        stats.metric([1.0, bad, None], unit="ms", seed=0)
    with pytest.raises(UserError, match=r"denominators\[0\]"):
        stats.ratio_ci([1.0], [bad], seed=0)
    with pytest.raises(UserError, match="not a finite number"):
        stats.corpus_ci(lambda _: bad, 3, seed=0)
    with pytest.raises(UserError, match="not a finite number"):
        stats.corpus_ci(lambda index: 1.0 if len(set(index)) > 1 else bad, 3, seed=0)


def test_bad_shapes_are_refused() -> None:
    with pytest.raises(UserError, match=r"values has shape \(0,\)"):
        stats.mean_ci([], seed=0)
    with pytest.raises(UserError, match="2 numerators but 1 denominators"):
        stats.ratio_ci([1, 2], [1], seed=0)
    with pytest.raises(UserError, match=r"denominators\[1\] is negative"):
        stats.ratio_ci([1, 2], [1, -1], seed=0)
    with pytest.raises(UserError, match="pair them"):
        stats.paired_difference([1.0], [1.0, 2.0], seed=0)
    with pytest.raises(UserError, match="pair them"):
        stats.mcnemar([True], [])
    with pytest.raises(UserError, match="draws=10 must be at least 100"):
        stats.mean_ci([1.0, 2.0], seed=0, draws=10)
    with pytest.raises(UserError, match="successes=4"):
        stats.wilson(4, 3)
    with pytest.raises(UserError, match="n=0"):
        stats.corpus_ci(lambda _: 1.0, 0, seed=0)


def test_sign_flips_are_all_patterns_where_there_are_few() -> None:
    assert stats.sign_flips([1.0, 2.0, 3.0], seed=0) == 2 / 8  # all plus, all minus
    assert stats.sign_flips([1.0, -1.0], seed=0) == 1.0
    assert stats.sign_flips([0.0] * 4, seed=0) == 1.0
    assert stats.sign_flips([2.0], seed=0) is None


def test_sign_flips_agree_with_scipy() -> None:
    gaps = np.random.default_rng(1).normal(0.25, 1.0, size=60)
    theirs = scipy.stats.permutation_test(
        (gaps, np.zeros(60)), lambda a, b: float((a - b).mean()), permutation_type="samples", n_resamples=20_000, rng=3
    ).pvalue
    ours = stats.sign_flips(gaps, seed=5, draws=20_000)
    assert ours == pytest.approx(theirs, abs=0.01)
    assert ours == stats.sign_flips(gaps, seed=5, draws=20_000)


def test_sign_flips_keep_their_promise_without_an_effect() -> None:
    """5 % false alarms, also for skewed binary gaps; planted: a one-sided count would give 10 %."""
    generator = np.random.default_rng(7)
    p_values = [
        stats.sign_flips(generator.integers(-1, 2, size=40).astype(float), seed=i, draws=400) for i in range(400)
    ]
    alarms = np.mean([p <= 0.05 for p in p_values if p is not None])
    assert 0.02 <= alarms <= 0.08


def test_holm_is_the_textbook_example() -> None:
    assert stats.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert stats.holm([0.6, None, 0.7]) == [1.0, None, 1.0]
    assert stats.holm([]) == []
    assert stats.holm([0.03]) == [0.03]


@given(st.lists(st.floats(0.001, 1), min_size=1, max_size=8))
def test_holm_keeps_the_order_and_only_raises(p_values: list[float]) -> None:
    adjusted = stats.holm(p_values)
    for p, more in zip(p_values, adjusted, strict=True):
        assert more is not None
        assert p <= more <= min(1.0, len(p_values) * p) + 1e-12
    ranked = [adjusted[place] for place in np.argsort(p_values, kind="stable")]
    assert ranked == sorted(x for x in ranked if x is not None)
