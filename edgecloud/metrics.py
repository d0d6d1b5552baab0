"""From decoded samples to the metrics of a record, each with n, unit and a 95 % interval over samples."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, fields
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from edgecloud import clock
from edgecloud.data import DataSet
from edgecloud.decode import Output
from edgecloud.schema import PromptsConfig, SpecDecConfig, VoicesConfig
from suite.config import RunConfig
from suite.context import RunContext, ok
from suite.errors import UserError
from suite.hardware.meters import Reading
from suite.models.revision import revision
from suite.models.sources import folder
from suite.quality.tokens import prefix_share, rouge_l
from suite.result import Metric, Result
from suite.stats import metric, ratio_ci

T = TypeVar("T")
GREEDY = "greedy.jsonl"
ASKED = ("caption_type", "language", "prompt_type")
HEADLINE: dict[type[PromptsConfig | VoicesConfig], list[str]] = {
    PromptsConfig: ["cloud_call_rate", "agreement", "bertscore_f1", "otps", "ttft_ms", "bleu", "acceptance_rate"],
    VoicesConfig: [
        "cloud_call_rate",
        "cider",
        "bleu",
        "emotion_accuracy",
        "agreement",
        "otps",
        "ttft_ms",
        "acceptance_rate",
    ],
}

# name -> unit, note
PER_SAMPLE = {
    "ttft_ms": ("ms", "time to first token, prefill included"),
    "features_ms": ("ms", "file to log-mel features; part of no other time"),
    "otps": ("tokens/s", "output tokens over total time, first token included"),
    "total_time_ms": ("ms", "one sample, prompt to last token"),
    "loop_overhead_percent": ("%", "time outside the models over time inside them"),
    "cpu_percent": ("%", "of one core"),
    "peak_rss_mb": ("MB", "this process, weights included"),
    "gpu_utilisation_percent": ("%", "all cards, all processes"),
    "gpu_memory_mb": ("MB", "all cards, all processes"),
    "cpu_energy_j": ("J", "processor packages, per sample"),
    "gpu_energy_j": ("J", "all cards, per sample"),
}

# name -> numerator, denominator, note; sums over samples
RATIOS = {
    "cloud_call_rate": ("calls", "emitted", "cloud calls per emitted token"),
    "cloud_token_share": ("verified", "emitted", "share of emitted tokens that the cloud verified or wrote"),
    "acceptance_rate": ("accepted", "tested", "accepted over verified drafted tokens"),
    "acceptance_drafted": ("accepted", "drafted", "accepted over all drafted tokens"),
    "acceptance_length": ("accepted", "rounds", "accepted tokens per cloud round"),
    "correction_rate": ("corrected", "emitted", "share of emitted tokens that are the cloud's corrections"),
}

AGREEMENT = {
    "agreement": "ROUGE-L of tokens with the cloud's own float32 greedy text",
    "same_prefix": "longest common prefix with the cloud's own float32 greedy text",
}

# of task.transport=grpc alone: name -> unit, note
REMOTE = {
    "cloud_wait_ms": ("ms", "per sample, waiting for the cloud beyond its model's own time: network, queue, packing"),
    "cloud_losses": ("samples", "in which the cloud was lost and the edge went on alone"),
    "tokens_after_loss": ("tokens", "decided by the edge alone because the cloud was lost, in all samples"),
}

TIMES = ("ttft_ms", "otps", "total_time_ms")
PRICED = "; calls of the models as long as measured while recording"
COVERAGE = "share of the positions at which a model was consulted that the trace answered"

NAMED = {"emotion_accuracy": "share of captions with a word that names the clip's emotion"}


def per_sample(
    output: Output,
    reading: Reading | None,
    *,
    features_ms: float | None,
    greedy: dict[str, Any] | None,
    named: float | None,
    began_s: float | None,
    waited_s: float | None = None,
    lost_at: int | None = None,
) -> dict[str, float | None]:
    """Flat numbers of one sample, as kept in samples.jsonl.

    Args:
        output: the decoded sample.
        reading: meters over its decoding; None where it was replayed from a trace, all of whose times are modelled.
        features_ms: time to read the clip and compute its features; None for text.
        greedy: the cloud's own greedy answer (a row of greedy.jsonl), where recorded.
        named: whether the caption names the clip's emotion, as 0 or 1; None where that is not known.
        began_s: when its decoding began, by the calendar (Unix time); None where it was replayed.
        waited_s: time it waited for a cloud in another process; None where that is not so.
        lost_at: tokens emitted when that cloud was lost; None: it was not.
    """
    total_s, models_s, n = output.times_s[-1], output.edge_s + output.cloud_s, len(output.tokens)
    c = output.counters
    cloud_alone = output.cloud_s > 0 and c.rounds == c.drafted == 0  # where the oracle peeks, the edge has drafted
    meters = dict.fromkeys(field.name for field in fields(Reading)) if reading is None else asdict(reading)
    return {
        "ttft_ms": 1e3 * output.times_s[0],
        "features_ms": features_ms,
        "otps": n / total_s,
        "total_time_ms": 1e3 * total_s,
        "edge_ms": 1e3 * output.edge_s,
        "cloud_ms": 1e3 * output.cloud_s,
        "loop_overhead_percent": 100 * (total_s - models_s - (waited_s or 0.0)) / models_s if reading else None,
        **{name: meters[name] for name in PER_SAMPLE if name in meters},
        **({} if waited_s is None else _remote(waited_s, lost_at, n)),
        "emitted": n,
        "calls": n if cloud_alone else c.rounds,
        "verified": n if cloud_alone else n - c.skipped if c.rounds else 0,
        "rounds": c.rounds,
        "drafted": c.drafted,
        "tested": c.tested,
        "accepted": c.accepted,
        "corrected": c.corrected,
        **agreement(output, greedy),
        "emotion_accuracy": named,
        "began_s": began_s,
    }


def _remote(waited_s: float, lost_at: int | None, emitted: int) -> dict[str, float | None]:
    """The numbers of `REMOTE` for one sample."""
    lost = lost_at is not None
    after = emitted - lost_at if lost_at is not None else 0
    return {"cloud_wait_ms": 1e3 * waited_s, "cloud_losses": int(lost), "tokens_after_loss": after}


def agreement(output: Output, greedy: dict[str, Any] | None) -> dict[str, float | None]:
    """How much of the cloud's own text an output keeps; texts cut by length compare up to there."""
    if greedy is None:
        return dict.fromkeys(AGREEMENT)
    tokens, reference = output.tokens, list(greedy["tokens"])
    both = min(len(tokens), len(reference))
    if not greedy["ended"]:
        tokens = tokens[:both]
    if output.room == 0:
        reference = reference[:both]
    return {"agreement": _overlap(tuple(tokens), tuple(reference)), "same_prefix": prefix_share(tokens, reference)}


@lru_cache(maxsize=1 << 14)
def _overlap(tokens: tuple[int, ...], reference: tuple[int, ...]) -> float:
    """ROUGE-L; remembered, since the jobs of a sweep mostly write the same texts."""
    return rouge_l(tokens, reference)


def names_emotion(text: str, words: Iterable[str]) -> float | None:
    """1 when one of `words` stands in the text, else 0; None where there are no words to look for.

    Words in Latin letters must stand alone ("happy" is not in "unhappy"); Chinese has no borders to look at.
    """
    patterns = [rf"\b{re.escape(word)}\b" if word.isascii() else re.escape(word) for word in words]
    return float(re.search("|".join(patterns), text, re.IGNORECASE) is not None) if patterns else None


def greedy_references(cfg: RunConfig) -> dict[str, dict[str, Any]]:
    """The cloud's own greedy answers (float32) by sample id, from the file that lies beside the data, if one does.

    Only rows of this very cloud model, and for voices of this caption type, language and prompt type. Written by
    `python -m zoo build` for the embedded data.
    """
    dataset: PromptsConfig | VoicesConfig = cfg.dataset
    file, cloud, asked = dataset.file().parent / GREEDY, cfg.models.get("cloud"), asdict(dataset)
    if cloud is None or not file.exists():
        return {}
    try:
        model = revision(cloud)
    except UserError:  # a cloud that is configured, missing and not used by this method
        return {}
    same = (
        row
        for row in _rows(file, file.stat().st_mtime_ns)
        if all(row[key] == asked.get(key) for key in ASKED if key in row)
    )
    return {row["id"]: row for row in same if row["model_sha256"] == model}


@lru_cache(maxsize=4)
def _rows(file: Path, changed_ns: int) -> list[dict[str, Any]]:
    """Of a JSON lines file as it was at that time; the jobs of a sweep read the same one."""
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def aggregate(cfg: RunConfig, ctx: RunContext, data: DataSet, facts: dict[str, Any]) -> Result:
    """All metrics of the job, from its finished samples.

    Raises:
        UserError: no sample succeeded.
    """
    task: SpecDecConfig = cfg.task
    wanted = {sample.id for sample in data.samples}
    order = {sample.id: i for i, sample in enumerate(data.samples)}  # a run cut short keeps what was done ahead
    done = sorted((row for row in ok(ctx.samples) if row["id"] in wanted), key=lambda row: order[row["id"]])
    if not done:
        first = next(iter(ctx.samples))["error"]
        raise UserError(f"None of the {len(wanted)} samples could be decoded; the first one: {first}")
    rows = [row["metrics"] for row in done]
    crowd = f"; in a batch of {task.batch_size}: others' share is in it" if task.batch_size > 1 else ""
    replayed = task.sweep == "replay"
    metrics = {
        name: metric(
            [row[name] for row in rows],
            unit=unit,
            seed=cfg.seed,
            origin="modelled" if replayed and name in TIMES else "measured",
            note=note + (PRICED if replayed and name in TIMES else crowd),
        )
        for name, (unit, note) in PER_SAMPLE.items()
    }
    metrics["throughput_tokens_s"] = throughput(rows, task.batch_size)
    if task.method in ("specdec", "colocated"):
        facts |= _positions(done)
    for name, (top, bottom, note) in RATIOS.items():
        estimate = ratio_ci([row[top] for row in rows], [row[bottom] for row in rows], seed=cfg.seed)
        metrics[name] = estimate.metric(unit="1", origin="computed", note=note)
    for name, note in (AGREEMENT | (NAMED if data.emotions else {})).items():
        values = [row[name] for row in rows]
        metrics[name] = metric(values, unit="1", seed=cfg.seed, origin="computed", note=note)
    if task.transport == "grpc":
        metrics |= _remote_metrics(rows, cfg.seed)
    if replayed:
        coverage = ratio_ci([row["replayed"] for row in rows], [row["consulted"] for row in rows], seed=cfg.seed)
        metrics["trace_coverage"] = coverage.metric(unit="1", origin="computed", note=COVERAGE)
        live = sum(row["live_calls"] for row in rows)
        note = "calls of a model where the trace ended, in all samples"
        metrics["live_calls"] = Metric(value=live, unit="calls", n=len(rows), origin="computed", note=note)
    headline = HEADLINE[type(cfg.dataset)]
    if "clock" in facts:
        metrics |= clock.metrics(rows, seed=cfg.seed, note=facts["clock"])
        headline = [*headline, *clock.HEADLINE]
    metrics |= quality(cfg, data, done)
    shown = {name: metrics[name] for name in (*headline, *metrics) if name in metrics}
    return Result(metrics=shown, facts={**facts, "headline": headline})


def throughput(rows: Sequence[dict[str, Any]], batch_size: int) -> Metric:
    """Emitted tokens of all samples over the time in which at least one of them was being decoded."""
    busy_s = end_s = 0.0
    replayed = any(row["began_s"] is None for row in rows)  # then one after the other
    for began_s, took_s in sorted((row["began_s"] or 0.0, row["total_time_ms"] / 1e3) for row in rows):
        if replayed:
            began_s = end_s
        busy_s += max(0.0, began_s + took_s - max(end_s, began_s))
        end_s = max(end_s, began_s + took_s)
    return Metric(
        value=sum(row["emitted"] for row in rows) / busy_s,
        unit="tokens/s",
        n=len(rows),
        origin="modelled" if replayed else "measured",
        note=f"all samples together, {batch_size} at a time",
    )


def quality(cfg: RunConfig, data: DataSet, rows: Iterable[dict[str, Any]]) -> dict[str, Metric]:
    """BLEU, CIDEr-D and BERTScore against the written references, over the samples that have any."""
    from suite.quality import score

    scored = [row for row in rows if row["references"]]
    if not scored:
        return {}
    results = score(
        [row["text"] for row in scored],
        [row["references"] for row in scored],
        language=cfg.dataset.language,
        corpus=data.corpus,
        bertscore=_scorer(cfg),
    )
    return renamed({name: result.metric(seed=cfg.seed) for name, result in results.items()})


def renamed(scores: Mapping[str, T]) -> dict[str, T]:
    """Under the reference studies' names: CIDEr-D is `cider`."""
    return {name.replace("cider_d", "cider"): one for name, one in scores.items()}


def scorer_folder(cfg: RunConfig) -> Path | None:
    """The folder of `models.scorer`, fetched if need be; None where none is configured.

    Raises:
        UserError: it cannot be had.
    """
    return folder(cfg.models["scorer"]) if "scorer" in cfg.models else None


def _scorer(cfg: RunConfig) -> Any:
    """BERTScore on `models.scorer`, None where none is configured."""
    from suite.quality import BertScore

    path = scorer_folder(cfg)
    if path is None:
        return None
    layers = json.loads((path / "config.json").read_text())["num_hidden_layers"]
    # embeddings of the layer that bert-score recommends for the 12-layer BERTs; the last of a small encoder
    return BertScore(model_path=path, num_layers=8 if layers == 12 else layers)


def _remote_metrics(rows: Sequence[dict[str, Any]], seed: int) -> dict[str, Metric]:
    """The metrics of `REMOTE`: a mean, and two counts."""
    found = {}
    for name, (unit, note) in REMOTE.items():
        values = [row[name] for row in rows]
        if name == "cloud_wait_ms":
            found[name] = metric(values, unit=unit, seed=seed, note=note)
        else:
            found[name] = Metric(value=sum(values), unit=unit, n=len(values), origin="computed", note=note)
    return found


def _positions(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Acceptance by draft position, and rounds by accepted length, summed over samples."""
    counters = [row["counters"] for row in rows]
    tested = np.sum([c["tested_at"] for c in counters], axis=0)
    accepted = np.sum([c["accepted_at"] for c in counters], axis=0)
    return {
        "acceptance_by_position": [float(a / t) if t else None for a, t in zip(accepted, tested, strict=True)],
        "rounds_by_accepted": np.sum([c["histogram"] for c in counters], axis=0).tolist(),
    }
