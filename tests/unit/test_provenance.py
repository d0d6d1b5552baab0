"""Provenance: enough to run a job again, nothing that must not be told."""

from __future__ import annotations

import json
import subprocess
from importlib import metadata
from pathlib import Path

import pytest

from suite.records.provenance import command_line, git_state, packages, provenance


@pytest.mark.parametrize(
    ("typed", "kept"),
    [
        ("task.max_new_tokens=24", "task.max_new_tokens=24"),  # no secret, though the word is in it
        ("dataset.path=tokens=x.jsonl", "dataset.path=tokens=x.jsonl"),
        ("experiment=smoke", "experiment=smoke"),
        ("-m", "-m"),
        ("tracker.api_key=0123456789", "tracker.api_key=***"),
        ("+tracker.token=0123456789", "+tracker.token=***"),
        ("+PASSWORD=x", "+PASSWORD=***"),
        ("models.edge.id=hf_0123456789abcdef", "models.edge.id=***"),
        ("hf_0123456789abcdef", "***"),
        ("tracker.entity=https://me:pass@host/x", "tracker.entity=https://***@host/x"),
    ],
)
def test_the_command_is_kept_as_typed_but_for_secrets(typed: str, kept: str) -> None:
    assert command_line(["launch.py", typed]) == ["launch.py", kept]


def test_git_state(tmp_path: Path) -> None:
    assert git_state(tmp_path) == {"git_sha": None, "git_dirty": None}
    checkout = tmp_path / "checkout"
    git = ["git", "-C", str(checkout), "-c", "user.name=x", "-c", "user.email=x@example.org"]
    subprocess.run(["git", "init", "-q", str(checkout)], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "first"], check=True)
    sha = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    assert git_state(checkout) == {"git_sha": sha, "git_dirty": False}
    (checkout / "new.py").touch()
    git_state.cache_clear()
    assert git_state(checkout) == {"git_sha": sha, "git_dirty": True}


def test_it_says_what_ran_where(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["/home/someone/launch.py", "task.k=5", "+token=x"])
    found = provenance()
    assert found["command"] == ["launch.py", "task.k=5", "+token=***"]
    assert found["packages"] == packages() and found["packages"]["torch"] == metadata.version("torch")
    assert set(found) == {"git_sha", "git_dirty", "packages", "python", "machine", "command"}
    assert json.loads(json.dumps(found)) == found
