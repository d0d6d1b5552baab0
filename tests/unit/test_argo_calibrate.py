"""Calibration gives back what made the traces, and says what it cannot tell."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from argo import calibrate
from argo.calibrate import Calibration, Trace, fit, right_probability
from argo.mdp import critical_cost
from argo.schema import MdpConfig
from suite.errors import UserError
from suite.stats import Estimate


def trace(question: str = "q", **given: object) -> Trace:
    """Four steps each way; retrieval fills the range 0.2 to 0.8 in three, reasoning gets a sixth of it a step."""
    plain: dict[str, object] = {
        "start": 0.2,
        "retrieved": (0.4, 0.6, 0.8, 0.8),
        "reasoned": (0.3, 0.4, 0.5, 0.6),
        "supported": None,
    }
    return Trace(question=question, **(plain | given))  # type: ignore[arg-type]


def played(questions: int, delta_r: float, delta_p: float, p_s: float, length: int) -> list[Trace]:
    """Traces of the decision process itself: scores rise by its steps, with luck, from 0.25 to 0.85, plus noise."""
    rng = np.random.default_rng(3)
    traces = []
    for number in range(questions):
        luck = rng.random(length) < p_s
        ups = np.minimum(1, delta_r * np.cumsum(luck)), np.minimum(1, delta_p * np.arange(1, length + 1))
        noise = rng.normal(0, 0.05, (2, length))
        r, p = (0.25 + 0.6 * up + more for up, more in zip(ups, noise, strict=True))
        traces.append(
            Trace(
                question=str(number),
                start=0.25,
                retrieved=tuple(np.clip(r, 0, 1).tolist()),
                reasoned=tuple(np.clip(p, 0, 1).tolist()),
                supported=tuple(luck.tolist()),
            )
        )
    return traces


def estimate(traces: list[Trace], *, seed: int = 1) -> Calibration:
    return calibrate.estimate(traces, seed=seed, draws=200)


def values(calibration: Calibration) -> list[float | None]:
    return [calibration.delta_r.value, calibration.delta_p.value, calibration.p_s.value]


def test_exact_on_traces_without_noise() -> None:
    calibration = estimate([trace(), trace("r")])
    assert values(calibration) == pytest.approx([1 / 3, 1 / 6, 1.0])
    assert (calibration.start, calibration.best) == pytest.approx((0.2, 0.8))
    assert calibration.retrieved == pytest.approx((1 / 3, 2 / 3, 1, 1))
    assert calibration.reasoned == pytest.approx((1 / 6, 2 / 6, 3 / 6, 4 / 6))
    assert calibration.delta_r.n == calibration.delta_p.n == calibration.p_s.n == 2


def test_recovers_the_process_that_made_the_traces() -> None:
    """The mean of saturating walks bends a little before U = 1, so delta_r comes out some percent low."""
    calibration = estimate(played(300, delta_r=0.25, delta_p=0.08, p_s=0.8, length=10))
    assert values(calibration) == pytest.approx([0.25, 0.08, 0.8], rel=0.08)
    for truth, found in ((0.08, calibration.delta_p), (0.8, calibration.p_s)):
        assert found.ci95 is not None
        low, high = found.ci95
        assert low < truth * 1.02 and high > truth * 0.98 and high - low < 0.1 * truth


def test_longer_chains_past_the_plateau_change_nothing() -> None:
    long = [replace(t, retrieved=(*t.retrieved, *[0.8] * 8)) for t in (trace(), trace("r"))]
    assert values(estimate(long)) == pytest.approx(values(estimate([trace(), trace("r")])))


def test_support_where_known_says_what_succeeded_and_only_before_the_plateau() -> None:
    """One of the three retrievals on the way brought nothing; what the fourth brings is not asked."""
    for fourth in (True, False):
        calibration = estimate([trace(supported=(True, False, True, fourth))] * 3)
        assert calibration.p_s.value == pytest.approx(2 / 3)
        assert calibration.delta_r.value == pytest.approx(1 / 2)


def test_without_support_a_retrieval_succeeds_that_raised_the_score() -> None:
    dips = trace(retrieved=(0.4, 0.4, 0.5, 0.8))
    assert estimate([dips]).p_s.value == pytest.approx(3 / 4)
    assert estimate([replace(dips, retrieved=(0.1, 0.4, 0.5, 0.8))]).p_s.value == pytest.approx(3 / 4)
    assert estimate([dips, replace(dips, supported=(True, False, False, False))]).p_s.value == pytest.approx(4 / 8)


def test_the_retrieval_that_completes_counts_in_part() -> None:
    """g = 0.4 makes two and a half tries, so that p_s does not jump where 1 / g passes a whole number."""
    bends = trace(retrieved=(0.44, 0.68, 0.8, 0.8), supported=(True, True, False, False))
    calibration = estimate([bends])
    assert calibration.p_s.value == pytest.approx(2 / 2.5)
    assert calibration.delta_r.value == pytest.approx(0.5)


def test_what_counts_as_success_does_not_move_the_critical_cost() -> None:
    costs = []
    for supported in ((True, True, True, True), (True, False, True, False), (False, True, False, False)):
        c = estimate([trace(supported=supported)])
        delta_r, delta_p, p_s = values(c)
        assert delta_r is not None and delta_p is not None and p_s is not None
        costs.append(critical_cost(MdpConfig(delta_p=round(delta_p, 4), delta_r=round(delta_r, 4), p_s=p_s)))
    assert costs == pytest.approx([costs[0]] * 3, rel=1e-3)


def test_reasoning_that_does_harm_makes_no_progress() -> None:
    calibration = estimate([trace(reasoned=(0.1, 0.1, 0.05, 0.0))] * 4)
    assert calibration.delta_p.value == 0 and calibration.reasoned[-1] == pytest.approx(-1 / 3)


def test_support_that_never_comes_leaves_delta_r_open() -> None:
    calibration = estimate([trace(supported=(False,) * 4)] * 3)
    assert calibration.p_s.value == 0
    assert calibration.delta_r == Estimate(value=None, ci95=None, n=3)


def test_support_that_seldom_comes_still_has_an_interval() -> None:
    """Some resamples have no success at all; delta_r is at most 1 in every one."""
    traces = [trace(str(i), supported=(i == 0, False, False, False)) for i in range(4)]
    calibration = estimate(traces)
    assert calibration.delta_r.value == 1.0 and calibration.delta_r.ci95 == (1.0, 1.0)


def test_intervals_widen_with_disagreement_and_repeat_with_the_seed() -> None:
    rng = np.random.default_rng(1)
    noisy = [trace(str(i), reasoned=tuple(np.clip(rng.normal(0.4, 0.2, 4), 0, 1).tolist())) for i in range(30)]
    once, again, other = estimate(noisy), estimate(noisy), estimate(noisy, seed=2)
    assert once == again != other
    assert once.delta_p.ci95 is not None and once.delta_p.value is not None
    assert once.delta_p.ci95[0] < once.delta_p.value < once.delta_p.ci95[1]
    assert estimate(noisy[:1]).delta_p.ci95 is None


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-1, 1), min_size=1, max_size=8))
def test_fit_is_the_least_squares_optimum(progress: list[float]) -> None:
    """Against a fine search over every g."""
    u, k = np.array(progress), np.arange(1, len(progress) + 1)

    def miss(g: float) -> float:
        return float(((np.minimum(1, g * k) - u) ** 2).sum())

    assert miss(fit(u)) <= min(miss(g) for g in np.linspace(0, 1, 401)) + 1e-12


def test_fit_of_a_curve_that_bends() -> None:
    assert fit(np.array([0.75, 0.99, 1.0, 1.0])) == pytest.approx(0.75)
    assert fit(np.array([1.0, 1.0])) == 1
    assert fit(np.array([-0.2, 0.0])) == 0
    assert fit(np.array([0.1, 0.2, 0.3])) == pytest.approx(0.1)


def test_right_probability_is_a_softmax_that_does_not_underflow() -> None:
    assert right_probability([0.0, math.log(3)], 1) == pytest.approx(0.75)
    assert right_probability([-1000.0, -1000.0, -1e9], 0) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("made", "complaint"),
    [
        (lambda: trace(start=1.2), "between 0 and 1"),
        (lambda: trace(retrieved=(0.1, math.nan, 0.2, 0.3)), "between 0 and 1"),
        (lambda: trace(reasoned=()), "empty chain"),
        (lambda: trace(supported=(True,)), "4 retrievals but says of 1"),
        (lambda: estimate([]), "no trace"),
        (lambda: estimate([trace(), trace(reasoned=(0.3,))]), "equally long"),
        (lambda: estimate([trace(start=0.9)]), "No step raises the mean score above 0.900"),
    ],
)
def test_bad_traces_are_named(made: object, complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        made()  # type: ignore[operator]


def test_a_saturating_reward_that_made_the_traces_is_recovered() -> None:
    config = MdpConfig(reward="saturating", alpha=6.0, delta_r=0.15, delta_p=0.04)

    def chain(step: float, gains: list[bool]) -> tuple[float, ...]:
        done = np.cumsum(gains) * step
        return tuple((0.2 + 0.6 * -np.expm1(-config.alpha * done)).tolist())

    lots = np.random.default_rng(3).random((400, 25)) < 0.99
    traces = [
        trace(f"q{i}", start=0.2, retrieved=chain(0.15, row), reasoned=chain(0.04, [True] * 25), supported=tuple(row))
        for i, row in enumerate(lots.tolist())
    ]
    found = calibrate.estimate(traces, seed=1, draws=200, saturating_delta_r=0.15)
    assert found.alpha is not None and found.alpha.value == pytest.approx(6.0, rel=0.05)
    assert found.delta_p.value == pytest.approx(0.04, rel=0.1)
    assert found.p_s.value == pytest.approx(0.99, abs=0.02)
    assert calibrate.bend(np.zeros(5)) == 0.0 and calibrate.bend(-np.ones(5)) == 0.0
