"""C6: accuracy with nothing removed and with each block alone removed; importance, and how data sets agree on it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from controller import plots
from controller.data import Sample, accuracy
from controller.importance import Importance, analyse
from controller.shared import Chunk, answers, influence
from controller.steps.chunks import CHUNK, chunked
from controller.targets import Target, target
from suite.records.store import write_atomic
from suite.result import Result
from suite.stats import Estimate

if TYPE_CHECKING:
    from controller.steps.bench import Bench

FILE = "importance.json"
DIAGRAMS = ("diagram", "scienceqa")
"""Data sets about diagrams; the others are visual question answering."""


def run(bench: Bench, folder: Path) -> Result:
    """Measure the blocks on `tune` samples; writes `importance.json`."""
    samples = bench.samples("tune", bench.sizes.importance)
    rows = chunked(samples, folder / "blocks.jsonl", lambda part: _blocks(bench, part), label="blocks", size=CHUNK)
    found = analyse(
        np.concatenate([row["correct"] for row in rows], axis=1),
        np.concatenate([row["influence"] for row in rows]),
        [sample.dataset for sample in samples],
        depths=bench.adapter.space.depths,
        diagrams=DIAGRAMS,
        seed=bench.cfg.seed,
    )
    write_atomic(folder / FILE, json.dumps(found.to_json(), allow_nan=False))
    (folder / "plots").mkdir(exist_ok=True)
    plots.draw_importance(folder / "plots" / "c6_importance.svg", found)
    plots.draw_importance_bars(folder / "plots" / "c6_drop.svg", found)
    return _result(found, [*bench.skipped.values()])


def scores(folder: Path) -> list[float]:
    """What C7 keeps blocks by, of the step in `folder`: the merged accuracy drop of each."""
    stored = json.loads((folder / FILE).read_text(encoding="utf-8"))
    return [float(score) for score in stored["keep_by"]]


def _blocks(bench: Bench, samples: Sequence[Sample]) -> dict[str, Any]:
    """Accuracy (blocks + 1, samples) and influence (samples, blocks) of a chunk, at the dearest tier and top-k."""
    adapter, task = bench.adapter, bench.task
    dearest, every = adapter.space.dearest, range(adapter.depth)
    kept = [tuple(every), *(tuple(block for block in every if block != out) for out in every)]
    chunk = Chunk(adapter, [sample.open() for sample in samples], [sample.question for sample in samples])
    tier, top_k = dearest.tier, dearest.top_k
    said = answers(chunk, tier=tier, top_k=top_k, kept=kept, max_new_tokens=task.max_new_tokens)
    correct = [
        [accuracy(sample, answer.text, task.vqa) for sample, answer in zip(samples, said[path], strict=True)]
        for path in kept
    ]
    return {"correct": correct, "influence": influence(chunk, tier=tier, top_k=top_k).tolist()}


def _result(found: Importance, skipped: list[str]) -> Result:
    """Scores as metrics; the two claims of the reference study as targets, in the words of the verdict."""
    metrics = {
        f"block_{block:02d}": one.metric(unit="1", origin="computed", note="accuracy lost without this block")
        for block, one in enumerate(found.scores["accuracy_drop"]["merged"])
    }
    return Result(
        metrics=metrics,
        facts={
            "verdict": list(found.verdict),
            "skipped": skipped,
            "targets": _targets(found.verdict),
            "tables": [_table(found)],
        },
    )


def _targets(verdict: Sequence[str]) -> list[Target]:
    """The sentences that judge a claim, as `claim: judged; why`."""
    words = {"holds": True, "does not hold": False, "is not shown": False}
    told = []
    for sentence in verdict:
        claim, _, judged = sentence.partition(": ")
        if claim.startswith("VQA"):
            met = next((found for start, found in words.items() if judged.startswith(start)), None)
            told.append(target("C6", claim, "holds", judged, met=met))
    alone = target("C6", "VQA data sets correlate over 0.9", "holds", "needs two VQA data sets", met=None)
    return told or [alone]


def _table(found: Importance) -> dict[str, Any]:
    """Agreement of every two data sets on the accuracy drop, and of the two measures."""
    rows = []
    for one in found.agreements:
        measures = one.measures[0] if len(set(one.measures)) == 1 else " and ".join(one.measures)
        datasets = one.datasets[0] if len(set(one.datasets)) == 1 else " and ".join(one.datasets)
        rows.append([measures, datasets, *map(_told, (one.spearman, one.spearman_rest, one.kendall))])
    header = ["measure", "data sets", "Spearman", "without the dominating block", "Kendall"]
    return {"title": "C6: do data sets agree on the blocks?", "header": header, "rows": rows, "report_only": True}


def _told(one: Estimate) -> str:
    if one.value is None:
        return "-"
    return f"{one.value:.2f}" + (f" [{one.ci95[0]:.2f}, {one.ci95[1]:.2f}]" if one.ci95 else "")
