"""What a job has so far can be looked at while it runs and after it was killed."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from suite.__main__ import main
from tests.runs import TinyPair, read_rows, start, wait_for, write_prompts


def test_a_job_is_shown_while_it_runs_and_after_a_kill(
    pair: TinyPair, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    prompts = write_prompts(tmp_path / "prompts.jsonl", 10)
    running = start(tmp_path, *pair.arguments, f"dataset.path={prompts}", "task.max_new_tokens=500", "task.k=2")

    def folder() -> Path | None:
        return next((path.parent for path in tmp_path.glob("outputs/*/*/samples.jsonl")), None)

    def done() -> int:
        return (found / "samples.jsonl").read_bytes().count(b"\n") if (found := folder()) else 0

    def said(command: str) -> str:
        assert main(["--root", str(tmp_path), command]) == 0
        return capsys.readouterr().out

    wait_for(lambda: done() >= 2, running)
    while_running = said("ls")
    running.kill()
    running.wait()
    job = folder()
    assert job is not None and not (job / "record.json").exists()
    rows = read_rows(job)
    with (job / "samples.jsonl").open("a") as file:
        file.write('{"id": "p9", "sta')  # it was hit in the middle of a line

    assert "running or" in while_running and "task.k=2" in while_running
    assert f"samples so far: {len(rows)}\n" in said("table")
    (cells,) = csv.DictReader((job / "table.csv").read_text().splitlines())
    assert (cells["status"], cells["n"]) == ("running or interrupted", str(len(rows)))
    name = next(iter(rows[0]["metrics"]))
    assert float(cells[name]) == pytest.approx(sum(row["metrics"][name] for row in rows) / len(rows))
    assert cells[f"{name}_unit"] == "" and float(cells[f"{name}_low"]) <= float(cells[name])
    said("report")
    assert "running or was interrupted" in (job / "report.html").read_text()
