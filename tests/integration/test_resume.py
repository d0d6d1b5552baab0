"""Killed in the middle: the same command goes on at the next sample and ends with the record of an unbroken run."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import psutil
import pytest

from suite.hardware.limits import worker
from suite.hardware.profile import HardwareConfig
from tests.runs import (
    Here,
    TinyPair,
    read_record,
    read_rows,
    records,
    settled,
    settled_rows,
    start,
    wait_for,
    write_prompts,
)

SAMPLES = 10


def samples_file(folder: Path) -> Path | None:
    return next(folder.glob("outputs/*/*/samples.jsonl"), None)


def written(folder: Path) -> int:
    file = samples_file(folder)
    return file.read_bytes().count(b"\n") if file else 0


@pytest.fixture(scope="module")
def long(pair: TinyPair, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Arguments of a job that takes long enough to be hit."""
    prompts = write_prompts(tmp_path_factory.mktemp("long") / "prompts.jsonl", SAMPLES)
    return [*pair.arguments, f"dataset.path={prompts}", "task.max_new_tokens=300", "task.temperature=1"]


@pytest.mark.parametrize("hardware", ["local", pytest.param("iphone15_cpu", marks=pytest.mark.slow)])
def test_a_killed_job_goes_on_at_the_next_sample(
    here: Here, long: list[str], tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, hardware: str
) -> None:
    arguments = [*long, f"hardware={hardware}", "hardware.dtype=float32"]
    if limited := hardware == "iphone15_cpu":
        arguments += ["hardware.max_cpu_cores=1"]
    running = start(tmp_path, *arguments)
    wait_for(lambda: written(tmp_path) >= 2, running)
    children = psutil.Process(running.pid).children()
    assert bool(children) == limited
    running.kill()
    running.wait()
    psutil.wait_procs(children, timeout=10)  # the kernel ends them with their parent
    done = written(tmp_path)
    assert 2 <= done < SAMPLES
    assert records(tmp_path) == []
    file = samples_file(tmp_path)
    assert file is not None
    kept = file.read_bytes()
    kept = kept[: kept.rindex(b"\n") + 1]
    file.write_bytes(kept + b'{"id": "p')  # and it was hit in the middle of a line

    resumed = here.job(*arguments)
    assert (resumed / "samples.jsonl").read_bytes().startswith(kept)
    assert [row["id"] for row in read_rows(resumed)] == [f"p{i}" for i in range(SAMPLES)]
    said = (resumed / "launch.log").read_text()
    if not limited:  # a child's log lines go to the terminal
        assert f"specdec: {done} of {SAMPLES} samples are done already" in said

    here.folder = tmp_path_factory.mktemp("unbroken")
    unbroken = here.job(*arguments)
    assert settled_rows(resumed) == settled_rows(unbroken)
    assert settled(read_record(resumed)) == settled(read_record(unbroken))
    worker(HardwareConfig(max_cpu_cores=1, max_memory_gb=16.0)).stop()


def test_the_same_job_is_refused_while_it_runs(here: Here, long: list[str], tmp_path: Path) -> None:
    running = start(tmp_path, *long)
    wait_for(lambda: written(tmp_path) >= 1, running)
    running.send_signal(signal.SIGSTOP)  # it is to be alive still when the second one comes
    try:
        answer = here(*long)
        assert answer.code == 1
        assert "This very job is running already, in " in answer.out
        assert "wait for it or stop it first." in answer.out
    finally:
        running.kill()
        running.wait()
    assert here(*long, "dataset.max_samples=2").code == 0  # another job is free


def test_ctrl_c_is_one_line_and_keeps_the_samples(here: Here, long: list[str], tmp_path: Path) -> None:
    running = start(tmp_path, *long)
    wait_for(lambda: written(tmp_path) >= 2, running)
    running.send_signal(signal.SIGINT)
    assert running.wait() == 130
    assert (tmp_path / "err.txt").read_text().strip() == (
        "Interrupted. What was computed is kept; the same command goes on from there."
    )
    file = samples_file(tmp_path)
    assert file is not None
    kept = [json.loads(line) for line in file.read_text().splitlines()]
    assert 2 <= len(kept) < SAMPLES
    assert read_rows(here.job(*long))[: len(kept)] == kept
