"""The decision process of a question, solved exactly: retrieve, reason, or answer with what there is. No torch here.

Information progress U lies in [0, 1]. Retrieving costs c_r and adds delta_r with chance p_s; reasoning costs c_p and
adds delta_p; answering pays sigma(U). A cost c counts -mu c, every step discounts by gamma.

*Exact.* U only ever takes multiples of the common unit of delta_r, delta_p and 1, so the states are integers 0..units
(progress beyond 1 is 1), and an action leads up or, a retrieval that fails, nowhere. So one pass down from U = 1 is
enough; the value of retrieving until it succeeds has a closed form:

    V_R(u) = (gamma p_s V(u + delta_r) - mu c_r) / (1 - gamma (1 - p_s))

No grid is imposed and nothing is iterated. Values are double precision. They lie in [0, 1], and actions closer than
`TIE` = 1e-12 are ties, which go to answering, then retrieving, then reasoning: at gamma 1 the order of steps does not
matter, so ties are the rule there, and the last bit of a sum must not settle them. Retrievals first is a threshold on
U more often, and the walk of who always retrieves.

*The cost of retrieval.* A failed retrieval leaves U where it was, so from U = 0 a policy is a word of its successful
steps, "RRP". What a word is worth is linear in c_r, with the slope -mu E[retrievals] (discounted); V*(0) is the upper
envelope of all words: convex, piecewise linear, never rising. Its kinks are where the optimal word changes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import NamedTuple, Self

import numpy as np
import numpy.typing as npt

from argo.schema import COST_AXES, MdpConfig
from suite.errors import check_choice, check_range

FloatArray = npt.NDArray[np.float64]

TIE = 1e-12
"""Values closer than this are equal; rounding is 1e-15 a step."""


class Action(StrEnum):
    """What can be done at a step, in the order in which thresholds on U would have it."""

    RETRIEVE = "retrieve"
    REASON = "reason"
    TERMINATE = "terminate"


ACTIONS: tuple[Action, ...] = tuple(Action)
_RETRIEVE, _REASON, _TERMINATE = range(3)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mdp:
    """A decision process at one cost of retrieval.

    Attributes:
        config: all else.
        c_r: cost of a retrieval, in units of c_p's; infinite: there is no retrieval.
    """

    config: MdpConfig
    c_r: float

    def __post_init__(self) -> None:
        check_range("c_r", self.c_r, 0.0)

    @classmethod
    def at(cls, config: MdpConfig, cost_ratio: float) -> Self:
        """The process whose retrieval costs so many reasoning steps."""
        return cls(config=config, c_r=cost_ratio * config.c_p)

    @property
    def price_r(self) -> float:
        """What a retrieval takes off the reward; an infinite cost does so at mu = 0 too."""
        return math.inf if math.isinf(self.c_r) else self.config.mu * self.c_r


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Solution:
    """The optimal policy; states are U in units of 1 / `units`.

    Attributes:
        mdp: what was solved.
        units: the state of U = 1.
        step_r: units that a successful retrieval adds;  step_p: that reasoning adds.
        value: (units + 1,) expected reward from each state.
        q: (3, units + 1) the same if the first step is a given one of `ACTIONS`; -inf where it costs infinitely much.
        table: (units + 1,) the optimal action's place in `ACTIONS`.
        word: steps from U = 0, "R" a successful retrieval, "P" reasoning, then the answer. Equal words, equal policies.
    """

    mdp: Mdp
    units: int
    step_r: int
    step_p: int
    value: FloatArray
    q: FloatArray
    table: npt.NDArray[np.int8]
    word: str

    def action(self, u: int) -> Action:
        """What to do at a state: argmax of Q."""
        return ACTIONS[int(self.table[u])]

    def advance(self, u: int, action: Action) -> int:
        """The state after an action that succeeds."""
        if action is Action.TERMINATE:
            return u
        return min(self.units, u + (self.step_r if action is Action.RETRIEVE else self.step_p))

    @property
    def p_s(self) -> float:
        """Chance that a retrieval succeeds."""
        return self.mdp.config.p_s

    @property
    def theta_cont(self) -> float:
        """The least U at which the policy does not retrieve."""
        return float(np.argmax(self.table != _RETRIEVE)) / self.units

    @property
    def theta_star(self) -> float:
        """The least U at which the policy answers."""
        return float(np.argmax(self.table == _TERMINATE)) / self.units

    @property
    def is_threshold(self) -> bool:
        """Whether the thresholds tell the whole table: retrieve below theta_cont, answer from theta_star, else reason.

        False where the table has bands, such as reasoning below retrieving; the thresholds are another policy then.
        """
        return bool((np.diff(self.table) >= 0).all())

    @property
    def expected_retrievals(self) -> float:
        """Retrievals from U = 0 to the answer, failed ones included (not discounted, nor are the next two)."""
        succeed = self.word.count("R")
        return succeed / self.p_s if succeed else 0.0

    @property
    def expected_reasons(self) -> int:
        """Reasoning steps from U = 0 to the answer."""
        return self.word.count("P")

    @property
    def expected_cost(self) -> float:
        """What they cost together, in units of c_p's."""
        retrievals = self.expected_retrievals
        return (retrievals * self.mdp.c_r if retrievals else 0.0) + self.expected_reasons * self.mdp.config.c_p


def reward(config: MdpConfig, progress: FloatArray | float) -> FloatArray:
    """sigma(U) of each U in [0, 1]; the same shape. Never negative, never above 1, never falling."""
    u = np.asarray(progress, dtype=np.float64)
    match config.reward:
        case "linear":
            return u
        case "sqrt":
            return np.sqrt(u)
        case "saturating":
            return -np.expm1(-config.alpha * u)
        case _:
            return (1 + np.tanh(config.alpha * (u - 0.5) / 2)) / 2  # the logistic function, without overflow


@lru_cache(maxsize=64)
def solve(mdp: Mdp) -> Solution:
    """The optimal policy, exactly, in one pass down from U = 1. About a millisecond; the same process is solved once.

    States less than both steps apart do not depend on one another, so a pass takes them in blocks of that length.
    """
    config = mdp.config
    units, step_r, step_p = config.lattice()
    paid = reward(config, np.arange(units + 1) / units)
    gain, price = _until_success(mdp)
    price_p = config.mu * config.c_p

    # Beyond U = 1 is U = 1, where answering at once is best.
    value = np.concatenate([paid, np.full(max(step_r, step_p), paid[-1])])

    def tried(start: int, stop: int) -> tuple[FloatArray, FloatArray]:
        """Retrieving until it succeeds, and reasoning, from the states start..stop-1."""
        retrieve = gain * value[start + step_r : stop + step_r] - price
        return retrieve, config.gamma * value[start + step_p : stop + step_p] - price_p

    block = min(step_r, step_p)
    for stop in range(units, 0, -block):
        start = max(0, stop - block)
        value[start:stop] = np.maximum(value[start:stop], np.maximum(*tried(start, stop)))

    retrieve, reason = tried(0, units + 1)
    best, after = value[: units + 1], value[step_r : units + 1 + step_r]
    step = np.where(retrieve >= best - TIE, _RETRIEVE, _REASON)
    table = np.where(paid >= best - TIE, _TERMINATE, step).astype(np.int8)
    once = config.gamma * (config.p_s * after + (1 - config.p_s) * best) - mdp.price_r
    q = np.stack([once, reason, paid])
    for array in (best, q, table):
        array.flags.writeable = False
    return Solution(
        mdp=mdp,
        units=units,
        step_r=step_r,
        step_p=step_p,
        value=best,
        q=q,
        table=table,
        word=_word(table, units, step_r, step_p),
    )


def _until_success(mdp: Mdp) -> tuple[float, float]:
    """Factor and price of retrieving until it succeeds: V_R = factor x V(u + delta_r) - price."""
    config = mdp.config
    if config.p_s == 0 or math.isinf(mdp.price_r):
        return 0.0, math.inf
    leaves = (1 - config.gamma) + config.gamma * config.p_s  # 1 - gamma (1 - p_s), without cancellation
    return config.gamma * config.p_s / leaves, mdp.price_r / leaves


def _word(table: npt.NDArray[np.int8], units: int, step_r: int, step_p: int) -> str:
    """The letters of the steps that the policy takes from U = 0."""
    letters, u = [], 0
    while table[u] != _TERMINATE:
        letters.append("R" if table[u] == _RETRIEVE else "P")
        u = min(units, u + (step_r if table[u] == _RETRIEVE else step_p))
    return "".join(letters)


class Line(NamedTuple):
    """What a word is worth as a function of c_r: `at_zero` - `fall` x c_r."""

    at_zero: float
    fall: float

    def value(self, c_r: float) -> float:
        """The worth at a finite cost of retrieval."""
        return self.at_zero - self.fall * c_r


def line(config: MdpConfig, word: str) -> Line:
    """The worth of a word ("RRP") from U = 0, as a line in c_r that falls by mu x discounted expected retrievals."""
    units, step_r, step_p = config.lattice()
    u = min(units, word.count("R") * step_r + word.count("P") * step_p)
    at_zero, fall = float(reward(config, u / units)), 0.0
    factor, price = _until_success(Mdp(config=config, c_r=1.0))
    for letter in reversed(word):
        if letter == "R":
            at_zero, fall = factor * at_zero, factor * fall + price
        else:
            at_zero, fall = config.gamma * at_zero - config.mu * config.c_p, config.gamma * fall
    return Line(at_zero, fall)


def critical_cost(config: MdpConfig) -> float:
    """c_r* = c_p p_s delta_r / delta_p, in units of c_p's: where both ways make progress at the same price.

    Away from U = 1 at gamma 1, where the last step's excess does not count; `breakpoints` are the whole truth.
    """
    return config.c_p * config.p_s * config.delta_r / config.delta_p


def breakpoints(config: MdpConfig) -> list[float]:
    """Every cost of a retrieval c_r > 0 at which the optimal word from U = 0 changes, rising, for any gamma.

    They are the kinks of the upper envelope, found by intersecting lines (Eisner and Severance 1976, "Mathematical
    techniques for efficient record segmentation in large shared databases", JACM 23): the words optimal at two costs
    either meet on the envelope, which is a kink, or the word optimal where they meet lies above and parts the interval
    in two. Two solutions a kink, none of them by trial.
    """

    def optimal(c_r: float) -> Line:
        return line(config, solve(Mdp(config=config, c_r=c_r)).word)

    def between(left: Line, right: Line) -> list[float]:
        """Kinks of the envelope from one line that touches it to another that touches it further right."""
        if left.fall - right.fall <= 1e-9 * left.fall:
            return []
        meet = max(0.0, (left.at_zero - right.at_zero) / (left.fall - right.fall))
        above = optimal(meet)
        if above.value(meet) <= left.value(meet) + 10 * TIE:
            return [meet]
        return between(left, above) + between(above, right)

    return between(optimal(0.0), optimal(math.inf))


def cost_points(config: MdpConfig, axis: str, n: int) -> list[float]:
    """Cost ratios c_r / c_p to run: `linear`, n from 1 to 10; `breakpoints`, one inside every step of the staircase.

    The last step has no end; its point lies as if it were as long as the one before. Where retrieval never pays, or
    costs nothing whatever c_r, there is one step and its point is 1.
    """
    check_choice("task.cost_axis", axis, COST_AXES)
    if axis == "linear":
        check_range("task.cost_points", n, 2)
        return [1 + 9 * i / (n - 1) for i in range(n)]
    edges = [0.0, *(kink / config.c_p for kink in breakpoints(config))]
    if len(edges) == 1:
        return [1.0]
    edges.append(2 * edges[-1] - edges[-2])
    return [_short(low, high) for low, high in zip(edges, edges[1:], strict=False)]


def _short(low: float, high: float) -> float:
    """The middle, to as few digits as stay well inside."""
    middle, slack = (low + high) / 2, (high - low) / 4
    rounded = (float(f"{middle:.{digits}g}") for digits in range(2, 17))
    return next((value for value in rounded if abs(value - middle) < slack), middle)


def same_policy(config: MdpConfig, ratios: Sequence[float]) -> dict[str, list[float]]:
    """Cost ratios by the optimal word there, in the order given: those in one list are one policy."""
    groups: dict[str, list[float]] = {}
    for ratio in ratios:
        groups.setdefault(solve(Mdp.at(config, ratio)).word, []).append(ratio)
    return groups
