"""The two gates that bound any other: `random` knows nothing, `oracle` what the cloud will say.

A bound of quality they are as far as the cloud is right: where its word is the worse one, a gate may pass the oracle.

Both are replayed from the trace of a job, with everything but the gate as it was, at a few rates and thresholds. What
the trace does not hold yet the models add, as for any replay.
"""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, TypeVar, get_type_hints

from edgecloud.analysis import CALLS, Point, by_sample
from edgecloud.network import NetworkConfig
from edgecloud.schema import GATES, PromptsConfig, SpecDecConfig, VoicesConfig
from suite.config import RunConfig
from suite.context import RunContext
from suite.errors import UserError
from suite.hardware.profile import HardwareConfig
from suite.models.plan import GpuModeConfig
from suite.models.spec import ModelConfig
from suite.records import SampleLog
from suite.report.collect import JobRecord
from suite.tracking import JobInfo, TrackerConfig, open_tracker

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

ORACLE_NATS = (3.0, 1.5, 0.7, 0.3)
C = TypeVar("C", bound="DataclassInstance")


def bounds(job: JobRecord, quality: str) -> list[Point]:
    """Points of both gates about the call rate of `job`, replayed with its other options.

    Args:
        job: a replayed job.
        quality: name of the metric.

    Raises:
        UserError: the trace ends, and the models cannot be had.
    """
    config = config_of(job.record)
    found = []
    calls = job.record["metrics"][CALLS]["value"]
    # a lot for each token at the rate of the job's calls makes about as many calls
    rates = sorted({min(1.0, max(0.005, factor * calls)) for factor in (0.5, 1.0, 2.0)})
    for gate, thresholds in (("random", rates), ("oracle", ORACLE_NATS)):
        option = GATES[gate]
        assert option is not None
        for threshold in thresholds:
            task = replace(config.task, gate=gate, **{option: threshold})
            metrics, rows = _measured(replace(config, task=task))
            called, good = metrics[CALLS], metrics[quality]
            if called.value is not None and good.value is not None:
                found.append(
                    Point(
                        job="",
                        gate=gate,
                        threshold=threshold,
                        k=task.k,
                        calls=called.value,
                        calls_ci95=called.ci95,
                        quality=good.value,
                        quality_ci95=good.ci95,
                        by_sample=by_sample(rows, quality),
                    )
                )
    return found


def traced_whole(job: JobRecord) -> bool:
    """Play the cloud's own outputs for the samples of `job`, so that its trace holds them to their ends.

    A gated job asks the cloud about the tokens that the edge is unsure of; figures on those alone would be biased.

    Returns:
        Whether the trace holds all: not if it ends and may not grow (`task.on_trace_end=refuse`).
    """
    config = config_of(job.record)
    task = replace(config.task, gate="always", verification="lossless", draft_stop="none")
    try:
        metrics, _ = _measured(replace(config, task=task))
        return bool(metrics[CALLS].n == job.record["metrics"][CALLS]["n"])
    except UserError:  # no sample could be played
        return False


def config_of(record: dict[str, Any]) -> RunConfig:
    """The typed configuration a record was made with, without its tracker."""
    raw = record["config"]
    dataset: type[PromptsConfig] | type[VoicesConfig]
    dataset = VoicesConfig if raw["dataset"]["name"] == "voices" else PromptsConfig
    return RunConfig(
        task=_typed(SpecDecConfig, raw["task"]),
        models={name: _typed(ModelConfig, model) for name, model in raw["models"].items()},
        dataset=_typed(dataset, raw["dataset"]),
        hardware=_typed(HardwareConfig, raw["hardware"]),
        gpu_mode=_typed(GpuModeConfig, raw["gpu_mode"]),
        tracker=TrackerConfig(),
        seed=raw["seed"],
    )


def _typed(cls: type[C], raw: dict[str, Any]) -> C:
    """A configuration dataclass from plain values; a record holds an infinite float as text."""
    hints = get_type_hints(cls, localns={"NetworkConfig": NetworkConfig, "HardwareConfig": HardwareConfig})
    values = {}
    for field in fields(cls):
        value, kind = raw[field.name], hints[field.name]
        if isinstance(value, dict) and isinstance(kind, type) and is_dataclass(kind):
            value = _typed(kind, value)
        values[field.name] = float(value) if kind is float else value
    return cls(**values)


def _measured(config: RunConfig) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The metrics and the samples of a job that leaves no folder."""
    from edgecloud.task import run

    info = JobInfo(task=config.task.name, name="bound", fingerprint="", config={})
    with TemporaryDirectory() as name, open_tracker(config.tracker, job=info) as tracker:
        samples = SampleLog(Path(name) / "samples.jsonl")
        try:
            result = run(config, RunContext(config=config, folder=Path(name), samples=samples, tracker=tracker))
        finally:
            samples.close()
        tracker.finish({}, failed=False)
        return dict(result.metrics), list(samples)
