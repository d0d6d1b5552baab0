"""Trackers: chosen lazily, guarded, and silent about secrets."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from suite.errors import ConfigError, UserError
from suite.tracking import JobInfo, TrackerConfig, open_tracker
from suite.tracking.secrets import MaskingFormatter, mask_files, refuse_secrets, scrub
from suite.tracking.tracker import GuardedTracker
from suite.tracking.view import SoFar

JOB = JobInfo(
    task="specdec",
    name="edge_results",
    config={"task": {"k": 3}, "hardware": {"name": "local"}},
    fingerprint="f00d",
    overrides=("experiment=x", "task.method=edge", "task.k=3", "dataset.path=/a/long/way/to.jsonl", "~models.scorer"),
)
KEY = "wQ5-not-a-known-shape-81"
RECORD = {"status": "completed", "fingerprint": "ab", "metrics": {}}


class FakeBackend:
    """Remembers calls; raises where told to."""

    def __init__(self, *, fail: tuple[str, ...] = ()) -> None:
        self.fail = fail
        self.rows: list[Mapping[str, Any]] = []
        self.closed: list[tuple[Mapping[str, Any] | None, bool]] = []

    def log_sample(self, row: Mapping[str, Any]) -> None:
        if "sample" in self.fail:
            raise RuntimeError("disk full")
        self.rows.append(row)

    def close(self, record: Mapping[str, Any] | None, failed: bool) -> None:
        self.closed.append((record, failed))
        if "close" in self.fail:
            raise RuntimeError("server gone")


def test_no_tracker_takes_everything_and_keeps_nothing() -> None:
    with open_tracker(TrackerConfig(), job=JOB) as tracker:
        tracker.log_sample({"id": "a"})
        tracker.finish(RECORD, failed=False)


def test_finish_closes_once_and_leaving_the_block_does_not_close_again() -> None:
    backend = FakeBackend()
    with GuardedTracker(lambda: backend) as tracker:
        tracker.log_sample({"id": "a"})
        tracker.finish(RECORD, failed=False)
    assert [row["id"] for row in backend.rows] == ["a"]
    assert backend.closed == [(RECORD, False)]


def test_leaving_without_finish_closes_as_failed() -> None:
    backend = FakeBackend()
    with pytest.raises(KeyboardInterrupt), GuardedTracker(lambda: backend):
        raise KeyboardInterrupt
    assert backend.closed == [(None, True)]


def test_a_failing_backend_is_warned_about_once_and_still_closed(caplog: pytest.LogCaptureFixture) -> None:
    backend = FakeBackend(fail=("sample", "close"))
    with caplog.at_level(logging.WARNING), GuardedTracker(lambda: backend) as tracker:
        tracker.log_sample({"id": "a"})
        tracker.log_sample({"id": "b"})
        tracker.finish(RECORD, failed=False)
    assert [record.message for record in caplog.records] == [
        "The tracker failed and the run goes on without it: disk full"
    ]
    assert len(backend.closed) == 1


def test_a_missing_wandb_is_a_warning(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.delitem(sys.modules, "suite.tracking.wandb_run", raising=False)
    monkeypatch.setitem(sys.modules, "wandb", None)  # what Python itself does for a package that cannot be imported
    with caplog.at_level(logging.WARNING), open_tracker(TrackerConfig(name="wandb"), job=JOB) as tracker:
        tracker.finish(RECORD, failed=False)
    assert len(caplog.records) == 1
    assert "wandb" in caplog.text


def test_secrets_are_hidden_and_ordinary_settings_are_not() -> None:
    config = {
        "api_key": "abc",
        "server": {"hf_token": "abc", "url": "https://me:hunter2@host/v1", "max_new_tokens": 50, "token": None},
        "note": ["use hf_abcdefghijklmnop", "plain"],
        "tokens": "text",
        "tokenizer": "bpe",
    }
    assert scrub(config) == {
        "api_key": "***",
        "server": {"hf_token": "***", "url": "https://***@host/v1", "max_new_tokens": 50, "token": None},
        "note": ["use ***", "plain"],
        "tokens": "text",
        "tokenizer": "bpe",
    }


def test_a_secret_of_the_environment_is_hidden_wherever_it_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_API_KEY", KEY)
    monkeypatch.setenv("OTHER_TOKEN", "short")  # would blot out ordinary words
    assert scrub({"error": f"401: key {KEY} is wrong", "note": "short"}) == {
        "error": "401: key *** is wrong",
        "note": "short",
    }


@pytest.mark.parametrize(
    "argument",
    [
        f"dataset.api_key={KEY}",
        f"+models.edge.HF_TOKEN={KEY}",
        "task.server=https://me:hunter2@host/v1",
        "models.edge.id=hf_abcdefghijklmnop",
        f"+models.other={{id: x, api_key: {KEY}}}",
    ],
)
def test_a_typed_secret_is_refused_without_telling_it(argument: str) -> None:
    with pytest.raises(UserError, match="holds a secret") as refused:
        refuse_secrets(["task=argo", argument])
    assert KEY not in str(refused.value)
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize(
    "argument",
    [
        "task.max_new_tokens=50",
        "task.api_key=null",
        "task.api_key=${oc.env:KEY}",
        "+models.x={id: a, source: hub}",
        "-m",
    ],
)
def test_what_is_no_secret_may_be_typed(argument: str) -> None:
    refuse_secrets([argument])


def test_hydras_files_are_masked_and_otherwise_left_alone(tmp_path: Path) -> None:
    plain = "task:\n  max_new_tokens: 50\n  token: null\n  secret: ${oc.env:X}\nnote: 'a: b'\n"
    (tmp_path / "config.yaml").write_text(plain + f"  server_api_key: {KEY}\n")
    (tmp_path / "overrides.yaml").write_text(f"- +task.api_key={KEY}\n")
    mask_files(tmp_path)
    assert (tmp_path / "config.yaml").read_text() == plain + "  server_api_key: '***'\n"
    assert (tmp_path / "overrides.yaml").read_text() == "- +task.api_key='***'\n"


def test_a_log_line_and_its_traceback_are_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_API_KEY", KEY)
    try:
        raise ValueError(f"the server refused {KEY}")
    except ValueError:
        record = logging.LogRecord("x", logging.ERROR, "x.py", 1, "key %s", (KEY,), sys.exc_info())
    text = MaskingFormatter("%(message)s").format(record)
    assert KEY not in text
    assert "the server refused ***" in text


def test_title_tells_the_jobs_of_a_sweep_apart() -> None:
    sweep = replace(JOB, sweep="/far/multirun/2026-01-01/10-00-00")
    assert sweep.title == "edge k=3 path=to.jsonl"
    assert sweep.group == "2026-01-01/10-00-00"
    assert (JOB.title, JOB.group) == ("edge", None)
    assert (JOB.kind, JOB.tags) == ("specdec/edge", ("specdec", "edge", "local"))
    assert len(replace(sweep, overrides=tuple(f"task.a{i}=1234" for i in range(50))).title) == 128


def test_curves_are_means_so_far_and_skip_missing_meters() -> None:
    curve = SoFar()
    assert curve.take({"metrics": {"ms": 4, "energy_j": None}}) == {"sample": 1, "so_far/ms": 4}
    assert curve.take({"error": "unreadable"}) == {"sample": 2}
    assert curve.take({"metrics": {"ms": 8, "energy_j": 1.5}}) == {"sample": 3, "so_far/ms": 6, "so_far/energy_j": 1.5}


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ({"name": "wandbb"}, r"tracker.name=wandbb is not one of none, trackio, wandb. Did you mean 'wandb'\?"),
        ({"mode": "dry"}, "tracker.mode=dry"),
        ({"project": ""}, "tracker.project is empty"),
    ],
)
def test_config_errors_name_the_field(field: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TrackerConfig(**field)  # type: ignore[arg-type]


def test_wandb_is_not_imported_unless_chosen() -> None:
    code = "import sys, suite.tracking; sys.exit(any(m in sys.modules for m in ('wandb', 'torch')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
