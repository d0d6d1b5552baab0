"""Fit the latency estimator on the timed rows of a profile: 80 % of the samples teach it, 20 % hold it to account.

The held-out samples choose the epoch, say whether the mean or the median of the noise is the better prediction, and
set the p95: a quantile regression of the logarithm of the total, moved until it covers 95 % of the held-out rows
(Romano et al. 2019, "Conformalized quantile regression", section 4, arXiv:1905.03222, for one side). Rows of one
sample are not independent, so this is a rule and no guarantee; a test split that took no part says what it covers.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from controller.estimator import OUTPUTS, Estimator, measured, network, raw_inputs
from controller.schema import TrainConfig
from controller.table import Profile
from suite.errors import UserError
from suite.rng import generator

Floats = npt.NDArray[np.float64]
Loss = Callable[[Tensor, Tensor], Tensor]
HELD_OUT = 0.2
LEVEL = 0.95
LEAST_MS = 1e-3
"""A part that the clock could not see counts as a microsecond: 0 has no logarithm."""


@dataclass(frozen=True, kw_only=True)
class Fit:
    """A fitted estimator and how it came about.

    Attributes:
        estimator: of the best epochs.
        curves: network -> loss of every epoch, `train` and `held_out`.
        corrected: parts for which the mean of the noise predicts the held-out samples better than its median.
    """

    estimator: Estimator
    curves: dict[str, dict[str, list[float]]]
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
        UserError: too few samples were timed, or the first epoch already diverges.
    """
    teach, held = split(profile, seed=seed)
    estimator = _untrained(teach, config.width, machine, seed)
    curves = {}
    rows = [_rows(estimator, one) for one in (teach, held)]
    curves["parts"] = _train(estimator.parts, rows, _squares, config, seed, "parts")
    estimator, corrected = _smeared(estimator, teach, held)
    rows = [_margins(estimator, one) for one in (teach, held)]
    curves["margin"] = _train(estimator.margin, rows, _pinball, config, seed, "margin")
    inputs, margins = rows[1]
    with torch.inference_mode():
        misses = (margins - estimator.margin(inputs)).double().numpy().ravel()
    estimator = replace(estimator, margin_offset=conformal(misses))
    return Fit(estimator=estimator, curves=curves, corrected=corrected)


def conformal(misses: Floats) -> float:
    """The offset that 95 % of as many more exchangeable misses (r,) stay below; the largest where r < 19."""
    rank = min(math.ceil((len(misses) + 1) * LEVEL), len(misses))
    return float(np.sort(misses)[rank - 1])


def log_margins(estimator: Estimator, profile: Profile) -> Floats:
    """Logarithm of measured total over the mean that `totals` told before, (n, c); NaN where it was not timed."""
    total: Floats = np.log(np.maximum(profile.total_ms, LEAST_MS))
    return total - np.log(estimator.totals(profile.text_tokens).mean_ms)


def _untrained(teach: Profile, width: int, machine: str, seed: int) -> Estimator:
    """Networks as they start, and the normalisation of the rows that teach."""
    rows = timed_rows(teach)
    vision, output = teach.vision_tokens.astype(float), teach.output_tokens.astype(float)
    raw = raw_inputs(teach.space, vision, teach.text_tokens.astype(float), output)[rows.ravel()]
    logs = [_log(measured(teach)[name][rows]) for name in OUTPUTS]
    if not np.isfinite(logs[3]).any():
        raise UserError("No timed answer has a second token, so decoding has no time; profile longer answers.")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(generator(seed, "latency estimator", "weights").integers(2**63)))
        parts, margin = network(width, len(OUTPUTS)), network(width, 1)
    return Estimator(
        space=teach.space,
        machine=machine,
        parts=parts,
        margin=margin,
        input_mean=raw.mean(axis=0),
        input_std=_spread(raw.std(axis=0)),
        log_mean=np.array([np.nanmean(log) for log in logs]),
        log_std=_spread(np.array([np.nanstd(log) for log in logs])),
        affine=np.tile([0.0, 1.0], (len(OUTPUTS), 1)),
        margin_offset=0.0,
        vision_tokens=vision.mean(axis=0),
        output_tokens=output.mean(axis=0),
    )


def _rows(estimator: Estimator, profile: Profile) -> tuple[Tensor, Tensor]:
    """Inputs (r, 6) and normalised logarithms of the parts (r, 4) of the timed rows; NaN where there is no time."""
    rows = timed_rows(profile)
    vision, output = profile.vision_tokens.astype(float), profile.output_tokens.astype(float)
    inputs = estimator.inputs(vision, profile.text_tokens.astype(float), output)[torch.from_numpy(rows.ravel())]
    logs = np.stack([_log(measured(profile)[name][rows]) for name in OUTPUTS], axis=1)
    return inputs, torch.from_numpy((logs - estimator.log_mean) / estimator.log_std).float()


def _margins(estimator: Estimator, profile: Profile) -> tuple[Tensor, Tensor]:
    """Inputs (r, 6) as a controller knows them, and the logarithm of measured over told total (r, 1)."""
    rows = timed_rows(profile)
    inputs = estimator.decision_inputs(profile.text_tokens.astype(float))[torch.from_numpy(rows.ravel())]
    return inputs, torch.from_numpy(log_margins(estimator, profile)[rows]).float()[:, None]


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


def _train(
    net: nn.Sequential, rows: list[tuple[Tensor, Tensor]], loss: Loss, config: TrainConfig, seed: int, name: str
) -> dict[str, list[float]]:
    """Train in place on the first rows, keep the epoch that is best on the second; losses by epoch."""
    (inputs, targets), (held_inputs, held_targets) = rows
    optimizer = torch.optim.AdamW(net.parameters(), lr=config.lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.epochs)
    curve: dict[str, list[float]] = {"train": [], "held_out": []}
    best, state = math.inf, copy.deepcopy(net.state_dict())
    for epoch in range(config.epochs):
        order = torch.from_numpy(generator(seed, "latency estimator", name, epoch).permutation(len(inputs)))
        total = 0.0
        for batch in order.split(config.batch_size):
            step = loss(net(inputs[batch]), targets[batch])
            optimizer.zero_grad()
            step.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            total += step.item() * len(batch)
        schedule.step()
        with torch.inference_mode():
            held = loss(net(held_inputs), held_targets).item()
        if not math.isfinite(total + held):
            break  # weights that diverged do not come back; the best epoch so far stands
        curve["train"].append(total / len(inputs))
        curve["held_out"].append(held)
        if held < best:
            best, state = held, copy.deepcopy(net.state_dict())
    if not math.isfinite(best):
        raise UserError(f"The latency estimator diverged in its first epoch; lower task.latency.lr={config.lr:g}.")
    net.load_state_dict(state)
    return curve


def _squares(told: Tensor, targets: Tensor) -> Tensor:
    """Mean square of what has a target."""
    known = targets.isfinite()
    return (told[known] - targets[known]).square().sum() / known.sum().clamp(min=1)


def _pinball(told: Tensor, targets: Tensor) -> Tensor:
    """Quantile loss at `LEVEL` (Koenker and Bassett 1978)."""
    miss = targets - told
    return torch.maximum(LEVEL * miss, (LEVEL - 1) * miss).mean()


def _log(ms: Floats) -> Floats:
    logs: Floats = np.log(np.maximum(ms, LEAST_MS))
    return logs


def _spread(std: Floats) -> Floats:
    """Standard deviations to divide by; what never varies is divided by 1."""
    return np.where(std > 1e-9, std, 1.0)
