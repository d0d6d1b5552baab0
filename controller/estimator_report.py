"""How far the latency estimator is off, next to a lookup table and a linear regression fitted on the same samples."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from controller.estimator import INPUTS, OUTPUTS, Estimator, measured, only, raw_inputs, with_total
from controller.estimator_fit import LEAST_MS, fit, split, timed_rows
from controller.schema import TrainConfig
from controller.table import Profile
from suite.result import Metric
from suite.rng import generator
from suite.stats import Difference, Estimate, IndexArray, corpus_ci, mean_ci, paired_difference, ratio_ci

Floats = npt.NDArray[np.float64]
Predicted = Mapping[str, Floats]
"""Each of `OUTPUTS`, and `total_ms`, (n, c) in ms."""
NAMES = (*OUTPUTS, "total_ms")


def errors(profile: Profile, predicted: Predicted, *, seed: int) -> dict[str, Metric]:
    """MAE and RMSE (ms), MAPE (%) and R2 (1) of every part and the total, such as `prefill_mae`.

    Intervals resample samples with all their rows; n counts samples. A part without any time has value None.
    """
    told: dict[str, Metric] = {}
    for name in NAMES:
        sums = _sums(measured(profile)[name], predicted[name])
        for score, (unit, estimate) in _scores(sums, seed).items():
            told[f"{name.removesuffix('_ms')}_{score}"] = estimate.metric(
                unit=unit, note=f"{int(sums[:, 0].sum())} medians of {profile.single_ms.shape[2]} runs"
            )
    return told


def single_runs(profile: Profile, predicted: Predicted, *, seed: int) -> dict[str, Metric]:
    """MAPE (%) and R2 (1) of the total against every single run, its noise included; `single_run_mape`, `_r2`."""
    times = profile.single_ms.reshape(len(profile.ids), -1)
    sums = _sums(times, np.repeat(predicted["total_ms"], profile.single_ms.shape[2], axis=1))
    told = _scores(sums, seed)
    note = f"{int(sums[:, 0].sum())} runs"
    return {f"single_run_{score}": told[score][1].metric(unit=told[score][0], note=note) for score in ("mape", "r2")}


def _sums(times: Floats, predicted: Floats) -> Floats:
    """Of each sample that has times: runs, |miss|, miss^2, |miss| / time, time, time^2; (n, 6)."""
    miss = predicted - times
    terms = (np.ones_like(times), abs(miss), miss**2, abs(miss) / np.maximum(times, LEAST_MS), times, times**2)
    known = np.isfinite(times)
    sums: Floats = np.stack([np.where(known, term, 0.0).sum(axis=1) for term in terms], axis=1)
    return sums[known.any(axis=1)]


def _scores(sums: Floats, seed: int) -> dict[str, tuple[str, Estimate]]:
    if not len(sums) or _variance(sums.sum(axis=0)) <= 0:
        nothing = Estimate(value=None, ci95=None, n=len(sums))
        return {"mae": ("ms", nothing), "rmse": ("ms", nothing), "mape": ("%", nothing), "r2": ("1", nothing)}

    def rmse(index: IndexArray) -> float:
        runs, _, squares, *_ = sums[index].sum(axis=0)
        return float(np.sqrt(squares / runs))

    def r2(index: IndexArray) -> float:
        total = sums[index].sum(axis=0)
        # where every time drawn is the same, there is nothing to explain
        return float(1 - total[2] / _variance(total)) if _variance(total) > 0 else 0.0

    return {
        "mae": ("ms", ratio_ci(sums[:, 1], sums[:, 0], seed=seed)),
        "rmse": ("ms", corpus_ci(rmse, len(sums), seed=seed)),
        "mape": ("%", ratio_ci(100 * sums[:, 3], sums[:, 0], seed=seed)),
        "r2": ("1", corpus_ci(r2, len(sums), seed=seed)),
    }


def _variance(total: Floats) -> float:
    """Squared deviations of the times from their mean, summed over runs."""
    squares = float(total[5])
    deviations = squares - float(total[4] ** 2 / total[0])
    return deviations if deviations > 1e-12 * squares else 0.0


def coverage(estimator: Estimator, profile: Profile, *, seed: int) -> Metric:
    """Share of the timed runs that took no longer than the p95 told before them, in %; n counts samples."""
    runs = np.isfinite(profile.single_ms)
    kept = (profile.single_ms <= estimator.totals(profile.text_tokens).p95_ms[..., None]) & runs
    share = ratio_ci(100.0 * kept.sum(axis=(1, 2)), runs.sum(axis=(1, 2)).astype(float), seed=seed)
    return share.metric(unit="%", note=f"{runs.sum()} runs; the length of the answer not known")


def by_configuration(profile: Profile, predicted: Predicted, *, seed: int) -> list[dict[str, Any]]:
    """MAPE (%) of every part and the total by configuration, the total's with its 95 % interval over samples."""
    quotients = {name: abs(predicted[name] / np.maximum(measured(profile)[name], LEAST_MS) - 1) for name in NAMES}
    told = []
    for column, knobs in enumerate(profile.space.configurations):
        runs = {name: values[np.isfinite(values[:, column]), column] for name, values in quotients.items()}
        row: dict[str, Any] = {"configuration": str(knobs), "n": len(runs["total_ms"])}
        row |= {
            f"{name.removesuffix('_ms')}_mape": 100 * float(v.mean()) if len(v) else None for name, v in runs.items()
        }
        interval = mean_ci(100 * runs["total_ms"], seed=seed).ci95 if row["n"] else None
        told.append(row | dict(zip(("total_mape_low", "total_mape_high"), interval or (None, None), strict=True)))
    return told


def lookup_means(teach: Profile, profile: Profile) -> dict[str, Floats]:
    """Predict each part by its mean in the same configuration; by the mean over all where that was not timed."""
    parts = {}
    for name in OUTPUTS:
        times = measured(teach)[name]
        runs = np.isfinite(times).sum(axis=0)
        means = np.divide(np.nansum(times, axis=0), runs, out=np.full(len(runs), np.nanmean(times)), where=runs > 0)
        parts[name] = np.broadcast_to(means, profile.accuracy.shape)
    return with_total(parts, profile.output_tokens.astype(float))


def linear_regression(teach: Profile, profile: Profile) -> dict[str, Floats]:
    """Predict each part by least squares in ms on the estimator's inputs, each count as it is, not its logarithm."""
    parts = {}
    for name in OUTPUTS:
        times = measured(teach)[name].ravel()
        known = np.isfinite(times)
        weights, *_ = np.linalg.lstsq(_design(teach)[known], times[known], rcond=None)
        parts[name] = (_design(profile) @ weights).reshape(profile.accuracy.shape)
    return with_total(parts, profile.output_tokens.astype(float))


def _design(profile: Profile) -> Floats:
    """Inputs (n x c, 6) and a column of ones."""
    vision, output = profile.vision_tokens.astype(float), profile.output_tokens.astype(float)
    raw = raw_inputs(profile.space, vision, profile.text_tokens.astype(float), output)
    counts = np.array([name != "tier" for name in INPUTS])
    return np.column_stack([np.where(counts, np.expm1(raw), raw), np.ones(len(raw))])


def gains(profile: Profile, ours: Predicted, baseline: Predicted, *, seed: int) -> dict[str, Difference]:
    """Mean absolute error of the baseline minus ours in ms, of every part and the total, paired by sample."""
    told = {}
    for name in NAMES:
        times = measured(profile)[name]
        here = np.isfinite(times).any(axis=1)
        miss = [np.nanmean(abs(one[name] - times)[here], axis=1) for one in (baseline, ours)]
        told[name.removesuffix("_ms")] = paired_difference(miss[0], miss[1], seed=seed)
    return told


def standing(estimator: Estimator, tune: Profile, test: Profile, *, seed: int) -> dict[str, dict[str, Metric]]:
    """Errors on `test` of the estimator and of both baselines, fitted on the samples of `tune` that taught it."""
    teach, _ = split(tune, seed=seed)
    told = {"estimator": estimator.predict(test)}
    told |= {"lookup_mean": lookup_means(teach, test), "linear_regression": linear_regression(teach, test)}
    return {name: errors(test, predicted, seed=seed) for name, predicted in told.items()}


def unseen_configurations(
    tune: Profile, test: Profile, config: TrainConfig, *, seed: int, share: float = 0.2
) -> tuple[tuple[str, ...], dict[str, Metric]]:
    """Errors on configurations that an estimator, fitted for this, never saw: 15 of 75 drawn at random.

    Returns:
        Their names, and `errors` of their rows of `test`.
    """
    c = len(tune.space)
    unseen = np.zeros(c, dtype=bool)
    unseen[generator(seed, "unseen configurations").permutation(c)[: round(share * c)]] = True
    estimator = fit(only(tune, ~unseen & timed_rows(tune)), config, machine="", seed=seed).estimator
    names = tuple(str(knobs) for knobs, out in zip(tune.space.configurations, unseen, strict=True) if out)
    return names, errors(only(test, unseen & timed_rows(test)), estimator.predict(test), seed=seed)
