"""Trackers: chosen lazily, guarded, and silent about secrets."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import pytest

from suite.errors import ConfigError
from suite.tracking import JobInfo, TrackerConfig, open_tracker
from suite.tracking.tracker import GuardedTracker, scrub

JOB = JobInfo(task="specdec", name="specdec_results", config={"task": {"k": 3}}, overrides=("task.k=3",))
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


def test_title_tells_the_jobs_of_a_sweep_apart() -> None:
    sweep = JobInfo(task="specdec", name="x", config={}, overrides=("task.k=3", "seed=1"), sweep="2026-01-01/10-00-00")
    assert sweep.title == "x task.k=3 seed=1"
    assert JOB.title == "specdec_results"


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ({"name": "wandbb"}, r"tracker.name=wandbb is not one of none, wandb. Did you mean 'wandb'\?"),
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
