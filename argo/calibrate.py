"""delta_r, delta_p and p_s of the decision process, from what steps did to held-out questions. No torch here.

A trace is one question answered after none, one, two, ... retrievals in a row, and after none, one, two, ... steps of
reasoning: its score each time, such as the probability that the reader gives the right option. Three steps of thought:

*Convention.* The process knows progress U in [0, 1], traces know scores. U is the share of the way from the mean score
without any step (U = 0) to the best mean score that either chain reaches (U = 1). Means of all questions, because one
question's own best is mostly its best noise; the best that is reachable, because a perfect score may not be.

*Model.* The process believes that every step adds the same until U = 1. Real chains rise fast and then bend, so the
mean gain of a step would depend on how long one happened to make them. Instead g, progress a try, is what brings
min(1, g k) closest to the mean U after k tries, in least squares. It is never negative: a step that spoils makes none.

*Estimates.* p_s is the share of retrievals that succeeded, of those made before U = 1 (the first 1 / g, the last of
them in part): that handed on a supporting passage, where the trace knows, else that raised the score. A try gains
p_s delta_r on average, so delta_r = g / p_s, and delta_p = g of the reasoning chain. Because of that quotient, what
counts as success does not move the critical cost (c_p p_s delta_r / delta_p), nor can it inflate delta_r by picking
the steps that went well.

*Saturating reward.* Where sigma bends as the chains do, every step may add the same to U and less to the score. Then g
is what brings 1 - exp(-g k) closest to the mean gain after k tries; delta_r is a matter of units and given, and
alpha = g / (p_s delta_r), delta_p = g of the reasoning chain / alpha make sigma(U) = 1 - exp(-alpha U) that curve.

Intervals resample questions and do all of it again, baseline and best included.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from suite.errors import UserError
from suite.stats import DRAWS, Estimate, IndexArray, corpus_ci

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """One question along both chains; all traces of a calibration have chains of the same length.

    Attributes:
        question: its id.
        start: score in [0, 1] without any step.
        retrieved: score after each retrieval of the chain R, RR, RRR, ...
        reasoned: score after each step of the chain P, PP, PPP, ...
        supported: of each retrieval, whether it handed on a passage that supports the answer; None where not known.
    """

    question: str
    start: float
    retrieved: tuple[float, ...]
    reasoned: tuple[float, ...]
    supported: tuple[bool, ...] | None = None

    def __post_init__(self) -> None:
        scores = (self.start, *self.retrieved, *self.reasoned)
        if not self.retrieved or not self.reasoned:
            raise UserError(f"The trace of {self.question} has an empty chain; take one step of each kind at least.")
        if not all(0 <= score <= 1 for score in scores):
            raise UserError(f"The trace of {self.question} has scores {scores}; they must lie between 0 and 1.")
        if self.supported is not None and len(self.supported) != len(self.retrieved):
            raise UserError(
                f"The trace of {self.question} has {len(self.retrieved)} retrievals but says of "
                f"{len(self.supported)} whether they brought support; say it of each or of none."
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """What traces say about the decision process; n of an estimate counts questions.

    Attributes:
        delta_r: progress of a retrieval that succeeds; value None where none ever does.
        delta_p: progress of a step of reasoning.
        p_s: chance that a retrieval succeeds.
        alpha: of the saturating reward; None for the linear one.
        start: mean score at U = 0;  best: at U = 1.
        retrieved: mean U after 1, 2, ... retrievals;  reasoned: after as many steps of reasoning. Below 0 where the
            mean score fell below the start.
    """

    delta_r: Estimate
    delta_p: Estimate
    p_s: Estimate
    alpha: Estimate | None
    start: float
    best: float
    retrieved: tuple[float, ...]
    reasoned: tuple[float, ...]


def right_probability(scores: Sequence[float], right: int) -> float:
    """Softmax of the options' log-probabilities (nats), at the right option's place."""
    top = max(scores)
    weights = [math.exp(score - top) for score in scores]
    return weights[right] / math.fsum(weights)


def estimate(
    traces: Sequence[Trace], *, seed: int, draws: int = DRAWS, saturating_delta_r: float | None = None
) -> Calibration:
    """Estimates with 95 % bootstrap intervals over questions, as the module's docstring defines them.

    Args:
        traces: one a question.
        seed: of the resamples.
        draws: how many.
        saturating_delta_r: the step for which alpha of a saturating reward is estimated; None: the reward is linear,
            and delta_r is estimated.

    Raises:
        UserError: no traces, chains of different lengths, or none that raises the mean score.
    """
    if not traces:
        raise UserError("There is no trace to calibrate on; give one held-out question at least.")
    lengths = {(len(trace.retrieved), len(trace.reasoned)) for trace in traces}
    if len(lengths) > 1:
        raise UserError(
            f"Traces have chains of {sorted(lengths)} steps; make the chains of all questions equally long."
        )
    table = _Table(traces, saturating_delta_r)
    everything = np.arange(len(traces), dtype=np.int64)
    start, best, retrieved, reasoned = table.progress(everything)
    if best <= start:
        raise UserError(
            f"No step raises the mean score above {start:.3f}, which the questions have without any; "
            "calibrate on questions that retrieval or reasoning helps."
        )

    def interval(name: str, statistic: Callable[[IndexArray], float]) -> Estimate:
        return corpus_ci(statistic, len(traces), seed=seed, purpose=f"calibrate {name}", draws=draws)

    p_s = interval("p_s", table.p_s)
    unknown = Estimate(value=None, ci95=None, n=len(traces))
    if saturating_delta_r is None:
        delta_r, alpha = interval("delta_r", table.delta_r) if p_s.value else unknown, None
    else:
        delta_r = Estimate(value=saturating_delta_r, ci95=None, n=len(traces))
        alpha = interval("alpha", table.alpha) if p_s.value else unknown
    return Calibration(
        delta_r=delta_r,
        delta_p=interval("delta_p", table.delta_p),
        p_s=p_s,
        alpha=alpha,
        start=start,
        best=best,
        retrieved=tuple(retrieved.tolist()),
        reasoned=tuple(reasoned.tolist()),
    )


class _Table:
    """The traces as arrays, and each estimate as a function of question indices (n,) with repetitions."""

    def __init__(self, traces: Sequence[Trace], saturating_delta_r: float | None) -> None:
        self.step, self.fit = saturating_delta_r, fit if saturating_delta_r is None else bend
        self.start = np.array([trace.start for trace in traces])
        self.retrieved = np.array([trace.retrieved for trace in traces])
        self.reasoned = np.array([trace.reasoned for trace in traces])
        raised = np.diff(self.retrieved, axis=1, prepend=self.start[:, None]) > 0
        known = [raised[i] if trace.supported is None else trace.supported for i, trace in enumerate(traces)]
        self.succeeded = np.array(known, dtype=np.float64)

    def progress(self, index: IndexArray) -> tuple[float, float, FloatArray, FloatArray]:
        """Mean score at U = 0 and at U = 1, and mean U along both chains; all 0 where nothing helps."""
        start = self.start[index].mean()
        chains = [scores[index].mean(axis=0) - start for scores in (self.retrieved, self.reasoned)]
        rise = max(0.0, *(chain.max() for chain in chains))
        retrieved, reasoned = (chain / rise if rise > 0 else np.zeros_like(chain) for chain in chains)
        return float(start), float(start + rise), retrieved, reasoned

    def delta_p(self, index: IndexArray) -> float:
        """Progress of a step of reasoning."""
        gain = self.fit(self.progress(index)[3])
        return gain if self.step is None else gain / alpha if (alpha := self.alpha(index)) else 0.0

    def alpha(self, index: IndexArray) -> float:
        """Steepness of the saturating reward."""
        assert self.step is not None
        gain, p_s = self._retrieval(index)
        return float(gain / (max(p_s, 1 / self.succeeded.shape[1]) * self.step))

    def p_s(self, index: IndexArray) -> float:
        """Share of successes among the retrievals before U = 1."""
        return self._retrieval(index)[1]

    def delta_r(self, index: IndexArray) -> float:
        """Progress of a retrieval that succeeds."""
        gain, p_s = self._retrieval(index)
        # A resample without any success has no quotient; the most that a step can gain stands for it.
        return min(1.0, gain / p_s) if p_s > 0 else float(gain > 0)

    def _retrieval(self, index: IndexArray) -> tuple[float, float]:
        """Progress a try, and the share of tries that succeed."""
        gain = self.fit(self.progress(index)[2])
        length = self.succeeded.shape[1]
        tries = 1 / gain if gain > 1 / length else length
        weights = np.clip(tries - np.arange(length), 0.0, 1.0)
        return gain, float(self.succeeded[index].mean(axis=0) @ weights / weights.sum())


def fit(progress: FloatArray) -> float:
    """The g in [0, 1] for which min(1, g k) comes closest to `progress` (K,), U after k = 1..K tries, in least squares.

    Exact: with the first j tries below U = 1 the best g is that of a line through 0, held to the interval where it is
    those j that lie below; the best of these over j is the best of all.
    """
    k = np.arange(1, len(progress) + 1)
    gains = np.cumsum(k * progress) / np.cumsum(k * k)
    least = np.append(1 / (k[1:]), 0.0)
    gains = np.clip(gains, least, 1 / k)
    misses = ((np.minimum(1.0, gains[:, None] * k) - progress) ** 2).sum(axis=1)
    return float(gains[misses.argmin()])


def bend(progress: FloatArray) -> float:
    """The g >= 0 for which 1 - exp(-g k) comes closest to `progress` (K,) in least squares, to a percent."""
    rates = np.append(0.0, np.geomspace(1e-3, 10.0, 1000))
    k = np.arange(1, len(progress) + 1)
    misses = ((-np.expm1(-rates[:, None] * k) - progress) ** 2).sum(axis=1)
    return float(rates[misses.argmin()])
