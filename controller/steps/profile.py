"""C7: what every configuration answers on every sample, and what each takes.

Answers come from the shared evaluation (shared.py). Times come from runs of their own: batch of one, every sample in
all configurations one after the other in an order drawn anew, so that a slow minute of the machine hits all alike. All
samples are timed before the next round times them again, so that it hits one round of a sample, which its median
forgets.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from controller import features, plots, table
from controller.adapter import Run
from controller.data import Sample, accuracy
from controller.shared import Chunk, answers
from controller.space import Space
from controller.steps.chunks import CHUNK, chunked
from controller.table import PARTS, Profile
from controller.targets import Target, points, share, target
from controller.timing import PERCENTILES, WARM_UP
from suite.result import Metric, Result
from suite.rng import generator
from suite.stats import Estimate, mean_ci, paired_difference, ratio_ci

if TYPE_CHECKING:
    from controller.steps.bench import Bench

FILE, FEATURES = "profile.parquet", "features.safetensors"
WORTH = {"tier": 0.08, "top_k": 0.03, "blocks": 0.05}
"""Accuracy that each knob, alone, should bring from its least to its most."""
SPEED_UP = 2.5
"""How much faster than the dearest configuration the cheapest should be."""


def run(bench: Bench, folder: Path) -> Result:
    """Profile both splits; writes `profile.parquet` and `features.safetensors`."""
    sizes = bench.sizes
    chosen = {"tune": bench.samples("tune", sizes.tune), "test": bench.samples("test", sizes.test)}
    samples = [sample for split in chosen.values() for sample in split]
    timed = [sample for split, found in chosen.items() for sample in found[: sizes.timed[split]]]
    answered = chunked(
        samples, folder / "answers.jsonl", lambda part: _answers(bench, part), label="answers", size=CHUNK
    )
    _warm_up(bench, timed)
    rounds = [_round(bench, timed, number, folder) for number in range(bench.sizes.rounds)]
    by_id = {sample.id: rows for sample, rows in zip(timed, zip(*rounds, strict=True), strict=True)}
    found = _profile(bench, samples, answered, by_id)
    table.write(folder / FILE, found)
    parts = (samples[start : start + CHUNK] for start in range(0, len(samples), CHUNK))
    features.write(folder / FEATURES, features.join([features.look(_chunk(bench, part)) for part in parts]))
    shared = [row for chunk in answered for row in chunk["answers"]]
    differ = sum(
        one != other
        for sample, row in zip(samples, shared, strict=True)
        for timed_row in by_id.get(sample.id, ())
        for one, other in zip(row, timed_row["answers"], strict=True)
    )
    apart = [
        abs(sum(part) - total) / total
        for rows in rounds
        for row in rows
        for part, total in zip(row["parts"], row["total_ms"], strict=True)
    ]
    result = _result(found, differ, apart, folder, seed=bench.cfg.seed)
    return replace(result, facts=result.facts | {"skipped": [*bench.skipped.values()]})


def read(bench: Bench) -> Profile:
    """The profile of an earlier step."""
    return table.read(bench.folder("profile") / FILE)


def _answers(bench: Bench, samples: Sequence[Sample]) -> dict[str, Any]:
    """Accuracy, answer and length of every configuration on a chunk, each (samples, configurations)."""
    adapter, task = bench.adapter, bench.task
    chunk = _chunk(bench, samples)
    kept = [bench.kept[depth] for depth in adapter.space.depths]
    told: list[list[Any]] = [[] for _ in samples]
    for tier in adapter.space.tiers:
        for top_k in adapter.space.top_ks:
            found = answers(chunk, tier=tier, top_k=top_k, kept=kept, max_new_tokens=task.max_new_tokens)
            for path in kept:
                for row, answer in zip(told, found[path], strict=True):
                    row.append(answer)
    return {
        "text_tokens": [len(adapter.text(sample.question)) for sample in samples],
        "vision_tokens": [chunk.vision(knobs.tier).shape[1] for knobs in adapter.space.configurations],
        "answers": [[answer.text for answer in row] for row in told],
        "output_tokens": [[answer.output_tokens for answer in row] for row in told],
        "accuracy": [
            [accuracy(sample, answer.text, task.vqa) for answer in row]
            for sample, row in zip(samples, told, strict=True)
        ],
    }


def _chunk(bench: Bench, samples: Sequence[Sample]) -> Chunk:
    return Chunk(bench.adapter, [sample.open() for sample in samples], [sample.question for sample in samples])


def _warm_up(bench: Bench, samples: Sequence[Sample]) -> None:
    """The first runs pay for what later ones find ready."""
    for sample in samples[:WARM_UP]:
        run_one(bench, sample, len(bench.adapter.space) - 1)


def _round(bench: Bench, samples: Sequence[Sample], number: int, folder: Path) -> list[dict[str, Any]]:
    """Rows of `_times` of one round over all samples."""
    log, label = folder / f"times_{number + 1}.jsonl", f"times, round {number + 1} of {bench.sizes.rounds}"
    return chunked(samples, log, lambda part: _times(bench, part[0], number), label=label, size=1)


def _times(bench: Bench, sample: Sample, number: int) -> dict[str, Any]:
    """The parts of every configuration's run on one sample in one round, (configurations, parts)."""
    every = range(len(bench.adapter.space))
    order = generator(bench.cfg.seed, sample.id, "order of timing", number).permutation(len(every))
    runs = {int(column): run_one(bench, sample, int(column)) for column in order}
    return {
        "parts": [[runs[column].parts[name] for name in PARTS] for column in every],
        "total_ms": [runs[column].total_ms for column in every],
        "output_tokens": [runs[column].output_tokens for column in every],
        "answers": [runs[column].answer for column in every],
    }


def run_one(bench: Bench, sample: Sample, column: int) -> Run:
    """One sample in one configuration, timed."""
    knobs = bench.adapter.space.configurations[column]
    return bench.adapter.run(
        sample.open(), sample.question, tier=knobs.tier, top_k=knobs.top_k, kept=bench.kept[knobs.blocks],
        max_new_tokens=bench.task.max_new_tokens,
    )  # fmt: skip


def _profile(
    bench: Bench,
    samples: Sequence[Sample],
    answered: Sequence[dict[str, Any]],
    timed: Mapping[str, Sequence[dict[str, Any]]],
) -> Profile:
    """Answers, and rows of `_times` of every round by sample, as one table."""

    def flat(name: str) -> np.ndarray:
        return np.array([row for chunk in answered for row in chunk[name]])

    tokens = flat("output_tokens")
    runs = {name: np.full((*tokens.shape, bench.sizes.rounds), np.nan) for name in PARTS}
    for place, sample in enumerate(samples):
        for number, row in enumerate(timed.get(sample.id, ())):
            for name, values in zip(PARTS, np.transpose(row["parts"]), strict=True):
                runs[name][place, :, number] = values
            tokens[place] = row["output_tokens"]
    return Profile(
        space=bench.adapter.space,
        ids=tuple(sample.id for sample in samples),
        datasets=tuple(sample.dataset for sample in samples),
        splits=tuple(sample.split for sample in samples),
        accuracy=flat("accuracy").astype(float),
        output_tokens=tokens,
        vision_tokens=np.array([chunk["vision_tokens"] for chunk in answered for _ in chunk["accuracy"]]),
        text_tokens=flat("text_tokens"),
        runs=runs,
    )


def _result(found: Profile, differ: int, apart: Sequence[float], folder: Path, *, seed: int) -> Result:
    """What each knob is worth on `test` samples, and what the configurations take."""
    test, clocked = found.split("test"), found.take(found.timed)
    total = clocked.averaged().total_ms
    metrics: dict[str, Metric] = {}
    for name, column in (("cheapest", 0), ("dearest", -1)):
        metrics[f"{name}_accuracy"] = mean_ci(test.accuracy[:, column], seed=seed).metric(unit="1", origin="computed")
        metrics[f"{name}_latency_ms"] = mean_ci(total[:, column], seed=seed).metric(unit="ms")
    ratio = ratio_ci(total[:, -1], total[:, 0], seed=seed)
    metrics["speed_up"] = ratio.metric(unit="1", note="dearest over cheapest configuration")
    (folder / "plots").mkdir(exist_ok=True)
    plots.draw_marginals(
        folder / "plots" / "c7_knobs.svg",
        {
            name: {
                knob: {value: mean_ci(values[:, column], seed=seed) for value, column in _along(test.space, knob)}
                for knob in WORTH
            }
            for name, values in (("accuracy", test.accuracy), ("latency, ms", total))
        },
    )
    targets = [*_worth(test, seed=seed), *_faster(clocked), _aim_of(ratio)]
    facts = {
        "samples": len(found.ids),
        "timed": len(total),
        "rounds": clocked.single_ms.shape[2],
        "answers_that_differ": f"{differ} of {clocked.single_ms.size} timed runs answered unlike the shared evaluation",
        "parts_off_total_percent": {"median": 100 * float(np.median(apart)), "max": 100 * float(np.max(apart))},
        "headline": [*metrics],
    }
    return Result(metrics=metrics, facts=facts | {"targets": targets, "tables": [_table(test, clocked, seed=seed)]})


def _along(space: Space, knob: str) -> list[tuple[str, int]]:
    """Settings of one knob with the others at their dearest, and their columns."""
    place = list(WORTH).index(knob)
    columns = np.arange(len(space)).reshape(space.shape)
    line = np.moveaxis(columns, place, -1)[-1, -1]
    values = (space.tiers, space.top_ks, space.depths)[place]
    return [(str(value), int(column)) for value, column in zip(values, line, strict=True)]


def _worth(test: Profile, *, seed: int) -> Iterator[Target]:
    """Accuracy that each knob brings from its least to its most, paired by sample."""
    for knob, least in WORTH.items():
        (low, first), *_, (high, last) = _along(test.space, knob)
        gap = paired_difference(test.accuracy[:, last], test.accuracy[:, first], seed=seed)
        met = gap.value >= least and gap.ci95 is not None and gap.ci95[0] > 0
        aim = f"at least {100 * least:.0f} points, interval above 0"
        yield target("C7", f"{knob}, {low} to {high}: accuracy", aim, points(gap.value, gap.ci95), met=met)


def _faster(clocked: Profile) -> Iterator[Target]:
    """Whether median latency rises with each knob."""
    for knob in WORTH:
        medians = [float(np.median(clocked.total_ms[:, column])) for _, column in _along(clocked.space, knob)]
        reached = " < ".join(f"{value:.1f}" for value in medians) + " ms"
        yield target("C7", f"{knob}: latency rises", "monotone", reached, met=medians == sorted(medians))


def _aim_of(ratio: Estimate) -> Target:
    assert ratio.value is not None  # times are above 0
    reached = f"{ratio.value:.1f}x" + (f" [{ratio.ci95[0]:.1f}, {ratio.ci95[1]:.1f}]" if ratio.ci95 else "")
    return target("C7", "dearest over cheapest latency", f"at least {SPEED_UP}x", reached, met=ratio.value >= SPEED_UP)


def _table(test: Profile, clocked: Profile, *, seed: int) -> dict[str, Any]:
    """Every configuration: accuracy and latency."""
    rows = []
    for column, knobs in enumerate(test.space.configurations):
        times = clocked.single_ms[:, column].ravel()
        right = mean_ci(test.accuracy[:, column], seed=seed)
        p50, p90, p95, p99 = np.percentile(times, PERCENTILES)
        rows.append(
            [str(knobs), share(right.value or 0.0, right.ci95)]
            + [f"{x:.1f}" for x in (times.mean(), p50, p90, p95, p99)]
        )
    header = [
        "configuration",
        f"accuracy (n = {len(test.ids)})",
        f"mean ms (n = {clocked.single_ms[:, 0].size} runs)",
        "p50",
        "p90",
        "p95",
        "p99",
    ]
    return {"title": "C7: every configuration", "header": header, "rows": rows, "report_only": True}
