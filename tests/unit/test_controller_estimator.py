"""The latency estimator on machines whose laws are known."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from scipy.optimize import minimize

from controller import estimator_fit, table
from controller.estimator import OUTPUTS, load, measured, only
from controller.estimator_fit import Fit, fit, split, timed_rows
from controller.estimator_report import (
    by_configuration,
    coverage,
    errors,
    gains,
    linear_regression,
    lookup_means,
    single_runs,
    standing,
    unseen_configurations,
)
from controller.recalibrate import conformal, draw_rows, huber_line, learning_curve, recalibrate
from controller.schema import TrainConfig
from controller.space import Space
from controller.table import Profile
from suite.errors import UserError

SPACE = Space(tiers=("low", "medium", "high"), top_ks=(4, 8, 12), depths=(8, 12, 16))
CONFIG = TrainConfig(lr=3e-3, epochs=30, batch_size=64, width=32)
MACHINE = "a processor, 2 cores"


def profile(
    samples: int,
    seed: int,
    *,
    noise: float = 0.05,
    speed: tuple[float, float, float, float] = (1, 1, 1, 1),
    parallel: float = 1.0,
    spikes: float = 0.0,
    untimed: int = 0,
    rounds: int = 1,
) -> Profile:
    """Runs of a machine whose parts cost what their work does, to the power `parallel`, times a log-normal noise."""
    rng = np.random.default_rng(seed)
    tier, top_k, blocks = np.array(
        [[SPACE.tiers.index(one.tier), one.top_k, one.blocks] for one in SPACE.configurations]
    ).T
    shape, runs = (samples, len(SPACE)), (rounds, samples, len(SPACE))
    vision = np.broadcast_to(np.array([4, 20, 40])[tier], shape)
    text = rng.integers(6, 30, samples)
    output = np.broadcast_to(rng.choice([1, 2, 3, 5], samples, p=[0.1, 0.4, 0.3, 0.2])[:, None], shape)
    work = {
        "vision_encoder_ms": 1 + 0.3 * vision,
        "projector_ms": 0.1 + 0.01 * vision,
        "prefill_ms": blocks * (0.5 + (vision + text[:, None]) * (0.004 + 0.002 * top_k)),
        "decode_ms": blocks * (0.2 + 0.03 * top_k) * np.ones(shape),
    }
    parts = {}
    for (name, ms), factor in zip(work.items(), speed, strict=True):
        disturbed = np.where(rng.random(runs) < spikes, 4.0, 1.0)
        parts[name] = np.moveaxis(factor * ms**parallel * rng.lognormal(0, noise, runs) * disturbed, 0, 2)
        parts[name][:untimed] = np.nan
    parts["decode_ms"] *= output[..., None] - 1.0
    return Profile(
        space=SPACE,
        ids=tuple(f"s{i}" for i in range(samples)),
        datasets=("shapes",) * samples,
        splits=("tune",) * samples,
        accuracy=np.zeros(shape),
        output_tokens=output,
        vision_tokens=vision,
        text_tokens=text,
        runs=parts,
    )


TUNE, TEST = profile(80, seed=1, untimed=20), profile(50, seed=2)


@pytest.fixture(scope="module")
def fitted() -> Fit:
    return fit(TUNE, CONFIG, machine=MACHINE, seed=42)


def value(told: dict[str, object], name: str) -> float:
    found = getattr(told[name], "value", None)
    assert isinstance(found, float)
    return found


def test_every_part_is_predicted_to_its_noise_and_better_than_by_the_baselines(fitted: Fit) -> None:
    told = standing(fitted.estimator, TUNE, TEST, seed=1)
    ours = told["estimator"]
    for part in ("vision_encoder", "projector", "prefill", "decode_per_token", "total"):
        assert value(ours, f"{part}_r2") > 0.9
        assert value(ours, f"{part}_mape") < 6  # of noise alone 4 %: the mean of |log-normal - 1| at 5 %
        low, high = ours[f"{part}_mae"].ci95 or (0.0, 0.0)
        assert low < value(ours, f"{part}_mae") < high and ours[f"{part}_mae"].n in (
            50,
            (TEST.output_tokens[:, 0] > 1).sum(),
        )
    teach, _ = split(TUNE, seed=42)
    for baseline in (lookup_means, linear_regression):  # neither knows that text and knobs multiply
        better = gains(TEST, fitted.estimator.predict(TEST), baseline(teach, TEST), seed=1)
        assert all(better[part].ci95[0] > 0 for part in ("prefill", "total"))  # type: ignore[index]
    assert value(told["linear_regression"], "vision_encoder_r2") > 0.9  # which is linear, so it can
    assert value(told["lookup_mean"], "prefill_mape") > 1.5 * value(ours, "prefill_mape")


def test_curves_fall_and_no_sample_is_on_both_sides(fitted: Fit) -> None:
    curve = fitted.curve
    assert [row["epoch"] for row in curve] == [*range(1, CONFIG.epochs + 1)]
    assert curve[-1]["loss"] < 0.1 * curve[0]["loss"] and max(row["explained"] for row in curve) > 0.9
    teach, held = split(TUNE, seed=42)
    assert not set(teach.ids) & set(held.ids) and len(held.ids) == 12  # a fifth of the 60 that were timed
    assert len(teach.ids) == 68 and timed_rows(held).all()


def test_a_fit_can_be_repeated() -> None:
    small, config = profile(10, seed=1), TrainConfig(lr=3e-3, epochs=2, batch_size=64, width=8)
    first, again, other = (
        fit(small, config, machine=MACHINE, seed=s).estimator.totals(TEST.text_tokens) for s in (1, 1, 2)
    )
    assert (again.mean_ms == first.mean_ms).all() and (again.p95_ms == first.p95_ms).all()
    assert (other.mean_ms != first.mean_ms).any()


def test_a_loss_that_is_no_number_costs_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    small, config = profile(10, seed=1), TrainConfig(lr=3e-3, epochs=4, batch_size=1000, width=8)
    monkeypatch.setattr(estimator_fit, "_squares", lambda told, targets: (told - targets).sum() * float("nan"))
    with pytest.raises(UserError, match=r"the loss of epoch 1 is not a number; lower task.latency.lr=0.003 and run"):
        fit(small, config, machine=MACHINE, seed=1)


def test_medians_teach_and_single_runs_are_kept() -> None:
    """One run in twenty takes four times as long: the medians do not know, p95 and coverage do."""
    noisy, test = (profile(40, seed=seed, spikes=0.05, rounds=5) for seed in (1, 2))
    made = fit(noisy, CONFIG, machine=MACHINE, seed=1).estimator
    predicted = made.predict(test)
    told, single = errors(test, predicted, seed=1), single_runs(test, predicted, seed=1)
    assert value(told, "total_r2") > 0.9 > value(single, "single_run_r2") + 0.1
    assert told["total_r2"].note == "1080 medians of 5 runs" and single["single_run_r2"].note == "5400 runs"
    covered = coverage(made, test, seed=1)
    assert covered.value == pytest.approx(95, abs=3) and covered.note is not None and covered.note.startswith("5400 ")
    assert test.averaged().total_ms.mean() > 1.08 * test.total_ms.mean()
    assert test.averaged().total_ms.mean() == pytest.approx(test.single_ms.mean())


def test_a_profile_comes_back_from_its_file(tmp_path: Path) -> None:
    made = profile(8, seed=1, untimed=3, rounds=2)
    table.write(tmp_path / "profile.parquet", made)
    found = table.read(tmp_path / "profile.parquet")
    assert (found.ids, found.splits, found.space) == (made.ids, made.splits, made.space)
    for name, runs in made.runs.items():
        np.testing.assert_array_equal(found.runs[name], runs)
    assert found.timed.tolist() == [False] * 3 + [True] * 5 and found.runs["prefill_ms"].shape == (8, 27, 2)


def test_totals_are_those_of_the_mean_answer_and_p95_covers(fitted: Fit) -> None:
    totals = fitted.estimator.totals(TEST.text_tokens)
    assert totals.mean_ms.shape == (50, len(SPACE))
    assert totals.mean_ms.mean() == pytest.approx(TEST.total_ms.mean(), rel=0.05)
    assert (totals.p95_ms >= totals.mean_ms).all()
    assert (np.diff(totals.mean_ms[:, [0, 13, 26]], axis=1) > 0).all()  # every knob dearer
    covered = coverage(fitted.estimator, profile(300, seed=3), seed=1)
    assert covered.value == pytest.approx(95, abs=3) and covered.n == 300


def test_conformal_offset_is_the_level_of_so_many() -> None:
    """Of 19 the largest: a 20th is above it once in 20 times."""
    assert conformal(np.arange(19.0)[::-1]) == 18.0
    assert conformal(np.arange(99.0)) == 94.0
    assert conformal(np.arange(5.0)) == 4.0


def test_the_mean_of_skewed_noise_is_predicted_where_the_held_out_samples_agree() -> None:
    """With a noise of 60 % the mean is 20 % over the median; squares are least at the mean."""
    noisy, test = profile(80, seed=1, noise=0.6), profile(200, seed=2, noise=0.6)
    found = fit(noisy, replace(CONFIG, epochs=10), machine=MACHINE, seed=1)
    assert "prefill_ms" in found.corrected
    predicted = found.estimator.predict(test)["prefill_ms"]
    assert predicted.mean() == pytest.approx(test.parts["prefill_ms"].mean(), rel=0.06)


def test_unseen_configurations_are_interpolated() -> None:
    names, told = unseen_configurations(TUNE, TEST, CONFIG, seed=5)
    assert len(names) == 5 and len(set(names)) == 5
    assert value(told, "total_mape") < 10
    assert told["total_mape"].note == "250 medians of 1 runs"  # 5 of 27 configurations on 50 samples
    spoilt = np.where([str(knobs) in names for knobs in SPACE.configurations], 100.0, 1.0)
    tune = replace(TUNE, runs={name: spoilt[:, None] * ms for name, ms in TUNE.runs.items()})
    assert unseen_configurations(tune, TEST, CONFIG, seed=5)[1] == told  # as it never looked at them


def test_errors_in_numbers() -> None:
    times = np.full((2, len(SPACE)), np.nan)
    times[0, :2], times[1, 0] = (10.0, 20.0), 40.0
    parts = dict.fromkeys(("vision_encoder_ms", "projector_ms", "decode_ms"), np.where(np.isnan(times), np.nan, 1.0))
    small = replace(
        profile(2, seed=1),
        runs={name: values[..., None] for name, values in {**parts, "prefill_ms": times}.items()},
        output_tokens=np.ones_like(times, dtype=int),
    )
    predicted = {**measured(small), "prefill_ms": np.where(np.isnan(times), 0.0, 20.0)}
    told = errors(small, predicted, seed=1)
    assert value(told, "prefill_mae") == 10.0
    assert value(told, "prefill_rmse") == pytest.approx(np.sqrt(500 / 3))
    assert value(told, "prefill_mape") == 50.0
    assert value(told, "prefill_r2") == pytest.approx(1 - 500 / (3 * np.var([10, 20, 40])))
    assert (told["prefill_mae"].n, told["prefill_mae"].note, told["prefill_mape"].unit) == (
        2,
        "3 medians of 1 runs",
        "%",
    )
    assert told["decode_per_token_mae"].value is None and told["decode_per_token_mae"].n == 0  # one token each
    rows = by_configuration(small, predicted, seed=1)
    assert (rows[0]["configuration"], rows[0]["n"], rows[0]["prefill_mape"]) == ("low/k4/b8", 2, 75.0)
    assert (rows[1]["prefill_mape"], rows[2]["n"], rows[2]["total_mape"]) == (0.0, 0, None)


def test_what_was_saved_is_loaded(fitted: Fit, tmp_path: Path) -> None:
    fitted.estimator.save(tmp_path)
    found = load(tmp_path)
    found.check(space=SPACE, machine=MACHINE)
    ours, theirs = (one.totals(TEST.text_tokens) for one in (fitted.estimator, found))
    assert (ours.mean_ms == theirs.mean_ms).all() and (ours.p95_ms == theirs.p95_ms).all()
    facts = json.loads((tmp_path / "estimator.json").read_text())
    (tmp_path / "estimator.json").write_text(json.dumps(facts | {"outputs": ["prefill_ms"]}))
    with pytest.raises(UserError, match="predicts other parts; fit it again with"):
        load(tmp_path)
    with pytest.raises(UserError, match="holds no latency estimator that can be read"):
        load(tmp_path / "nowhere")


def test_other_knobs_and_other_hardware_are_refused_with_the_command(fitted: Fit) -> None:
    command = "python launch.py task=controller step=latency task.estimator=FOLDER task.recalibrate=N"
    with pytest.raises(UserError, match="fitted on a processor, 2 cores, not on a GPU") as refused:
        fitted.estimator.check(space=SPACE, machine="a GPU")
    assert command in str(refused.value) and str(refused.value).count(". ") == 0
    with pytest.raises(UserError, match=r"knows the knobs .*\[8, 12, 16\].*, not .*\[8, 12\]") as refused:
        fitted.estimator.check(space=replace(SPACE, depths=(8, 12)), machine=MACHINE)
    assert command in str(refused.value)
    with pytest.raises(UserError, match="knows the knobs"):
        recalibrate(fitted.estimator, replace(TEST, space=replace(SPACE, tiers=("a", "b", "c"))), machine="a GPU")


def test_bad_profiles_cost_a_sentence() -> None:
    with pytest.raises(UserError, match="4 timed samples are too few.*task.timed_samples"):
        fit(profile(9, seed=1, untimed=5), CONFIG, machine=MACHINE, seed=1)
    short = replace(TUNE, output_tokens=np.ones_like(TUNE.output_tokens))
    with pytest.raises(UserError, match="No timed answer has a second token"):
        fit(short, CONFIG, machine=MACHINE, seed=1)


@pytest.mark.parametrize(("speed", "parallel"), [((0.2, 0.3, 0.25, 0.6), 0.7), ((5.0, 2.0, 3.0, 1.5), 1.0)])
def test_25_rows_recalibrate_to_another_machine(
    fitted: Fit, speed: tuple[float, float, float, float], parallel: float
) -> None:
    there = profile(80, seed=9, speed=speed, parallel=parallel, noise=0.08, spikes=0.02)
    told = learning_curve(fitted.estimator, there, machine="another", seed=3, counts=(10, 25, 100))
    assert list(told) == [0, 10, 25, 100]
    assert value(told[0], "total_mape") > 30
    for rows in (25, 100):
        for part in ("vision_encoder", "projector", "prefill", "decode_per_token"):
            assert value(told[rows], f"{part}_mape") < 16  # 6.5 % noise, 2 % of spikes make 1.5, and the map's own
        assert value(told[rows], "total_mape") < 16
    assert value(told[100], "coverage") > 88
    assert value(told[10], "total_mape") < 25


def test_recalibration_names_its_machine_and_needs_rows(fitted: Fit) -> None:
    there = only(TEST, draw_rows(TEST, 25, seed=1))
    moved = recalibrate(fitted.estimator, there, machine="another")
    moved.check(space=SPACE, machine="another")
    with pytest.raises(UserError, match="4 timed runs are too few"):
        recalibrate(moved, only(TEST, draw_rows(TEST, 4, seed=1)), machine="another")
    few = recalibrate(fitted.estimator, only(TEST, draw_rows(TEST, 10, seed=1)), machine="another")
    assert (few.margin == fitted.estimator.margin).all() and (moved.margin != few.margin).any()


def test_a_machine_twice_as_slow_twice_over(fitted: Fit) -> None:
    """Maps compose: recalibrating what was recalibrated."""
    slow = replace(TEST, runs={name: 2 * ms for name, ms in TEST.runs.items()})
    slower = replace(TEST, runs={name: 4 * ms for name, ms in TEST.runs.items()})
    once = recalibrate(fitted.estimator, slow, machine="slow")
    twice = recalibrate(once, slower, machine="slower")
    for name in OUTPUTS:
        assert once.predict(TEST)[name] == pytest.approx(2 * fitted.estimator.predict(TEST)[name], rel=0.06)
        assert twice.predict(TEST)[name] == pytest.approx(2 * once.predict(TEST)[name], rel=0.02)


def test_the_line_has_the_least_huber_loss_and_outliers_do_not_bend_it() -> None:
    rng = np.random.default_rng(5)
    x = rng.normal(1, 1, 60)
    y = 0.5 + 0.8 * x + rng.normal(0, 0.02, 60)
    y[:6] += 3.0
    offset, slope = huber_line(x, y, spread=0.0)
    assert (offset, slope) == pytest.approx((0.5, 0.8), abs=0.02)
    limit = 1.345 * 1.4826 * np.median(abs(y - offset - slope * x))

    def loss(line: npt.NDArray[np.float64]) -> float:
        miss = abs(y - line[0] - line[1] * x)
        return float(np.where(miss < limit, miss**2 / 2, limit * (miss - limit / 2)).sum())

    assert minimize(loss, (0.0, 1.0), method="Nelder-Mead", options={"xatol": 1e-8, "fatol": 1e-12}).x == pytest.approx(
        (offset, slope), abs=1e-4
    )
    offset, slope = huber_line(np.full(10, 2.0), np.full(10, 5.0), spread=1.0)
    assert (offset, slope) == pytest.approx((3.0, 1.0))  # x never varies: the slope stays 1


@pytest.mark.parametrize(("samples", "count"), [(27, 60), (54, 100), (10, 270), (10, 999)])
def test_drawn_rows_are_different_and_spread(samples: int, count: int) -> None:
    rows = draw_rows(profile(samples, seed=1), count, seed=1)
    assert rows.sum() == min(count, samples * 27)
    assert np.ptp(rows.sum(axis=0)) <= 1 and np.ptp(rows.sum(axis=1)) <= 1
