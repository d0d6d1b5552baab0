"""A job that has no record yet, because it runs or was killed, as a provisional record made from what it left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from suite.records.samples import read_samples
from suite.records.shape import check_record
from suite.records.store import OWNER, SCHEMA

RUNNING = "running or interrupted"


def provisional_record(folder: Path) -> dict[str, Any] | None:
    """The record of a job folder so far, without metrics; None where its samples or its configuration are missing.

    Raises:
        UserError: a line of samples.jsonl, the last one aside, is broken.
    """
    samples = folder / "samples.jsonl"
    settings, overrides = folder / ".hydra" / "config.yaml", folder / ".hydra" / "overrides.yaml"
    if not all(path.exists() for path in (samples, folder / OWNER, settings, overrides)):
        return None
    rows = read_samples(samples)
    failed = sum(row["status"] == "failed" for row in rows)
    try:
        record = _record(folder, settings, overrides)
        check_record(record)
    except Exception:  # Hydra was killed while it wrote them, so they may hold anything
        return None
    return {**record, "samples": {"completed": len(rows) - failed, "failed": failed}}


def _record(folder: Path, settings: Path, overrides: Path) -> dict[str, Any]:
    """What the files beside the samples tell."""
    from omegaconf import DictConfig, OmegaConf

    from suite.config import plain  # imports Hydra, which finished jobs do not need

    chosen, typed = OmegaConf.load(settings), OmegaConf.to_container(OmegaConf.load(overrides))
    assert isinstance(chosen, DictConfig) and isinstance(typed, list)
    config = plain(chosen)
    task = config["task"]
    return {
        "schema": SCHEMA,
        "fingerprint": (folder / OWNER).read_text(encoding="utf-8"),
        "status": RUNNING,
        "task": task["name"],
        "name": config["output_name"] or f"{task.get('method', task['name'])}_results",
        "config": config,
        "overrides": [text for text in typed if not text.startswith("tracker")],
        "seed": config["seed"],
        "models": {},
        "data_sha256": None,
        "metrics": {},
        "facts": {},
        "samples": {"completed": 0, "failed": 0},
        "error": None,
        "provenance": {},
        "started_at": datetime.fromtimestamp(settings.stat().st_mtime, UTC).isoformat(timespec="seconds"),
        "wall_time_s": None,
    }


def metrics_so_far(rows: Sequence[Mapping[str, Any]], seed: int) -> dict[str, dict[str, Any]]:
    """Means of the numbers that every sample brings, as metrics of a record; unit and origin are not known yet.

    Args:
        rows: as in samples.jsonl.
        seed: of the bootstrap.
    """
    from suite.stats import metric

    columns: dict[str, list[float | None]] = {}
    for row in rows:
        if row["status"] == "ok":
            for name, value in row.get("metrics", {}).items():
                if value is None or isinstance(value, int | float):
                    columns.setdefault(name, []).append(value)
    found = {}
    for name, values in columns.items():
        told = metric(values, unit="", seed=seed, note="so far: mean over samples").to_json()
        found[name] = {**told, "origin": ""}
    return found
