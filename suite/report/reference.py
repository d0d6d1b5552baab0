"""The reference studies' JSON as a view of a record: their names and units, so that their readers keep working.

Only the captioning study has names of its own for its metrics; every other job keeps those of its record.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any


def reference_view(record: Mapping[str, Any], samples: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """`experiment_config`, `metrics` and `detailed_results` of one job.

    Args:
        record: as in record.json.
        samples: as in samples.jsonl; each becomes one row of `detailed_results`, its metrics beside its other fields.

    Returns:
        A JSON-ready dict. Of a captioning job (one with the metric `otps`) times are in seconds, memory in MB, rates as
        in the record, None where the record has none; of any other, `metrics` is name -> value, units as in the record.
    """
    metrics = record["metrics"]
    return {
        "experiment_config": record["config"],
        "metrics": _captioning(metrics) if "otps" in metrics else {name: one["value"] for name, one in metrics.items()},
        "detailed_results": [_row(sample) for sample in samples],
    }


def _captioning(metrics: Mapping[str, Any]) -> dict[str, Any]:

    def value(name: str) -> float | None:
        metric = metrics.get(name)
        return None if metric is None else metric["value"]

    def seconds(name_ms: str) -> float | None:
        milliseconds = value(name_ms)
        return None if milliseconds is None else milliseconds / 1000

    return {
        "avg_bleu": value("bleu"),
        "avg_cider": value("cider"),
        "bertscore": {part: value(f"bertscore_{part}") for part in ("precision", "recall", "f1")},
        "latency_metrics": {
            "ttft_mean_s": seconds("ttft_ms"),
            "otps_mean": value("otps"),
            "total_time_s": seconds("total_time_ms"),
            "cpu_percent_mean": value("cpu_percent"),
            "memory_mb": value("peak_rss_mb"),
            "gpu_utilisation_mean": value("gpu_utilisation_percent"),
            "gpu_memory_mb": value("gpu_memory_mb"),
        },
        "speculative_decoding_metrics": {
            name: value(name) for name in ("cloud_call_rate", "acceptance_rate", "correction_rate")
        },
    }


def _row(sample: Mapping[str, Any]) -> dict[str, Any]:
    fields = {name: value for name, value in sample.items() if name != "metrics"}
    return {**fields, **sample.get("metrics", {})}
