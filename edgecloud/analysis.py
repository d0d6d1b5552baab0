"""What a sweep of speculative decoding teaches: which setting to take, how good the gate is, where the speed-up goes.

`analyse` runs when a sweep ends. It reads the records and, where they were replayed, their trace, and leaves
analysis.json and plots/*.svg beside them; the report shows both.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgecloud.schema import GATES, SENDS_ALL
from suite.records.samples import read_samples
from suite.records.store import write_atomic
from suite.report.collect import JobRecord, read_sweep
from suite.stats import Difference, Estimate, IndexArray, corpus_ci, paired_difference

FloatArray = npt.NDArray[np.float64]
QUALITIES = ("cider", "agreement")  # the first that a sweep has for each sample is its quality
CALLS = "cloud_call_rate"
SIGNALS = ("entropy", "confidence", "uncertainty")  # confidence as 1 - the largest probability
NETWORK = {"e2e_uplink_ms": 1, "e2e_question_ms": -1, "e2e_downlink_ms": 1, "e2e_waiting_ms": 1}
UNTRACED = "task.sweep=replay, with a trace that may grow, adds what the gates random and oracle reach, and the AUROC."


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One setting: what it costs and what it gives.

    Attributes:
        job: label of its folder.
        gate: what goes to the cloud.
        threshold: of the gate; None for `always`.
        k: draft length.
        calls: cloud calls per emitted token.
        calls_ci95: its interval, None where there is none, as below.
        quality: see `QUALITIES`.
        quality_ci95: its interval.
        by_sample: the quality of each sample, by its id, for paired differences.
    """

    job: str
    gate: str
    threshold: float | None
    k: int
    calls: float
    calls_ci95: tuple[float, float] | None
    quality: float
    quality_ci95: tuple[float, float] | None
    by_sample: Mapping[str, float] = field(repr=False)

    @property
    def setting(self) -> str:
        """As a user types it."""
        option = GATES[self.gate]
        chosen = f"task.gate={self.gate}" if option is None else f"task.{option}={self.threshold:g}"
        return f"{chosen} task.k={self.k}"

    def to_json(self) -> dict[str, Any]:
        """As analysis.json has it: all but the samples, which stand in the job's folder."""
        return {name: value for name, value in asdict(self).items() if name != "by_sample"}


def analyse(folder: Path) -> None:
    """Write analysis.json and plots/*.svg into a sweep's folder; nothing where no job speculated.

    Raises:
        UserError: a record is broken, or the folder cannot be written.
    """
    from edgecloud.bounds import bounds, traced_whole
    from edgecloud.plots import draw

    jobs = [
        job
        for job in read_sweep(folder).jobs
        if job.record["status"] == "completed" and job.record["config"]["task"].get("method") == "specdec"
    ]
    quality, found = measured(jobs)
    if not found:
        return
    seed = jobs[0].record["seed"]
    best, missing = recommended(found, seed=seed)
    chosen = next(job for job in jobs if job.label == best.job)
    replayed = chosen.record["facts"].get("trace") is not None
    whole = replayed and traced_whole(chosen)
    trace = trace_of(chosen.record)
    calibration = signals(traced(chosen, trace), seed=seed) if whole else {}
    around = bounds(chosen, quality) if whole else []
    beside = [*_told(calibration), *_matched(best, around, quality, seed=seed)] if whole else [UNTRACED]
    speed = [one for one in (speedup(job, trace) for job in jobs) if one is not None]
    content = {
        "quality": quality,
        "summary": [reason(best, missing, found, quality), *_left_out(len(jobs) - len(found), quality), *beside],
        "recommended": best.to_json() | {"below_best": missing and asdict(missing)},
        "front": [one.to_json() for one in front(found)],
        "bounds": [one.to_json() for one in around],
        "auroc": {name: asdict(estimate) for name, estimate in calibration.items()},
        "speedup": speed,
    }
    write_atomic(folder / "analysis.json", json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False))
    draw(folder / "plots", found, front(found), around, best, calibration, speed, quality)


def measured(jobs: Sequence[JobRecord]) -> tuple[str, list[Point]]:
    """The first of `QUALITIES` that jobs have for each sample, and those jobs; none where none has any."""
    for quality in QUALITIES:
        whole = [job for job in jobs if _value(job, CALLS) is not None and _value(job, quality) is not None]
        if found := [one for one in (point(job, quality) for job in whole) if one.by_sample]:
            return quality, found
    return "", []


def by_sample(rows: Iterable[dict[str, Any]], quality: str) -> dict[str, float]:
    """Sample id -> quality, where there is one."""
    values = ((row["id"], row["metrics"].get(quality)) for row in rows if row["status"] == "ok")
    return {name: value for name, value in values if value is not None}


def point(job: JobRecord, quality: str) -> Point:
    """A job as a point."""
    task, metrics = job.record["config"]["task"], job.record["metrics"]
    option = GATES[task["gate"]]
    return Point(
        job=job.label,
        gate=task["gate"],
        threshold=None if option is None else float(task[option]),
        k=task["k"],
        calls=metrics[CALLS]["value"],
        calls_ci95=_pair(metrics[CALLS]["ci95"]),
        quality=metrics[quality]["value"],
        quality_ci95=_pair(metrics[quality]["ci95"]),
        by_sample=by_sample(read_samples(job.folder / "samples.jsonl"), quality),
    )


def front(points: Iterable[Point]) -> list[Point]:
    """Those that no other beats: fewer calls at the same quality, or more quality for the same calls."""
    kept: list[Point] = []
    for one in sorted(points, key=lambda p: (p.calls, -p.quality)):
        if not kept or one.quality > kept[-1].quality:
            kept.append(one)
    return kept


def best_of(points: Iterable[Point]) -> Point:
    """The highest quality; of equals the one with fewer calls."""
    return max(points, key=lambda p: (p.quality, -p.calls))


def recommended(points: Sequence[Point], *, seed: int) -> tuple[Point, Difference | None]:
    """The fewest cloud calls that no paired test tells from the best quality measured.

    Returns:
        The setting, and its quality minus the best one's; None where it is the best.
    """
    best = best_of(points)
    for one in sorted(points, key=lambda p: (p.calls, -p.quality, p.k)):
        if one is best:
            break
        missing = difference(one.by_sample, best.by_sample, seed=seed)
        if missing is not None and missing.ci95 is not None and missing.ci95[1] >= 0:
            return one, missing
    return best, None


def reason(chosen: Point, missing: Difference | None, points: Sequence[Point], quality: str) -> str:
    """Why it is recommended, in one sentence."""
    told = f"Recommended: {chosen.setting}, {chosen.calls:.3f} cloud calls per token"
    if missing is None:
        return (
            f"{told}: the best {quality} of {len(points)} settings, {chosen.quality:.3f}, which no cheaper one reaches."
        )
    best = best_of(points)
    return (
        f"{told}: of {len(points)} settings the cheapest whose {quality} is not clearly below the best, "
        f"{best.quality:.3f} at {best.setting}. It is {signed(missing)} from it, paired over {missing.n} samples."
    )


def difference(a: Mapping[str, float], b: Mapping[str, float], *, seed: int) -> Difference | None:
    """The mean of a minus b over the samples that both have; None where there are none."""
    both = sorted(a.keys() & b.keys())
    return paired_difference([a[name] for name in both], [b[name] for name in both], seed=seed) if both else None


def signed(gap: Difference) -> str:
    """A difference with its interval, as text."""
    return f"{gap.value:+.3f}" + (f" [{gap.ci95[0]:+.3f}, {gap.ci95[1]:+.3f}]" if gap.ci95 else "")


# --- how well does the edge know when it errs ---------------------------------------------------------------------


def signals(samples: Iterable[Any], *, seed: int) -> dict[str, Estimate]:
    """AUROC of each of `SIGNALS` for "the cloud would say another token", over the cloud's own greedy outputs.

    0.5 is a coin, 1 a signal that ranks every token the cloud would refuse above every one it would keep. Intervals
    are over samples (`edgecloud.trace.SampleTrace`), since the tokens of one are not independent.
    """
    rows: list[tuple[int, bool, float, float, float]] = []
    number = 0
    for sample in samples:
        before, node = len(rows), sample.root
        while node is not None and node.proposal is not None and node.answer is not None:
            said, best = node.proposal, node.answer.best
            rows.append((number, said.token != best, said.entropy_nats, 1.0 - said.confidence, said.uncertainty))
            node = node.children.get(best)
        number += len(rows) > before
    if not rows:
        return {}
    owner, refused, *columns = (np.array(column) for column in zip(*rows, strict=True))
    if refused.all() or not refused.any():
        return {}
    return {
        name: auroc(values.astype(np.float64), refused.astype(bool), owner, seed=seed)
        for name, values in zip(SIGNALS, columns, strict=True)
    }


def auroc(scores: FloatArray, positive: npt.NDArray[np.bool_], owner: IndexArray, *, seed: int) -> Estimate:
    """Area under the ROC curve: the chance that a positive scores above a negative, ties counting half.

    Mann and Whitney's U over the number of pairs (Hanley and McNeil 1982, Radiology 143), with a bootstrap interval
    that resamples owners. A resample without positives or negatives says nothing and counts as 0.5.

    Args:
        scores: (n,).
        positive: (n,), both kinds present.
        owner: (n,), number of the sample each belongs to, from 0.
        seed: of the bootstrap.
    """
    order = np.argsort(scores, kind="stable")
    scores, positive, owner = scores[order], positive[order], owner[order]
    starts = np.flatnonzero(np.r_[True, scores[1:] != scores[:-1]])
    samples = int(owner.max()) + 1

    def area(index: IndexArray) -> float:
        weight = np.bincount(index, minlength=samples)[owner].astype(np.float64)
        ups = np.add.reduceat(np.where(positive, weight, 0.0), starts)
        downs = np.add.reduceat(np.where(positive, 0.0, weight), starts)
        pairs = ups.sum() * downs.sum()
        below = downs.cumsum() - downs / 2
        return float((ups * below).sum() / pairs) if pairs else 0.5

    return corpus_ci(area, samples, seed=seed)


# --- where the speed-up goes ----------------------------------------------------------------------------------------


def expected_tokens(acceptance: float, k: int) -> float:
    """Tokens a round yields, (1 - a^(k+1)) / (1 - a), if each drafted token stands with probability a by itself.

    Leviathan et al. 2023, arXiv:2211.17192, equation 1.
    """
    return float(k + 1) if acceptance == 1.0 else (1 - acceptance ** (k + 1)) / (1 - acceptance)


def speedup(job: JobRecord, trace: Any) -> dict[str, Any] | None:
    """Analytic against measured tokens a round, and what keeps the speed-up below them.

    If drafting and the network were free and verifying a block took as long as one token of the cloud alone
    (`step_ms`), the speed-up over the cloud alone would be the tokens a round. `gap` says what each takes from that,
    one after the other: `acceptance` that is not independent from token to token, or drafts cut short by the end of an
    output; then `verify`, `draft`, `network`. They add up to `tokens_analytic` minus `speedup`. The first round of
    each sample, which reads the prompt, is left out of the models' times, and the prompt's upload of the network's.

    Args:
        job: of a sweep; the result is None where it is gated, for its rounds are not those of the equation.
        trace: it was replayed from; None: no times are known, only tokens. Nor are they where drafting overlaps with
            the network, or rooflines price the models: what a round waits for is then not what the trace timed.
    """
    task, samples = job.record["config"]["task"], job.folder / "samples.jsonl"
    option = GATES[task["gate"]]
    gated = option is not None and float(task[option]) != SENDS_ALL[task["gate"]]
    if gated or task["draft_schedule"] != "fixed" or task["draft_stop"] != "none":
        return None
    rows = [row for row in read_samples(samples) if row["status"] == "ok"]
    names = ("rounds", "tested", "accepted", "corrected", "bonus")
    total = {name: sum(row["counters"][name] for row in rows) for name in names}
    if not total["tested"]:
        return None
    acceptance = total["accepted"] / total["tested"]
    tokens = (total["accepted"] + total["corrected"] + total["bonus"]) / total["rounds"]
    found = {
        "job": job.label,
        "k": task["k"],
        "acceptance": acceptance,
        "tokens_analytic": expected_tokens(acceptance, task["k"]),
        "tokens": tokens,
    }
    later = total["rounds"] - len(rows)
    if trace is None or later <= 0 or task["overlap"] or task["clock"] == "modelled":
        return found
    known = [(row["metrics"], trace.samples[row["id"]].first) for row in rows]
    parts = {
        "verify_ms": sum(m["cloud_ms"] - 1e3 * first["cloud"][1] for m, first in known) / later,
        "draft_ms": sum(m["edge_ms"] - 1e3 * first["edge"][1] for m, first in known) / later,
        "network_ms": sum(m.get(name, 0.0) * sign for m, _ in known for name, sign in NETWORK.items())
        / total["rounds"],
    }
    return found | explained(found["tokens_analytic"], tokens, 1e3 * trace.costs["cloud"].seconds(1), parts)


def explained(analytic: float, tokens: float, step_ms: float, parts: dict[str, float]) -> dict[str, Any]:
    """The speed-up of rounds of `tokens`, and the gap to `analytic`; see `speedup`."""
    gap, at, spent_ms = {"acceptance": analytic - tokens}, tokens, 0.0
    for name, part_ms in parts.items():
        spent_ms += part_ms
        slower = tokens * step_ms / spent_ms if spent_ms else at
        gap[name.removesuffix("_ms")] = at - slower
        at = slower
    return {"step_ms": step_ms, **parts, "speedup": at, "gap": gap}


# --- helpers --------------------------------------------------------------------------------------------------------


def trace_of(record: dict[str, Any]) -> Any:
    """The trace that a record was replayed from; None where it was not, or the file is gone."""
    from edgecloud.trace import read_trace

    found = record["facts"].get("trace")
    return None if found is None else read_trace(Path(found["file"]))


def traced(job: JobRecord, trace: Any) -> list[Any]:
    """The traces of the samples that a job decoded."""
    return [trace.samples[row["id"]] for row in read_samples(job.folder / "samples.jsonl") if row["status"] == "ok"]


def _left_out(jobs: int, quality: str) -> list[str]:
    return (
        [f"Left out: {jobs} of the jobs, without a {quality} of each sample or without calls per token."]
        if jobs
        else []
    )


def _told(calibration: dict[str, Estimate]) -> list[str]:
    if not calibration:
        return []
    parts = [
        f"{name} {one.value:.3f}" + (f" [{one.ci95[0]:.3f}, {one.ci95[1]:.3f}]" if one.ci95 else "")
        for name, one in calibration.items()
    ]
    return [f"AUROC of the edge's signals for a token the cloud would refuse: {', '.join(parts)}."]


def _matched(best: Point, around: Sequence[Point], quality: str, *, seed: int) -> list[str]:
    """What the bounds reach at the recommended setting's calls, between two of their replayed points."""
    parts = []
    for gate in ("random", "oracle"):
        points = sorted((one for one in around if one.gate == gate), key=lambda p: p.calls)
        for low, high in pairwise(points):
            if low.calls <= best.calls <= high.calls:
                part = (best.calls - low.calls) / (high.calls - low.calls) if high.calls > low.calls else 0.0
                both = low.by_sample.keys() & high.by_sample.keys()
                mixed = {name: (1 - part) * low.by_sample[name] + part * high.by_sample[name] for name in both}
                gap = difference(best.by_sample, mixed, seed=seed)
                if gap is not None:
                    parts.append(f"{signed(gap)} from {gate}'s {best.quality - gap.value:.3f}")
                break
    if not parts:
        return []
    return [
        f"At {best.calls:.3f} calls per token, its {quality} of {best.quality:.3f} is, by paired differences, "
        f"{' and '.join(parts)}."
    ]


def _value(job: JobRecord, name: str) -> float | None:
    metric = job.record["metrics"].get(name)
    return None if metric is None else metric["value"]


def _pair(ci95: list[float] | None) -> tuple[float, float] | None:
    return None if ci95 is None else (ci95[0], ci95[1])
