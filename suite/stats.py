"""Intervals and tests for a record's numbers: bootstrap, paired differences, sign flips, Holm, McNemar, Wilson.

Everything is a pure function of its arguments: resamples come from a Philox counter generator keyed by (seed,
purpose), so a report rebuilt from records shows the same digits. All intervals are two-sided 95 %. Needs numpy only.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist
from typing import Literal

import numpy as np
import numpy.typing as npt

from suite.errors import UserError, check_range
from suite.result import Metric, Origin

FloatArray = npt.NDArray[np.float64]
IndexArray = npt.NDArray[np.int64]
Method = Literal["bca", "percentile"]

DRAWS = 2000
ALPHA = 0.05
_CHUNK = 1_000_000
"""Indices drawn at once: bounds memory at 8 MB however many samples there are."""
_SLACK = 1e-12
"""Relative difference up to which two sums are equal: rounding must not decide ties."""
_NORMAL = NormalDist()


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A value with its uncertainty.

    Attributes:
        value: None where it is undefined (a ratio whose denominators sum to 0).
        ci95: None where n < 2 or the value is None.
        n: number of samples.
    """

    value: float | None
    ci95: tuple[float, float] | None
    n: int

    def metric(self, *, unit: str, origin: Origin = "measured", note: str = "") -> Metric:
        """The same numbers as a metric of a record."""
        return Metric(value=self.value, unit=unit, n=self.n, ci95=self.ci95, origin=origin, note=note)


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A minus B over the same samples.

    Attributes:
        value: the difference.
        ci95: None where n < 2.
        p_value: two-sided, of "no difference"; None where n < 2.
        n: number of pairs.
    """

    value: float
    ci95: tuple[float, float] | None
    p_value: float | None
    n: int


@dataclass(frozen=True, slots=True, kw_only=True)
class McNemar:
    """Two systems right or wrong on the same samples.

    Attributes:
        only_a: samples that only A has right;  only_b: that only B has right.
        p_value: two-sided, exact.
    """

    only_a: int
    only_b: int
    p_value: float


def metric(
    values: Sequence[float | None], *, unit: str, seed: int, origin: Origin = "measured", note: str = ""
) -> Metric:
    """Mean of per-sample values as a record's metric, with a BCa interval.

    None means "not measured for this sample": such samples are left out, n counts the others, and the note says how
    many are missing. With nothing measured at all the value is None and n is 0.
    """
    present = [value for value in values if value is not None]
    missing = len(values) - len(present)
    if missing:
        note = "; ".join(part for part in (note, f"{missing} of {len(values)} samples not measured") if part)
    if not present:
        return Metric(value=None, unit=unit, n=0, origin=origin, note=note)
    return mean_ci(present, seed=seed).metric(unit=unit, origin=origin, note=note)


def mean_ci(
    values: Sequence[float] | FloatArray,
    *,
    seed: int,
    purpose: str = "mean",
    draws: int = DRAWS,
    method: Method = "bca",
) -> Estimate:
    """Mean of `values` (n,) with a bootstrap interval; see `corpus_ci` for the methods."""
    data = _finite("values", values)
    return ratio_ci(data, np.ones_like(data), seed=seed, purpose=purpose, draws=draws, method=method)


def ratio_ci(
    numerators: Sequence[float] | FloatArray,
    denominators: Sequence[float] | FloatArray,
    *,
    seed: int,
    purpose: str = "ratio",
    draws: int = DRAWS,
    method: Method = "bca",
) -> Estimate:
    """sum(numerators) / sum(denominators), such as accepted over drafted tokens, resampling whole samples.

    Tokens of one sample are not independent, so the sample is the unit that is drawn. The value is None when the
    denominators sum to 0; resamples in which they do (possible when few samples have any) are left out.

    Args:
        numerators: (n,), one per sample.
        denominators: (n,), none negative.
        seed: with `purpose`, the key of the random stream.
        purpose: two calls with the same seed, purpose and n draw the same resamples.
        draws: number of resamples.
        method: see `corpus_ci`.
    """
    top, bottom = _finite("numerators", numerators), _finite("denominators", denominators)
    if len(top) != len(bottom):
        raise UserError(f"ratio_ci: {len(top)} numerators but {len(bottom)} denominators; give one each per sample.")
    if bottom.min() < 0:
        raise UserError(f"ratio_ci: denominators[{int(bottom.argmin())}] is negative; counts and times cannot be.")
    n = len(top)
    if bottom.sum() == 0:
        return Estimate(value=None, ci95=None, n=n)
    value = math.fsum(top) / math.fsum(bottom)
    if n < 2:
        return Estimate(value=value, ci95=None, n=n)
    means = bool((bottom == 1.0).all())  # then every resample's denominators sum to n
    drawn = np.concatenate(
        [
            _ratio(top[block].sum(axis=1), np.full(len(block), float(n)) if means else bottom[block].sum(axis=1))
            for block in _resamples(n, draws, seed, purpose)
        ]
    )
    left_out = _ratio(top.sum() - top, bottom.sum() - bottom)
    drawn, left_out = drawn[np.isfinite(drawn)], left_out[np.isfinite(left_out)]
    return Estimate(value=value, ci95=_interval(value, drawn, left_out, method), n=n)


def corpus_ci(
    statistic: Callable[[IndexArray], float],
    n: int,
    *,
    seed: int,
    purpose: str = "corpus",
    draws: int = DRAWS,
    method: Method = "bca",
) -> Estimate:
    """A statistic of a whole corpus (BLEU, a median) with a bootstrap interval over its n samples.

    `percentile`: the 2.5 % and 97.5 % quantiles of the resampled statistic (Efron and Tibshirani 1993, "An
    Introduction to the Bootstrap", section 13.3). `bca`: the same at levels corrected for bias and skewness
    (section 14.3, equations 14.9 to 14.15), with the jackknife's acceleration; where the correction is undefined
    (every resample equal, or all on one side of the value) it is the percentile interval.

    Args:
        statistic: takes sample indices (n,) with repetitions, or (n - 1,) for the jackknife, and returns a number.
        n: number of samples.
        seed: with `purpose`, the key of the random stream.
        purpose: two calls with the same seed, purpose and n draw the same resamples.
        draws: number of resamples.
        method: `bca` or `percentile`.
    """
    value, drawn, left_out = _bootstrap(statistic, n, seed, purpose, draws)
    return Estimate(value=value, ci95=_interval(value, drawn, left_out, method) if n > 1 else None, n=n)


def paired_difference(
    a: Sequence[float] | FloatArray,
    b: Sequence[float] | FloatArray,
    *,
    seed: int,
    purpose: str = "difference",
    draws: int = DRAWS,
) -> Difference:
    """mean(a) - mean(b) over the same samples, with a BCa interval and a bootstrap p-value; see `corpus_difference`."""
    left, right = _finite("a", a), _finite("b", b)
    if len(left) != len(right):
        raise UserError(f"paired_difference: {len(left)} values against {len(right)}; pair them by sample id first.")
    gap = left - right
    return corpus_difference(lambda index: float(gap[index].mean()), len(gap), seed=seed, purpose=purpose, draws=draws)


def corpus_difference(
    difference: Callable[[IndexArray], float],
    n: int,
    *,
    seed: int,
    purpose: str = "difference",
    draws: int = DRAWS,
) -> Difference:
    """Difference of two corpus statistics over the same samples, with a BCa interval and a two-sided p-value.

    p is the share of resamples whose difference lies at least as far from the observed one as that lies from 0: the
    bootstrap shifted to "no difference" (Berg-Kirkpatrick, Burkett and Klein 2012, D12-1091, figure 1; here on both
    sides), with 1 added to both counts so that it is never 0 (Davison and Hinkley 1997, equation 4.11).

    Args:
        difference: statistic of A minus statistic of B over sample indices, as for `corpus_ci`.
        n: number of pairs.
        seed: with `purpose`, the key of the random stream.
        purpose: two calls with the same seed, purpose and n draw the same resamples.
        draws: number of resamples.
    """
    value, drawn, left_out = _bootstrap(difference, n, seed, purpose, draws)
    if n < 2:
        return Difference(value=value, ci95=None, p_value=None, n=n)
    extreme = int((np.abs(drawn - value) >= abs(value) - _SLACK * np.abs(drawn).max()).sum())
    p_value = (1 + extreme) / (1 + len(drawn))
    return Difference(value=value, ci95=_interval(value, drawn, left_out, "bca"), p_value=p_value, n=n)


def sign_flips(
    gaps: Sequence[float] | FloatArray, *, seed: int, purpose: str = "sign flips", draws: int = DRAWS
) -> float | None:
    """Two-sided p-value of "A and B are exchangeable on each sample", of paired gaps a - b (n,).

    The permutation test of pairs: under the hypothesis each gap could as well have the other sign, and p is the share
    of sign patterns whose mean lies at least as far from 0 as the observed one (Fisher 1935, "The Design of
    Experiments", section 21). All patterns where there are no more than `draws` of them; else that many at random, 1
    added to both counts. None where n < 2.
    """
    data = _finite("gaps", gaps)
    n = len(data)
    if n < 2:
        return None
    check_range("draws", draws, 100)
    limit = abs(data.sum()) - _SLACK * np.abs(data).sum()
    if 2**n <= draws:
        flipped = (np.arange(2**n)[:, None] >> np.arange(n)) & 1
        return float((np.abs((1 - 2 * flipped) @ data) >= limit).mean())
    generator, rows, extreme = _generator(seed, purpose), max(1, _CHUNK // n), 0
    for start in range(0, draws, rows):
        flipped = generator.integers(2, size=(min(rows, draws - start), n), dtype=np.int8)
        extreme += int((np.abs((1.0 - 2.0 * flipped) @ data) >= limit).sum())
    return (1 + extreme) / (1 + draws)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """The p-values of one family, adjusted so that any false alarm among them stays as rare as a single one.

    Holm 1979, Scandinavian Journal of Statistics 6, pp. 65 to 70. None stays None and counts for nothing.
    """
    known = [(p, place) for place, p in enumerate(p_values) if p is not None]
    adjusted: list[float | None] = [None] * len(p_values)
    highest = 0.0
    for rank, (p, place) in enumerate(sorted(known)):
        highest = max(highest, min(1.0, (len(known) - rank) * p))
        adjusted[place] = highest
    return adjusted


def mcnemar(a_right: Sequence[bool], b_right: Sequence[bool]) -> McNemar:
    """Exact McNemar test: are the samples that only one system has right split evenly?

    Two-sided binomial test of the discordant pairs at 1/2 (McNemar 1947, Psychometrika 12; exact form: Agresti 2013,
    "Categorical Data Analysis", section 11.1.2). Without discordant pairs p is 1.
    """
    if len(a_right) != len(b_right):
        raise UserError(f"mcnemar: {len(a_right)} samples against {len(b_right)}; pair them by sample id first.")
    only_a = sum(bool(a) and not b for a, b in zip(a_right, b_right, strict=True))
    only_b = sum(bool(b) and not a for a, b in zip(a_right, b_right, strict=True))
    n = only_a + only_b
    tail = sum(math.comb(n, k) for k in range(min(only_a, only_b) + 1))
    # Integers until the last step: exact for any n.
    return McNemar(only_a=only_a, only_b=only_b, p_value=min(1.0, 2 * tail / 2**n))


def wilson(successes: int, n: int) -> Estimate:
    """A proportion with Wilson's score interval (Wilson 1927, JASA 22, p. 209), which holds at 0, at 1 and at small n.

    n = 0 gives value None; n = 1 has a value and, as everywhere here, no interval.
    """
    check_range("n", n, 0)
    check_range("successes", successes, 0, n)
    if n == 0:
        return Estimate(value=None, ci95=None, n=0)
    share = successes / n
    if n < 2:
        return Estimate(value=share, ci95=None, n=n)
    z = _NORMAL.inv_cdf(1 - ALPHA / 2)
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return Estimate(value=share, ci95=(max(0.0, centre - half), min(1.0, centre + half)), n=n)


def _bootstrap(
    statistic: Callable[[IndexArray], float], n: int, seed: int, purpose: str, draws: int
) -> tuple[float, FloatArray, FloatArray]:
    """The statistic of all samples, of every resample (draws,) and of all but one (n,); both empty where n < 2."""
    check_range("n", n, 1)
    everything = np.arange(n, dtype=np.int64)
    value = float(statistic(everything))
    blocks = _resamples(n, draws, seed, purpose) if n > 1 else ()
    drawn = np.fromiter((statistic(row) for block in blocks for row in block), dtype=np.float64)
    left_out = np.fromiter((statistic(np.delete(everything, i)) for i in range(n) if n > 1), dtype=np.float64)
    if not (math.isfinite(value) and np.isfinite(drawn).all() and np.isfinite(left_out).all()):
        raise UserError("The statistic of a resample is not a finite number; give one that is defined for any samples.")
    return value, drawn, left_out


def _interval(value: float, drawn: FloatArray, left_out: FloatArray, method: Method) -> tuple[float, float]:
    """Quantiles of the resampled statistic `drawn` (draws,), at levels corrected with the jackknife's (n,)."""
    if np.ptp(drawn) <= _SLACK * abs(value):
        return value, value
    levels = _bca_levels(value, drawn, left_out) if method == "bca" else None
    low, high = np.quantile(drawn, levels or (ALPHA / 2, 1 - ALPHA / 2))
    return float(low), float(high)


def _bca_levels(value: float, drawn: FloatArray, left_out: FloatArray) -> tuple[float, float] | None:
    """Efron and Tibshirani 1993, equations 14.10, 14.14 and 14.15; None where they are undefined."""
    # Half of the ties count as below; sums that differ in rounding only are ties.
    gap, slack = drawn - value, _SLACK * np.abs(drawn).max()
    below = float(((gap < -slack).mean() + (gap <= slack).mean()) / 2)
    gaps = left_out.mean() - left_out
    spread = float((gaps**2).sum())
    if not 0 < below < 1 or spread == 0:
        return None
    bias = _NORMAL.inv_cdf(below)
    acceleration = float((gaps**3).sum()) / (6 * spread**1.5)

    def level(tail: float) -> float:
        shifted = bias + _NORMAL.inv_cdf(tail)
        # |acceleration| <= 1/6 and |shifted| < 6 for any affordable number of draws: the denominator stays positive.
        return _NORMAL.cdf(bias + shifted / (1 - acceleration * shifted))

    return level(ALPHA / 2), level(1 - ALPHA / 2)


def _resamples(n: int, draws: int, seed: int, purpose: str) -> Iterable[IndexArray]:
    """Blocks of (b, n) sample indices drawn with replacement, `draws` rows in all."""
    check_range("draws", draws, 100)
    return (_whole(n, draws, seed, purpose),) if draws * n <= _CHUNK else _blocks(n, draws, seed, purpose)


@lru_cache(maxsize=4)
def _whole(n: int, draws: int, seed: int, purpose: str) -> IndexArray:
    """The one block of few samples: every metric of a job, and every job of a sweep, draws it again."""
    (block,) = _blocks(n, draws, seed, purpose)
    block.flags.writeable = False
    return block


def _blocks(n: int, draws: int, seed: int, purpose: str) -> Iterator[IndexArray]:
    generator, rows = _generator(seed, purpose), max(1, _CHUNK // n)
    for start in range(0, draws, rows):
        yield generator.integers(n, size=(min(rows, draws - start), n), dtype=np.int64)


def _generator(seed: int, purpose: str) -> np.random.Generator:
    digest = hashlib.sha256(f"{seed}/{purpose}".encode()).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little")))


def _ratio(top: FloatArray, bottom: FloatArray) -> FloatArray:
    """Quotient, NaN where the bottom is 0."""
    return np.divide(top, bottom, out=np.full_like(top, np.nan), where=bottom > 0)


def _finite(name: str, values: Sequence[float] | FloatArray) -> FloatArray:
    """`values` as (n,) float64; refuses an empty list, NaN and infinity."""
    data = np.asarray(values, dtype=np.float64)
    if data.ndim != 1 or len(data) == 0:
        raise UserError(f"{name} has shape {data.shape}; give a list of at least one number.")
    if not np.isfinite(data).all():
        bad = int(np.flatnonzero(~np.isfinite(data))[0])
        raise UserError(f"{name}[{bad}] is {data[bad]}; leave it out or pass None for what was not measured.")
    return data
