"""launch.py as a user types it, in a process of its own or quickly in this one, and what it left on disk."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
LAUNCH = ROOT / "launch.py"
WORDS = ["<unk>", *(f"w{i}" for i in range(39))]
# what two runs of the same job may disagree on: when, how fast, how much memory
MEASURED = {"ms", "tokens/s", "%", "MB", "J"}


@dataclass(frozen=True, kw_only=True)
class TinyPair:
    """Model folders and a prompts file; `arguments` makes launch.py use them."""

    folder: Path

    @property
    def prompts(self) -> Path:
        return self.folder / "prompts.jsonl"

    @property
    def arguments(self) -> list[str]:
        models = [f"models.{name}.source=path" for name in ("edge", "cloud")]
        models += [f"models.{name}.id={self.folder / name}" for name in ("edge", "cloud")]
        exact = ["hardware.dtype=float32", "task.cloud_hardware.dtype=float32", "task.max_new_tokens=24"]
        text = ["models=smollm2", "~models.scorer", "dataset=prompts", f"dataset.path={self.prompts}"]
        return [*text, *models, *exact]


def write_prompts(path: Path, number: int) -> Path:
    rows = []
    for i in range(number):
        prompt = " ".join(WORDS[1 + (7 * i + 3 * j) % 39] for j in range(5 + i % 6))
        rows.append({"id": f"p{i}", "category": "toy", "prompt": prompt, "references": ["w1 w2 w3 w4 w5"]})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def environment() -> dict[str, str]:
    """A wide terminal."""
    return {**os.environ, "COLUMNS": "160"}


def launch(folder: Path, *arguments: str, python: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """`python launch.py ARGUMENTS` typed in `folder`."""
    return subprocess.run(
        [sys.executable, *python, str(LAUNCH), *arguments],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
    )


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """The same, still running; its output goes to out.txt and err.txt (a pipe would be held open by a child)."""
    with (folder / "out.txt").open("w") as out, (folder / "err.txt").open("w") as err:
        return subprocess.Popen(
            [sys.executable, str(LAUNCH), *arguments],
            cwd=folder,
            env=environment(),
            stdout=out,
            stderr=err,
            start_new_session=True,
        )


def wait_for(condition: Callable[[], bool], running: subprocess.Popen[str]) -> None:
    """Wait until `condition` holds; the command must still be running then."""
    deadline = time.monotonic() + 120
    while not condition():
        assert running.poll() is None, "the command ended before it could be interrupted"
        assert time.monotonic() < deadline
        time.sleep(0.002)


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a command left."""

    code: int
    out: str
    err: str


class Here:
    """launch.py in this process, where imports and warm models are paid once. Every call starts with a clean slate."""

    def __init__(self, folder: Path, capture: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.capture, self.monkeypatch = folder, capture, monkeypatch

    def __call__(self, *arguments: str) -> Answer:
        self.capture.readouterr()
        self.monkeypatch.chdir(self.folder)
        self.monkeypatch.setattr(sys, "argv", [str(LAUNCH), *arguments])
        self.monkeypatch.setenv("COLUMNS", "160")
        self.monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
        with pytest.raises(SystemExit) as end:
            runpy.run_path(str(LAUNCH), run_name="__main__")
        out, err = self.capture.readouterr()
        return Answer(code=int(end.value.code or 0), out=out, err=err)

    def job(self, *arguments: str) -> Path:
        """Run one job that must complete, and return its folder."""
        before = set(records(self.folder))
        answer = self(*arguments)
        assert answer.code == 0, answer
        (new,) = set(records(self.folder)) - before
        return new


def records(folder: Path) -> list[Path]:
    """Job folders below `folder` that hold a record, in the order they were made."""
    return sorted((path.parent for path in folder.glob("*/*/**/record.json")), key=lambda path: path.stat().st_mtime_ns)


def read_record(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "record.json").read_text())


def read_rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]


def settled(record: dict[str, Any]) -> dict[str, Any]:
    """A record without what differs between two runs of the same job."""
    kept = {key: value for key, value in record.items() if key not in ("provenance", "started_at", "wall_time_s")}
    kept["metrics"] = {name: metric for name, metric in record["metrics"].items() if metric["unit"] not in MEASURED}
    models = {name: {**facts, "load_s": None} for name, facts in record["facts"].get("models", {}).items()}
    kept["facts"] = {**record["facts"], "models": models}
    return kept


def settled_rows(folder: Path) -> list[dict[str, Any]]:
    """Samples without their times."""
    return [{key: value for key, value in row.items() if key != "metrics"} for row in read_rows(folder)]
