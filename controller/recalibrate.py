"""Carry the latency estimator to another machine with a few timed rows: one affine map per part, in logarithms.

Another machine runs each part at another speed (the slope stays 1) and may reward work in parallel (a slope under 1).
The map is fitted with Huber's loss (1964), as single timings have outliers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from controller.estimator import COMMAND, OUTPUTS, Estimator, measured, only
from controller.estimator_fit import LEAST_MS, LEVEL, timed_rows
from controller.estimator_report import coverage, errors
from controller.table import Profile
from suite.errors import UserError
from suite.result import Metric
from suite.rng import generator

Floats = npt.NDArray[np.float64]
COUNTS = (10, 25, 50, 100)
LEAST = 5
"""Rows that an affine map needs to be more than a guess."""
LEAST_FOR_P95 = 19
"""Of so many runs the longest is a p95: a 20th exceeds it once in 20 times."""
HUBER = 1.345
"""Residuals beyond so many standard deviations count linearly: 95 % as good as squares where there are no outliers."""


def recalibrate(estimator: Estimator, timed: Profile, *, machine: str) -> Estimator:
    """The estimator for `machine`, from whichever (sample, configuration) of `timed` have times there.

    The p95 is set anew where there are `LEAST_FOR_P95` rows; with fewer it keeps its distance to the mean.

    Raises:
        UserError: the profile has other knobs or fewer than 5 timed rows.
    """
    estimator.check(space=timed.space, machine=estimator.machine)
    rows = timed_rows(timed)
    if rows.sum() < LEAST:
        raise UserError(
            f"{rows.sum()} timed runs are too few to recalibrate from; run `{COMMAND} task.recalibrate=25`, "
            f"or another N of at least {LEAST}."
        )
    affine = estimator.affine.copy()
    for place, name in enumerate(OUTPUTS):
        told, taken = (
            np.log(np.maximum(one[name][rows], LEAST_MS)) for one in (estimator.predict(timed), measured(timed))
        )
        known = np.isfinite(taken)
        if known.any():
            offset, slope = huber_line(told[known], taken[known], spread=float(estimator.log_std[place]))
            affine[place] = offset + slope * affine[place, 0], slope * affine[place, 1]
    moved = replace(estimator, machine=machine, affine=affine)
    if rows.sum() < LEAST_FOR_P95:
        return moved
    overrun = np.log(timed.single_ms[rows] / moved.totals(timed.text_tokens).p95_ms[rows][:, None]).ravel()
    return replace(moved, margin=np.maximum(moved.margin + conformal(overrun), 0.0))


def conformal(misses: Floats) -> float:
    """The offset that 95 % of as many more exchangeable misses (r,) stay below; the largest where r < 19.

    Split conformal prediction (Romano et al. 2019, arXiv:1905.03222, section 2, for one side).
    """
    rank = min(math.ceil((len(misses) + 1) * LEVEL), len(misses))
    return float(np.sort(misses)[rank - 1])


def huber_line(x: Floats, y: Floats, *, spread: float) -> tuple[float, float]:
    """Offset and slope of the line from x to y, both (r,), with the least Huber loss.

    One row more, `spread` from the mean of x, stands for a slope of 1, which keeps the slope sane where x hardly
    varies. Solved by reweighted least squares.
    """
    centre = float(x.mean())
    away, gap = x - centre, y - x
    weights = np.ones_like(x)
    level = tilt = 0.0
    for _ in range(100):
        total, first, second = weights.sum(), weights @ away, weights @ away**2 + spread**2
        top, cross = weights @ gap, weights @ (away * gap)
        determinant = total * second - first**2
        before = level, tilt
        level, tilt = (second * top - first * cross) / determinant, (total * cross - first * top) / determinant
        miss = np.abs(gap - level - tilt * away)
        limit = max(HUBER * 1.4826 * float(np.median(miss)), 1e-9)
        weights = np.minimum(1.0, limit / np.maximum(miss, 1e-12))
        if np.allclose(before, (level, tilt), rtol=0, atol=1e-9):
            break
    return float(level - tilt * centre), float(1 + tilt)


def draw_rows(profile: Profile, count: int, *, seed: int) -> npt.NDArray[np.bool_]:
    """`count` different (sample, configuration) to be timed, (n, c): samples and configurations take turns."""
    n, c = profile.accuracy.shape
    draw = generator(seed, "recalibrate", "rows")
    samples, columns = draw.permutation(n), draw.permutation(c)
    turn = np.arange(min(count, n * c))
    rows = np.zeros((n, c), dtype=bool)
    # one column further with every round over the samples, so that no pair comes twice
    rows[samples[turn % n], columns[(turn + turn // np.lcm(n, c)) % c]] = True
    return rows


def learning_curve(
    estimator: Estimator, timed: Profile, *, machine: str, seed: int, counts: Sequence[int] = COUNTS
) -> dict[int, dict[str, Metric]]:
    """Errors and p95 `coverage` on another machine: by 0 before, then by how many rows recalibrated the estimator.

    Half of the samples of `timed`, which is timed on that machine, gives the rows, the other half the errors.
    """
    order = generator(seed, "recalibrate", "halves").permutation(np.flatnonzero(timed_rows(timed).all(axis=1)))
    source, judge = timed.take(order[::2]), timed.take(order[1::2])
    found = {0: estimator}
    for count in counts:
        found[count] = recalibrate(estimator, only(source, draw_rows(source, count, seed=seed)), machine=machine)
    return {
        count: errors(judge, one.predict(judge), seed=seed) | {"coverage": coverage(one, judge, seed=seed)}
        for count, one in found.items()
    }
