"""The decision process against quantecon, brute force and its own laws."""

from __future__ import annotations

import math
import warnings
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import quantecon
import quantecon.markov
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from argo import mdp
from argo.mdp import ACTIONS, Action, Mdp, solve
from argo.schema import FINEST, REWARDS, ArgoConfig, MdpConfig
from suite.errors import ConfigError

CONF = Path(__file__).resolve().parents[2] / "conf" / "mdp"
NAMES = ("base", "calibrated", "multi_gpu", "paper")
some = settings(max_examples=60, deadline=None)

steps = st.sampled_from([0.01, 0.05, 0.08, 0.1, 0.125, 0.15, 0.2, 0.25, 0.3, 0.44, 0.7, 1.0])
configs = st.builds(
    MdpConfig,
    delta_r=steps,
    delta_p=steps,
    p_s=st.floats(0.05, 1.0),
    c_p=st.floats(0.01, 0.3),
    mu=st.floats(0.05, 2.0),
    gamma=st.just(1.0),
    reward=st.sampled_from(REWARDS),
    alpha=st.floats(0.5, 12.0),
)
discounted = st.builds(replace, configs, gamma=st.floats(0.8, 0.999))
ratios = st.floats(0.0, 12.0)


def named(name: str) -> MdpConfig:
    """A parameter set as shipped."""
    settings_ = OmegaConf.to_container(OmegaConf.load(CONF / f"{name}.yaml"))
    return MdpConfig(**{str(key): value for key, value in settings_.items() if key != "defaults"})  # type: ignore[union-attr]


def sigma(config: MdpConfig, u: float) -> float:
    """The reward of stopping, written out once more."""
    a = config.alpha
    return {
        "linear": u,
        "sqrt": u**0.5,
        "saturating": 1 - math.exp(-a * u),
        "sigmoid": 1 / (1 + math.exp(-a * (u - 0.5))),
    }[config.reward]


def oracle(process: Mdp) -> quantecon.markov.DiscreteDP:
    """The same process as dense tables over states 0..units and an absorbing one for having answered."""
    config = process.config
    units, up_r, up_p = config.lattice()
    end, states = units + 1, np.arange(units + 1)
    gains, chances = np.zeros((units + 2, 3)), np.zeros((units + 2, 3, units + 2))
    gains[:-1, 0], gains[:-1, 1] = -config.mu * process.c_r, -config.mu * config.c_p
    gains[:-1, 2] = [sigma(config, u / units) for u in states]
    np.add.at(chances, (states, 0, np.minimum(states + up_r, units)), config.p_s)
    np.add.at(chances, (states, 0, states), 1 - config.p_s)
    chances[states, 1, np.minimum(states + up_p, units)] = 1.0
    chances[:-1, 2, end] = chances[end, :, end] = 1.0
    with warnings.catch_warnings():  # quantecon says which of its methods do not take gamma 1
        warnings.simplefilter("ignore", UserWarning)
        return quantecon.markov.DiscreteDP(gains, chances, config.gamma)


@pytest.mark.parametrize("reward", REWARDS)
@pytest.mark.parametrize("name", ["base", "multi_gpu", "paper"])
@pytest.mark.parametrize("ratio", [0.0, 1.0, 2.5, 6.0])
def test_matches_quantecon(name: str, reward: str, ratio: float) -> None:
    """Discounted: policy iteration. At gamma 1: so long a backward induction that no retrieval is still failing."""
    process = Mdp.at(replace(named(name), reward=reward), ratio)
    ours, theirs = solve(process), oracle(process)
    if process.config.gamma < 1:
        values = theirs.solve(method="policy_iteration").v
    else:
        values = quantecon.markov.backward_induction(theirs, 120)[0][0]
    assert ours.value == pytest.approx(values[:-1], abs=1e-9)
    best = np.asarray([ours.q[int(a), u] for u, a in enumerate(ours.table)])
    assert best == pytest.approx(values[:-1], abs=1e-9)


@some
@given(configs, ratios)
def test_matches_brute_force(config: MdpConfig, ratio: float) -> None:
    """At gamma 1 the order of steps does not matter, so every policy from U = 0 is a number of each."""
    process = Mdp.at(config, ratio)
    worth = max(
        sigma(config, float(min(1, m * Fraction(str(config.delta_r)) + n * Fraction(str(config.delta_p)))))
        - config.mu * (m * process.c_r / config.p_s + n * config.c_p)
        for m in range(math.ceil(1 / config.delta_r) + 1)
        for n in range(math.ceil(1 / config.delta_p) + 1)
    )
    solution = solve(process)
    assert solution.value[0] == pytest.approx(worth, abs=1e-9)
    assert mdp.line(config, solution.word).value(process.c_r) == pytest.approx(worth, abs=1e-9)


@some
@given(st.one_of(configs, discounted), ratios)
def test_q_is_bellmans_and_the_table_its_argmax(config: MdpConfig, ratio: float) -> None:
    process = Mdp.at(config, ratio)
    s = solve(process)
    retrieved, reasoned = ([s.value[s.advance(u, a)] for u in range(s.units + 1)] for a in ACTIONS[:2])
    once = config.p_s * np.array(retrieved) + (1 - config.p_s) * s.value
    assert s.q[0] == pytest.approx(config.gamma * once - config.mu * process.c_r, abs=1e-9)
    assert s.q[1] == pytest.approx(config.gamma * np.array(reasoned) - config.mu * config.c_p, abs=1e-9)
    assert s.q.max(axis=0) == pytest.approx(s.value, abs=1e-9)
    assert s.q[s.table, np.arange(s.units + 1)] == pytest.approx(s.value, abs=1e-9)
    assert s.action(s.units) is Action.TERMINATE


@some
@given(configs, ratios, ratios)
def test_value_is_convex_in_the_cost_and_falls_by_the_expected_retrievals(
    config: MdpConfig, here: float, there: float
) -> None:
    """The line through V*(0; c_r) of slope -mu E[retrievals] supports V* everywhere: slope and convexity in one."""
    at, other = Mdp.at(config, here), Mdp.at(config, there)
    fall = config.mu * solve(at).expected_retrievals
    assert fall >= 0
    assert solve(other).value[0] >= solve(at).value[0] - fall * (other.c_r - at.c_r) - 1e-9


@some
@given(configs)
def test_retrievals_are_a_descending_staircase_with_these_breakpoints(config: MdpConfig) -> None:
    kinks = [0.0, *mdp.breakpoints(config)]
    falls = []
    for low, high in zip(kinks, [*kinks[1:], 2 * kinks[-1] + 1], strict=True):
        inside = [solve(Mdp(config=config, c_r=low + share * (high - low))) for share in (0.05, 0.5, 0.95)]
        assert len({s.word for s in inside}) == 1
        left, middle, right = (s.value[0] for s in inside)
        assert middle == pytest.approx((left + right) / 2, abs=1e-9)  # linear in between
        falls.append(inside[0].expected_retrievals)
    assert all(a > b for a, b in pairwise(falls))
    assert falls[-1] == 0


@settings(max_examples=30, deadline=None)
@given(discounted)
def test_breakpoints_hold_under_a_discount(config: MdpConfig) -> None:
    kinks = [0.0, *mdp.breakpoints(config)]
    words = []
    for low, high in zip(kinks, [*kinks[1:], 2 * kinks[-1] + 1], strict=True):
        inside = {solve(Mdp(config=config, c_r=low + share * (high - low))).word for share in (0.1, 0.5, 0.9)}
        assert len(inside) == 1
        words += inside
    assert all(a != b for a, b in pairwise(words))
    assert "R" not in words[-1]


@pytest.mark.parametrize("name", NAMES)
def test_breakpoints_are_exact(name: str) -> None:
    """At gamma 1 and a linear reward the envelope is rational: every crossing that no third line tops."""
    config = replace(named(name), gamma=1.0)
    text = {key: Fraction(str(getattr(config, key))) for key in ("delta_r", "delta_p", "p_s", "c_p", "mu")}
    most_r, most_p = (math.ceil(1 / text[key]) for key in ("delta_r", "delta_p"))
    lines = [
        (
            max(
                min(Fraction(1), m * text["delta_r"] + n * text["delta_p"]) - text["mu"] * text["c_p"] * n
                for n in range(most_p + 1)
            ),
            text["mu"] * m / text["p_s"],
        )
        for m in range(most_r + 1)
    ]
    crossings = {(a - b) / (d - e) for a, d in lines for b, e in lines if d > e and a > b}
    kinks = sorted(
        c
        for c in crossings
        if len({fall for zero, fall in lines if zero - fall * c == max(z - f * c for z, f in lines)}) > 1
    )
    assert mdp.breakpoints(config) == pytest.approx([float(kink) for kink in kinks], rel=1e-10)


def test_breakpoints_of_the_base_case() -> None:
    assert mdp.breakpoints(MdpConfig()) == pytest.approx([14 / 150, 7.7 / 60, 16.1 / 120], rel=1e-12)


@pytest.mark.parametrize(("delta_r", "delta_p"), [(0.25, 0.05), (0.1, 0.1), (0.05, 0.2)])
def test_critical_cost_parts_retrieving_from_reasoning(delta_r: float, delta_p: float) -> None:
    """Steps that fill U = 1 without excess."""
    config = MdpConfig(delta_r=delta_r, delta_p=delta_p, p_s=0.8, c_p=0.01)
    critical = mdp.critical_cost(config)
    assert set(solve(Mdp(config=config, c_r=0.999 * critical)).word) == {"R"}
    assert set(solve(Mdp(config=config, c_r=1.001 * critical)).word) == {"P"}


def test_word_counts_and_costs() -> None:
    s = solve(Mdp.at(MdpConfig(), 1.0))  # six retrievals and one step of reasoning make 0.98
    assert sorted(s.word) == ["P", *"RRRRRR"]
    assert s.expected_retrievals == pytest.approx(6 / 0.7)
    assert s.expected_reasons == 1
    assert s.expected_cost == pytest.approx(0.1 * 6 / 0.7 + 0.1)
    assert s.value[0] == pytest.approx(0.98 - 0.6 * s.expected_cost)
    assert (s.units, s.step_r, s.step_p, s.p_s) == (100, 15, 8, 0.7)
    assert s.advance(95, Action.RETRIEVE) == 100 and s.advance(3, Action.REASON) == 11
    assert s.advance(3, Action.TERMINATE) == 3


def test_ties_go_to_answering_then_retrieving() -> None:
    free = MdpConfig(mu=0.0)
    assert solve(Mdp.at(free, 0.0)).word == "R" * 7  # all that makes progress is worth the same
    par = MdpConfig(delta_p=0.1, c_p=0.1, mu=1.0)  # a step gains what it costs
    assert solve(Mdp.at(par, 5.0)).word == ""
    assert solve(Mdp.at(MdpConfig(), 1.0)).word == "RRRRRRP"


@pytest.mark.parametrize("gamma", [1.0, 0.98])
@pytest.mark.parametrize("mu", [0.0, 0.6])
def test_retrieval_that_never_succeeds_or_costs_infinitely_much_is_never_chosen(mu: float, gamma: float) -> None:
    hopeless = MdpConfig(p_s=0.0, mu=mu, gamma=gamma)
    alone = solve(Mdp.at(MdpConfig(mu=mu, gamma=gamma), math.inf))
    assert np.isneginf(alone.q[0]).all()
    for s in (alone, solve(Mdp.at(hopeless, 0.0)), solve(Mdp.at(hopeless, 2.0)), solve(Mdp.at(hopeless, math.inf))):
        assert "R" not in s.word and not (s.table == 0).any()
        assert s.value == pytest.approx(alone.value)
        assert s.expected_retrievals == 0 and s.expected_cost == pytest.approx(0.1 * len(s.word))
    assert mdp.breakpoints(hopeless) == [] and mdp.cost_points(hopeless, "breakpoints", 5) == [1.0]


def test_free_retrieval_runs_to_the_end_and_a_rare_one_does_not_overflow() -> None:
    assert solve(Mdp.at(MdpConfig(), 0.0)).word == "R" * 7
    rare = solve(Mdp.at(MdpConfig(p_s=1e-300, mu=1e9), 1e9))
    assert rare.word == "" and rare.value[0] == 0


@pytest.mark.parametrize("reward", ["saturating", "sigmoid"])
def test_a_reward_as_steep_as_a_step_does_not_overflow(reward: str) -> None:
    """Anything above 0, or above a half, pays 1: one retrieval, or four."""
    s = solve(Mdp.at(MdpConfig(reward=reward, alpha=1e6, p_s=1.0, c_p=0.01), 0.1))
    assert s.word == {"saturating": "R", "sigmoid": "RRRR"}[reward]


def test_solutions_cannot_be_written_to() -> None:
    s = solve(Mdp.at(MdpConfig(), 1.0))
    for array in (s.value, s.q, s.table):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0


def test_infinite_cost_ratio_is_legal_and_negative_is_not() -> None:
    assert ArgoConfig(cost_ratio=math.inf).cost_ratio == math.inf
    for bad in (-1.0, math.nan):
        with pytest.raises(ConfigError, match=r"task\.cost_ratio"):
            ArgoConfig(cost_ratio=bad)
        with pytest.raises(ConfigError, match="c_r"):
            Mdp(config=MdpConfig(), c_r=bad)


def test_lattice_is_the_coarsest() -> None:
    assert MdpConfig().lattice() == (100, 15, 8)
    assert MdpConfig(delta_r=0.5, delta_p=0.25).lattice() == (4, 2, 1)
    assert MdpConfig(delta_r=0.125, delta_p=0.2).lattice() == (40, 5, 8)
    assert MdpConfig(delta_r=1.0, delta_p=1.0).lattice() == (1, 1, 1)
    assert MdpConfig(delta_r=0.0001).lattice()[0] == FINEST


@pytest.mark.parametrize(
    ("option", "value", "near"),
    [
        ("delta_r", 0.1 + 0.05, "0.15"),
        ("delta_p", 1 / 3, "0.3333"),
        ("delta_r", 1e-6, "0.0001"),
        ("delta_p", 0.99999, "1"),
    ],
)
def test_too_fine_a_step_is_refused_with_the_nearest_that_works(option: str, value: float, near: str) -> None:
    with pytest.raises(ConfigError) as caught:
        MdpConfig(**{option: value})
    assert f"task.mdp.{option}={value}" in str(caught.value) and str(caught.value).endswith(f"take {near}.")
    MdpConfig(**{option: float(near)})


def test_a_step_off_the_decimals_is_fine_where_the_lattice_is() -> None:
    assert MdpConfig(delta_r=1 / 256, delta_p=0.5).lattice() == (256, 1, 128)
    with pytest.raises(ConfigError, match=r"delta_r=0\.00390625 .* take 0\.0039"):
        MdpConfig(delta_r=1 / 256, delta_p=0.0001)


def threshold_word(s: mdp.Solution) -> str:
    """The steps of who executes the two thresholds instead of the table."""
    word, u = "", 0
    while u / s.units < s.theta_star:
        retrieve = u / s.units < s.theta_cont
        word, u = word + "PR"[retrieve], s.advance(u, Action.RETRIEVE if retrieve else Action.REASON)
    return word


def test_thresholds_describe_a_table_without_bands() -> None:
    s = solve(Mdp.at(replace(MdpConfig(), reward="sqrt"), 1.0))
    assert s.is_threshold and (s.theta_cont, s.theta_star) == (0.7, 0.7)
    assert threshold_word(s) == s.word == "RRRRR"


def test_executing_thresholds_where_the_table_has_bands_loses_45_percent() -> None:
    """One step of reasoning, then only retrievals: no threshold on U says that."""
    s = solve(Mdp.at(named("calibrated"), 2.0))
    assert not s.is_threshold and s.word == "PRRRRRRR" and s.theta_cont == 0
    assert threshold_word(s) == "P" * 22
    loss = 1 - mdp.line(s.mdp.config, threshold_word(s)).value(s.mdp.c_r) / s.value[0]
    assert loss == pytest.approx(0.4496, abs=1e-4)


@some
@given(st.one_of(configs, discounted), ratios)
def test_thresholds_that_hold_are_the_policy(config: MdpConfig, ratio: float) -> None:
    s = solve(Mdp.at(config, ratio))
    assert s.theta_cont <= s.theta_star
    if s.is_threshold:
        assert threshold_word(s) == s.word


def test_linear_axis() -> None:
    assert mdp.cost_points(MdpConfig(), "linear", 10) == [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]
    assert mdp.cost_points(MdpConfig(), "linear", 5) == [1, 3.25, 5.5, 7.75, 10]
    with pytest.raises(ConfigError, match=r"task\.cost_axis"):
        mdp.cost_points(MdpConfig(), "log", 5)
    with pytest.raises(ConfigError, match=r"task\.cost_points"):
        mdp.cost_points(MdpConfig(), "linear", 1)


@some
@given(st.one_of(configs, discounted))
def test_breakpoint_axis_has_one_point_in_every_step(config: MdpConfig) -> None:
    kinks = [kink / config.c_p for kink in mdp.breakpoints(config)]
    points = mdp.cost_points(config, "breakpoints", 3)
    assert len(points) == len(kinks) + 1
    for low, point, high in zip([0.0, *kinks], points, [*kinks, math.inf], strict=True):
        assert low < point < high
    assert [len(group) for group in mdp.same_policy(config, points).values()] == [1] * len(points)


def test_same_policy_groups_the_points_of_the_linear_axis() -> None:
    linear = mdp.cost_points(MdpConfig(), "linear", 10)
    groups = mdp.same_policy(MdpConfig(), linear)
    assert list(groups.values()) == [[1.0], linear[1:]]
    assert list(groups)[1] == "P" * 12


def test_each_shipped_set_is_the_specified_one() -> None:
    told = {
        name: tuple(getattr(named(name), key) for key in ("delta_r", "delta_p", "p_s", "c_p", "mu", "gamma"))
        for name in sorted(path.stem for path in CONF.glob("*.yaml"))
        if name != "oran_mini"  # calibrated here
    }
    assert told == {
        "base": (0.15, 0.08, 0.7, 0.1, 0.6, 1.0),
        "calibrated": (0.135, 0.044, 0.8, 0.02, 1.0, 0.98),
        "multi_gpu": (0.15, 0.03, 0.8, 0.06, 0.6, 0.98),
        "paper": (0.25, 0.08, 0.8, 0.02, 1.0, 0.98),
    }


def test_one_process_is_solved_once() -> None:
    assert solve(Mdp.at(MdpConfig(), 4.0)) is solve(Mdp.at(MdpConfig(), 4.0))
