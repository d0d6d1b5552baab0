"""Fit the latency estimator on the timed rows of a profile: 80 % of the samples teach it, 20 % hold it to account.

What is learned is the median of a row's runs; the p95 is that of single runs. The held-out samples choose the epoch,
say whether the mean or the median of the rows' noise is the better prediction, and give the noise of the p95. Two
things move a run away from what was told before it: the length of its answer, which is known of every sample, timed or
not, and the machine's noise, which is the residual of each held-out run. All pairs of a length and a residual of the
same configuration make the distribution whose 95 % quantile is told: split conformal prediction for each configuration
by itself (Vovk 2012, arXiv:1209.2673, "Mondrian"), if noise does not depend on length.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from controller import fit as training
from controller.estimator import OUTPUTS, Estimator, measured, network, raw_inputs
from controller.schema import TrainConfig
from controller.table import Profile
from suite.errors import UserError
from suite.rng import generator

Floats = npt.NDArray[np.float64]
HELD_OUT = 0.2
LEVEL = 0.95
LEAST_MS = 1e-3
"""A part that the clock could not see counts as a microsecond: 0 has no logarithm."""


@dataclass(frozen=True, kw_only=True)
class Fit:
    """A fitted estimator and how it came about.

    Attributes:
        estimator: of the best epoch.
        curve: of every epoch the `loss` and, on the held-out rows, `explained`: the share of the logarithms' variance.
        corrected: parts for which the mean of the noise predicts the held-out samples better than its median.
    """

    estimator: Estimator
    curve: tuple[training.Row, ...]
    corrected: tuple[str, ...]


def timed_rows(profile: Profile) -> npt.NDArray[np.bool_]:
    """Which (sample, configuration) were timed, (n, c)."""
    return np.isfinite(profile.total_ms)


def split(profile: Profile, *, seed: int) -> tuple[Profile, Profile]:
    """The samples that teach, with all that were not timed, and the fifth of the timed ones that is held out.

    Raises:
        UserError: fewer than 5 samples were timed.
    """
    timed = np.flatnonzero(timed_rows(profile).any(axis=1))
    if len(timed) < 5:
        raise UserError(
            f"{len(timed)} timed samples are too few to fit a latency estimator; set task.timed_samples to at least 5."
        )
    order = generator(seed, "latency estimator", "split").permutation(timed)
    held = np.zeros(len(profile.ids), dtype=bool)
    held[order[: round(HELD_OUT * len(timed))]] = True
    return profile.take(~held), profile.take(held)


def fit(profile: Profile, config: TrainConfig, *, machine: str, seed: int) -> Fit:
    """Fit on whatever rows of the profile have times.

    Raises:
        UserError: too few samples were timed, or the training diverges.
    """
    teach, held = split(profile, seed=seed)
    estimator = _untrained(teach, profile, config.width, machine, seed)
    (inputs, targets), judge = _rows(estimator, teach), _rows(estimator, held)

    def batch(rows: Tensor, _epoch: int) -> Callable[[], Tensor]:
        return lambda: _squares(estimator.parts(inputs[rows]), targets[rows])

    def score(_epoch: int) -> dict[str, float]:
        with torch.inference_mode():
            return {"explained": 1 - _squares(estimator.parts(judge[0]), judge[1]).item()}

    curve = training.fit(
        estimator.parts, batch, score, name="latency", config=config, items=len(inputs), by="explained", seed=seed,
        checkpoint=None,
    ).curve  # fmt: skip
    estimator, corrected = _smeared(estimator, teach, held)
    estimator = replace(estimator, margin=_margin(estimator, profile, held))
    return Fit(estimator=estimator, curve=curve, corrected=corrected)


def _margin(estimator: Estimator, profile: Profile, held: Profile) -> Floats:
    """Logarithm of the p95 of a run's total over the mean that is told before it, (c,)."""
    by_length = np.log(estimator.predict(profile)["total_ms"] / estimator.totals(profile.text_tokens).mean_ms)
    noise = _log(held.single_ms) - np.log(estimator.predict(held)["total_ms"])[..., None]
    everywhere = noise[np.isfinite(noise)]
    margin = np.empty(len(profile.space))
    for column, lengths in enumerate(by_length.T):
        here = noise[:, column][np.isfinite(noise[:, column])]
        # a configuration that was never timed has the noise of all others
        pairs = lengths[:, None] + (here if len(here) else everywhere)
        margin[column] = np.quantile(pairs, LEVEL, method="higher")
    return np.maximum(margin, 0.0)  # a p95 under the mean is none


def _untrained(teach: Profile, profile: Profile, width: int, machine: str, seed: int) -> Estimator:
    """The network as it starts, the normalisation of the rows that teach, and the lengths of all answers."""
    rows = timed_rows(teach)
    vision, output = teach.vision_tokens.astype(float), teach.output_tokens.astype(float)
    raw = raw_inputs(teach.space, vision, teach.text_tokens.astype(float), output)[rows.ravel()]
    logs = [_log(measured(teach)[name][rows]) for name in OUTPUTS]
    if not np.isfinite(logs[3]).any():
        raise UserError("No timed answer has a second token, so decoding has no time; profile longer answers.")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(generator(seed, "latency estimator", "weights").integers(2**63)))
        parts = network(width)
    return Estimator(
        space=teach.space,
        machine=machine,
        parts=parts,
        input_mean=raw.mean(axis=0),
        input_std=_spread(raw.std(axis=0)),
        log_mean=np.array([np.nanmean(ms) for ms in logs]),
        log_std=_spread(np.array([np.nanstd(ms) for ms in logs])),
        affine=np.tile([0.0, 1.0], (len(OUTPUTS), 1)),
        margin=np.zeros(len(teach.space)),
        vision_tokens=profile.vision_tokens.mean(axis=0),
        output_tokens=profile.output_tokens.mean(axis=0),
    )


def _rows(estimator: Estimator, profile: Profile) -> tuple[Tensor, Tensor]:
    """Inputs (r, 6) and normalised logarithms of the parts (r, 4) of the timed rows; NaN where there is no time."""
    rows = timed_rows(profile)
    vision, output = profile.vision_tokens.astype(float), profile.output_tokens.astype(float)
    inputs = estimator.inputs(vision, profile.text_tokens.astype(float), output)[torch.from_numpy(rows.ravel())]
    logs = np.stack([_log(measured(profile)[name][rows]) for name in OUTPUTS], axis=1)
    return inputs, torch.from_numpy((logs - estimator.log_mean) / estimator.log_std).float()


def _smeared(estimator: Estimator, teach: Profile, held: Profile) -> tuple[Estimator, tuple[str, ...]]:
    """The same with each part's prediction moved from the noise's median to its mean, where that misses less.

    The exponential of a mean logarithm is too low for a mean by the mean of the residuals' exponentials (Duan 1983,
    "Smearing estimate", JASA 78). Where a few runs were disturbed, that mean is itself noise: held-out squares decide.
    """
    factors = np.array([_quotients(estimator, teach, name).mean() for name in OUTPUTS])
    moved = _scaled(estimator, factors)
    better = np.array([_miss(moved, held, name) < _miss(estimator, held, name) for name in OUTPUTS])
    chosen = tuple(name for name, is_better in zip(OUTPUTS, better, strict=True) if is_better)
    return _scaled(estimator, np.where(better, factors, 1.0)), chosen


def _scaled(estimator: Estimator, factors: Floats) -> Estimator:
    return replace(estimator, affine=np.stack([np.log(factors), estimator.affine[:, 1]], axis=1))


def _quotients(estimator: Estimator, profile: Profile, name: str) -> Floats:
    quotients = measured(profile)[name] / estimator.predict(profile)[name]
    return quotients[np.isfinite(quotients)]


def _miss(estimator: Estimator, profile: Profile, name: str) -> float:
    """Sum of the squared errors over the rows that have this part."""
    return float(np.nansum((measured(profile)[name] - estimator.predict(profile)[name]) ** 2))


def _squares(told: Tensor, targets: Tensor) -> Tensor:
    """Mean square of what has a target."""
    known = targets.isfinite()
    return (told[known] - targets[known]).square().sum() / known.sum().clamp(min=1)


def _log(ms: Floats) -> Floats:
    logs: Floats = np.log(np.maximum(ms, LEAST_MS))
    return logs


def _spread(std: Floats) -> Floats:
    """Standard deviations to divide by; what never varies is divided by 1."""
    return np.where(std > 1e-9, std, 1.0)
