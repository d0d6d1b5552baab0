"""Real runs of wandb, read back from its binary log, and of trackio, from its database."""

from __future__ import annotations

import json
import logging
import socket
import sqlite3
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import wandb
from wandb.proto import wandb_internal_pb2

from suite.tracking import JobInfo, TrackerConfig, open_tracker, wandb_run
from suite.tracking.tracker import show_sweep
from suite.tracking.workspace import specification, workspace_of
from tests.runs import Here, TinyPair

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


def one_job(folder: Path, *, k: int, failed: bool = False, name: str = "wandb", samples: int = 2, **more: Any) -> None:
    """Track one small job of a sweep."""
    job = JobInfo(
        task="specdec",
        name="edge_results",
        config={"task": {"k": k}, "hardware": {"name": "local"}, "api_key": "very-secret-value"},
        fingerprint=f"f00d{k}",
        overrides=(f"task.k={k}",),
        sweep="multirun/2026-01-01/10-00-00",
        folder=folder,
    )
    metrics = {
        "bleu": {"value": 0.25, "ci95": [0.125, 0.5], "n": 2, "unit": "1"},
        "ttft_ms": {"value": 4.0, "ci95": None, "n": 1, "unit": "ms"},
        "energy_j": {"value": None, "ci95": None, "n": 0, "unit": "J"},
    }
    record = {"status": "failed" if failed else "completed", "fingerprint": f"f00d{k}", "metrics": metrics}
    rows = [
        {"id": "a", "status": "ok", "error": None, "metrics": {"bleu": 0.25, "ttft_ms": 4}},
        {"id": "b", "status": "failed", "error": "unreadable", "metrics": {"ttft_ms": None}},
    ]
    with open_tracker(TrackerConfig(name=name, dir=str(folder), **more), job=job) as tracker:
        for row in rows[:samples]:
            tracker.log_sample(row)
        if samples == len(rows):
            tracker.finish(record, failed)


@dataclass(kw_only=True)
class Found:
    """What a run's log holds."""

    run: Any
    exits: list[int]
    scalars: dict[str, Any]
    history: list[dict[str, Any]]
    defined: dict[str, Any]
    tables: list[dict[str, Any]]
    files: set[str]


def runs(folder: Path) -> list[Found]:
    """The runs below a folder, the oldest first."""
    wandb.teardown()  # its service writes the log in the background; this waits for it, as the end of a process does
    found = []
    for path in sorted(folder.glob("wandb/offline-run-*/run-*.wandb"), key=lambda path: path.stat().st_ctime_ns):
        assert b"very-secret-value" not in path.read_bytes()
        records = list(read_log(path))
        lines = [record.history.item for record in records if record.WhichOneof("record_type") == "history"]
        metrics = [record.metric for record in records if record.WhichOneof("record_type") == "metric"]
        media = path.parent / "files" / "media"
        found.append(
            Found(
                run=next(record.run for record in records if record.WhichOneof("record_type") == "run"),
                exits=[record.exit.exit_code for record in records if record.WhichOneof("record_type") == "exit"],
                scalars={
                    item.key: json.loads(item.value_json) for r in records for item in r.summary.update if item.key
                },
                history=[{i.key or i.nested_key[0]: json.loads(i.value_json) for i in items} for items in lines],
                defined={metric.name or metric.glob_name: metric for metric in metrics},
                tables=[json.loads(table.read_text()) for table in media.glob("table/*.json")],
                files={file.relative_to(media).parent.as_posix() for file in media.rglob("*.*")},
            )
        )
    return found


def test_offline_runs_read_as_a_sweep(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "plots").mkdir()
    (tmp_path / "plots" / "front.svg").write_text("<svg/>")
    one_job(tmp_path, k=3)
    one_job(tmp_path, k=5, failed=True)
    first, second = runs(tmp_path)
    assert capfd.readouterr() == ("", "")

    assert (first.run.run_group, first.run.job_type) == ("2026-01-01/10-00-00", "specdec/edge")
    assert (first.run.display_name, second.run.display_name) == ("edge k=3", "edge k=5")
    assert list(first.run.tags) == ["specdec", "edge", "local"]
    assert {item.key: json.loads(item.value_json) for item in first.run.config.update}["task"] == {"k": 3}
    assert (first.exits, second.exits) == ([0], [1])
    assert first.scalars["bleu"] == 0.25
    assert (first.scalars["bleu_low"], first.scalars["bleu_high"], first.scalars["bleu_n"]) == (0.125, 0.5, 2)
    assert "energy_j" not in first.scalars
    curve = [(line["sample"], line.get("so_far/bleu"), line.get("so_far/ttft_ms")) for line in first.history[:2]]
    assert curve == [(1, 0.25, 4), (2, None, None)]
    assert first.defined["bleu"].summary.max
    assert first.defined["ttft_ms"].summary.min
    assert first.defined["so_far/*"].step_metric == "sample"
    (table,) = first.tables
    assert table["columns"] == ["id", "status", "error", "bleu", "ttft_ms"]
    assert table["data"] == [["a", "ok", None, 0.25, 4], ["b", "failed", "unreadable", None, None]]
    assert "html/plots" in first.files


def test_a_resumed_job_continues_its_run_and_another_place_has_its_own(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    one_job(here, k=3, samples=1)
    one_job(here, k=3)
    one_job(there, k=3, group="mine")
    (killed, resumed), (other,) = runs(here), runs(there)
    assert killed.run.run_id == resumed.run.run_id != other.run.run_id
    assert (killed.exits, resumed.exits) == ([1], [0])
    assert [line["sample"] for line in resumed.history if "sample" in line] == [1, 2]  # the later file holds it all
    assert other.run.run_group == "mine"


def test_a_sweep_has_a_run_for_the_whole(tmp_path: Path) -> None:
    sweep = tmp_path / "2026-01-01" / "10-00-00"
    write_job(sweep, 0, "edge", cost=1.0, quality=0.5)
    write_job(sweep, 1, "cloud", cost=2.0, quality=0.75)
    show_sweep(TrackerConfig(name="wandb", dir=str(tmp_path)), sweep)
    (found,) = runs(tmp_path)
    assert (found.run.run_group, found.run.job_type) == ("2026-01-01/10-00-00", "sweep")
    (shown,) = found.history
    assert {"jobs", "overview", "tradeoff_table"} <= set(shown)
    assert "images" in found.files
    jobs = found.tables[0]
    assert jobs["data"][1][jobs["columns"].index("quality")] == 0.75
    assert found.scalars["jobs_completed"] == 2


def write_job(sweep: Path, number: int, method: str, **values: float) -> None:
    """A record with the metrics given, as a sweep leaves it."""
    folder = sweep / str(number)
    folder.mkdir(parents=True)
    metrics = {
        name: {
            "value": value,
            "ci95": [value - 0.1, value + 0.1],
            "n": 100,
            "unit": "1",
            "origin": "computed",
            "note": "",
        }
        for name, value in values.items()
    }
    record = {
        **{"schema": 1, "fingerprint": f"{number:064d}", "status": "completed", "task": "specdec", "error": None},
        **{"name": f"{method}_results", "config": {"task": {"method": method}}, "overrides": [f"task.method={method}"]},
        **{"seed": 1, "metrics": metrics, "facts": {}, "samples": {"completed": 100, "failed": 0}, "provenance": {}},
        **{"started_at": "2026-01-01T10:00:00+00:00", "wall_time_s": 1.0, "models": {}, "data_sha256": None},
    }
    (folder / "record.json").write_text(json.dumps(record))


@pytest.fixture
def server_at(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[[int], str]]:
    """Make wandb believe that its server is at a port of this machine; returns the address."""

    def use(port: int) -> str:
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{port}")
        monkeypatch.setenv("NETRC", str(tmp_path / "none"))
        wandb.teardown()  # the settings of an earlier test
        wandb_run.obstacle.cache_clear()
        return f"http://127.0.0.1:{port}"

    yield use
    wandb.teardown()
    wandb_run.obstacle.cache_clear()


def test_without_a_server_runs_are_kept_offline_with_one_sentence(
    server_at: Callable[[int], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # and never listens
        dead = server_at(closed.getsockname()[1])
        with caplog.at_level(logging.WARNING):
            one_job(tmp_path, k=3, mode="online")
            one_job(tmp_path, k=5, mode="online")
    (said,) = [record.getMessage() for record in caplog.records if record.name.startswith("suite")]
    assert said.startswith("wandb cannot be used online, so runs are kept offline (`wandb sync` later): ")
    assert f"{dead} does not answer" in said
    assert [run.exits for run in runs(tmp_path)] == [[0], [0]]


def test_without_a_key_nobody_is_asked(server_at: Callable[[int], str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:  # answers 501
        threading.Thread(target=server.serve_forever, daemon=True).start()
        server_at(server.server_port)
        assert "no key is known" in (wandb_run.obstacle() or "")
        server.shutdown()


def test_a_server_that_hangs_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wandb_run, "ANSWER_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as deaf:  # takes connections, says nothing
        assert not wandb_run.answers(f"http://127.0.0.1:{deaf.getsockname()[1]}")


def test_a_key_is_in_no_file_of_a_launch(here: Here, pair: TinyPair, monkeypatch: pytest.MonkeyPatch) -> None:
    key = "wQ5-not-a-known-shape-81"
    monkeypatch.setenv("SERVER_API_KEY", key)
    typed = here(*pair.arguments, f"+models.edge.api_key={key}", "tracker=wandb")
    assert typed.code == 2
    assert typed.err.startswith("models.edge.api_key holds a secret")
    assert not list(here.folder.iterdir())

    from_environment = ["models.edge.id=/nowhere/${oc.env:SERVER_API_KEY}", "tracker=wandb"]
    failed = here(*pair.arguments, *from_environment)
    assert failed.code == 1
    wandb.teardown()
    files = [path for path in here.folder.rglob("*") if path.is_file()]
    assert {"launch.log", "config.yaml"} <= {path.name for path in files}
    assert "/nowhere/***" in next(path for path in files if path.name == "launch.log").read_text()
    assert [path for path in files if key.encode() in path.read_bytes()] == []
    assert key not in failed.out + failed.err


def test_a_job_finished_before_is_shown_without_computing(here: Here, pair: TinyPair) -> None:
    here.job(*pair.arguments)
    here.job(*pair.arguments, "tracker=wandb")
    (shown,) = runs(here.folder)
    assert (shown.exits, shown.scalars["status"]) == ([0], "completed")
    assert len(shown.tables[0]["data"]) == 6
    assert [line["sample"] for line in shown.history if "sample" in line] == [1, 2, 3, 4, 5, 6]


@pytest.mark.skipif(find_spec("trackio") is None, reason="needs the extra: pip install 'edgebench[trackio]'")
def test_trackio_keeps_curves_results_and_the_table(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    one_job(tmp_path, k=3, name="trackio", samples=1)
    one_job(tmp_path, k=3, name="trackio")
    assert capfd.readouterr() == ("", "")
    (path,) = tmp_path.glob("trackio/*.db")
    assert b"very-secret-value" not in path.read_bytes()
    with closing(sqlite3.connect(path)) as base:
        lines = base.execute("SELECT run_name, metrics FROM metrics ORDER BY step, id").fetchall()
        (config,) = base.execute("SELECT config FROM configs").fetchone()
    assert {name for name, _ in lines} == {"edge k=3 (f00d3)"}
    written = [json.loads(text) for _, text in lines]
    assert [line["sample"] for line in written if "sample" in line] == [1, 2]
    assert written[-1]["bleu"] == 0.25
    assert [row["id"] for row in written[-1]["samples"]["_value"]] == ["a", "b"]
    assert json.loads(config)["task.k"] == 3


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # wandb-workspaces' own
def test_a_workspace_is_built_without_a_server(tmp_path: Path) -> None:
    pytest.importorskip("wandb_workspaces", reason="needs the extra: pip install 'edgebench[workspace]'")
    sweep = tmp_path / "2026-01-01" / "10-00-00"
    write_job(sweep, 0, "edge", cost=1.0, quality=0.5)
    write_job(sweep, 1, "cloud", cost=2.0, quality=0.75)
    view = json.loads(specification(workspace_of(TrackerConfig(name="wandb", entity="me"), sweep)))
    section = view["spec"]["section"]
    results, curves, _ = section["panelBankConfig"]["sections"]
    assert results["panels"][0]["config"] == {
        "chartTitle": "quality over cost",
        "xAxis": "summary:cost",
        "yAxis": "summary:quality",
    }
    assert [panel["config"]["metrics"] for panel in curves["panels"]] == [["so_far/cost"], ["so_far/quality"]]
    assert "config:task.value.method" in json.dumps(results)
    assert "2026-01-01/10-00-00" in json.dumps(section["runSets"])
