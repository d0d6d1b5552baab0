"""A real offline wandb run, read back from its binary log."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import wandb
from wandb.proto import wandb_internal_pb2

from suite.tracking import JobInfo, TrackerConfig, open_tracker

BLOCK_BYTES = 32768
HEADER = b":W&B\xe1\xbe\x00"
RECORD_HEADER = struct.Struct("<IHB")  # checksum, length, type (1 whole, 2 first, 3 middle, 4 last part)


def read_log(path: Path) -> Iterator[Any]:
    """The protobuf records of a .wandb file (LevelDB's log format with wandb's file header)."""
    data = path.read_bytes()
    assert data.startswith(HEADER)
    position, body = len(HEADER), b""
    while position + RECORD_HEADER.size <= len(data):
        left = BLOCK_BYTES - position % BLOCK_BYTES
        if left < RECORD_HEADER.size:
            position += left
            continue
        _, length, kind = RECORD_HEADER.unpack_from(data, position)
        position += RECORD_HEADER.size
        part, position = data[position : position + length], position + length
        body = part if kind in (1, 2) else body + part
        if kind in (1, 4):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(body)
            yield record


def one_job(folder: Path, *, k: int, failed: bool) -> None:
    """Track one small job of a sweep."""
    job = JobInfo(
        task="specdec",
        name="specdec_results",
        config={"task": {"k": k}, "api_key": "very-secret-value"},
        overrides=(f"task.k={k}",),
        sweep="2026-01-01/10-00-00",
        tags=("smoke",),
    )
    record = {
        "status": "failed" if failed else "completed",
        "fingerprint": "f00d",
        "metrics": {
            "bleu": {"value": 0.25, "ci95": [0.125, 0.5]},
            "energy_j": {"value": None, "ci95": None},
        },
    }
    with open_tracker(TrackerConfig(name="wandb", dir=str(folder)), job=job) as tracker:
        tracker.log_sample({"id": "a", "status": "ok", "error": None, "metrics": {"bleu": 0.25, "ttft_ms": 4}})
        tracker.log_sample({"id": "b", "status": "failed", "error": "unreadable", "metrics": {"ttft_ms": None}})
        tracker.finish(record, failed)


def test_offline_runs_share_a_folder_and_are_closed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    one_job(tmp_path, k=3, failed=False)
    one_job(tmp_path, k=5, failed=True)
    wandb.teardown()  # its service writes the log in the background; this waits for it, as the end of a process does
    assert capfd.readouterr() == ("", "")

    found = {}
    for path in sorted(tmp_path.glob("wandb/offline-run-*/run-*.wandb")):
        assert b"very-secret-value" not in path.read_bytes()
        records = list(read_log(path))
        run = next(record.run for record in records if record.WhichOneof("record_type") == "run")
        exits = [record.exit.exit_code for record in records if record.WhichOneof("record_type") == "exit"]
        scalars = {item.key: json.loads(item.value_json) for r in records for item in r.summary.update if item.key}
        tables = list(path.parent.glob("files/media/table/*.json"))
        found[run.display_name] = (run, exits, scalars, [json.loads(table.read_text()) for table in tables])
    assert set(found) == {"specdec_results task.k=3", "specdec_results task.k=5"}

    run, exits, scalars, tables = found["specdec_results task.k=3"]
    assert (run.run_group, run.job_type, list(run.tags)) == ("2026-01-01/10-00-00", "specdec", ["smoke"])
    assert {item.key: json.loads(item.value_json) for item in run.config.update}["task"] == {"k": 3}
    assert exits == [0]
    assert scalars["bleu"] == 0.25
    assert (scalars["bleu_low"], scalars["bleu_high"]) == (0.125, 0.5)
    assert "energy_j" not in scalars
    assert len(tables) == 1
    assert tables[0]["columns"] == ["id", "status", "error", "bleu", "ttft_ms"]
    assert tables[0]["data"] == [["a", "ok", None, 0.25, 4], ["b", "failed", "unreadable", None, None]]
    assert found["specdec_results task.k=5"][1] == [1]
