"""Runs that are killed, meet each other, lose their server or are looked at: nothing is asked twice, nothing lost."""

from __future__ import annotations

import importlib.util
import re
import shutil
import signal
import sqlite3
import subprocess
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from suite.__main__ import main
from tests.argo_runs import (
    STORE,
    Toy,
    answers,
    cells,
    free_port,
    made,
    make_toy,
    started,
    transformers_serve,
    unlike_times,
)
from tests.runs import MEASURED, Here, read_record, read_rows, records, wait_for

GRAPHS = ["task=argo_graphs", "task.cost_ratios=[1,2,5,10]"]
SERVES = importlib.util.find_spec("fastapi") is not None and importlib.util.find_spec("uvicorn") is not None
needs_a_server = pytest.mark.skipif(not SERVES, reason="needs transformers[serving]")


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    return make_toy(tmp_path_factory.mktemp("toy"), questions=8)


@pytest.fixture(scope="module")
def many(toy: Toy, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Arguments of a run over more questions than grow together, of few calls each."""
    folder = tmp_path_factory.mktemp("many")
    large = make_toy(folder, questions=200)
    shutil.rmtree(large.model)
    large.model.symlink_to(toy.model)
    return [
        "task=argo",
        "task.strategy=fixed_k",
        "task.fixed_k=1",
        "task.mode=full",
        "task.batch_size=8",
        *large.arguments,
    ]


def settled(folder: Path) -> dict[str, Any]:
    """Of a record, what two runs of the same job must agree on."""
    record = read_record(folder)
    metrics = {name: metric for name, metric in record["metrics"].items() if metric["unit"] not in MEASURED}
    facts = {name: value for name, value in record["facts"].items() if name not in ("plan", "tables")}
    return {"metrics": metrics, "facts": facts, "samples": record["samples"], "status": record["status"]}


def written(folder: Path) -> int:
    file = next(folder.glob("outputs/*/*/samples.jsonl"), None)
    return file.read_bytes().count(b"\n") if file else 0


@pytest.mark.parametrize("share", [pytest.param(0.1, marks=pytest.mark.slow), 0.6])
def test_a_kill_costs_one_batch_at_most(
    here: Here, toy: Toy, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, share: float
) -> None:
    arguments = [*GRAPHS, *toy.arguments, "task.batch_size=4"]
    here.folder = tmp_path_factory.mktemp("unbroken")
    unbroken = here.job(*arguments)
    whole = answers(here.folder / STORE)

    with started(tmp_path, *arguments) as running:
        wait_for(lambda: len(answers(tmp_path / STORE)) >= share * len(whole), running)
    kept = answers(tmp_path / STORE)
    assert share * len(whole) <= len(kept) < len(whole)
    assert records(tmp_path) == []

    here.folder = tmp_path
    resumed = here.job(*arguments)
    now = answers(tmp_path / STORE)
    assert {key: now[key] for key in kept} == kept  # the first answer is the answer
    assert made(resumed) == len(whole) - len(kept)
    assert now.keys() == whole.keys()
    assert unlike_times(resumed) == unlike_times(unbroken)
    assert settled(resumed) == settled(unbroken)


def test_it_is_looked_at_while_it_runs_and_goes_on_at_the_next_question(
    here: Here,
    many: list[str],
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    with started(tmp_path, *many) as running:
        wait_for(lambda: written(tmp_path) >= 100, running)
        running.send_signal(signal.SIGSTOP)  # in the second hundred
        done = written(tmp_path)
        assert 100 <= done < 200
        assert main(["--root", str(tmp_path), "table"]) == 0
        shown = capsys.readouterr().out
        assert f"samples so far: {done}" in shown and "correct" in shown
        assert main(["--root", str(tmp_path), "ls"]) == 0
        assert "running or" in capsys.readouterr().out
    said = (tmp_path / "err.txt").read_text() + (tmp_path / "out.txt").read_text()
    assert re.search(r"200 questions: \d+ model calls, in place of \d+ cell by cell", said)
    assert "\r" not in said and "Traceback" not in said

    here.folder = tmp_path
    resumed = here.job(*many)
    assert f"fixed_k: {done} of 200 samples are done already" in (resumed / "launch.log").read_text()
    here.folder = tmp_path_factory.mktemp("unbroken")
    assert unlike_times(resumed) == unlike_times(here.job(*many))


def test_without_a_terminal_progress_is_plain_lines(here: Here, toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("suite.progress.REPORT_EVERY_S", 0.0)
    answer = here(*GRAPHS, *toy.arguments)
    assert answer.code == 0
    (job,) = records(here.folder)
    total = read_record(job)["facts"]["plan"]["unique_calls"]
    lines = [line for line in answer.out.splitlines() if f" of {total} calls, about " in line]
    assert len(lines) > 3
    counted = [int(line.partition("calls: ")[2].partition(" ")[0]) for line in lines]
    assert counted == sorted(counted) and counted[-1] == total
    assert answer.err == ""


def stop_between_writes(running: subprocess.Popen[str], store: Path) -> None:
    """Stop a launch where it holds no lock of the database, which nobody else could use then."""
    while True:
        running.send_signal(signal.SIGSTOP)
        time.sleep(0.05)  # the signal arrives when it arrives
        with closing(sqlite3.connect(store, timeout=0.0, isolation_level=None)) as database:
            try:
                database.execute("BEGIN IMMEDIATE")
                return
            except sqlite3.OperationalError:
                running.send_signal(signal.SIGCONT)


def test_of_two_launches_on_one_store_the_second_waits_and_asks_nothing(toy: Toy, tmp_path: Path) -> None:
    store = tmp_path / "shared.sqlite"
    arguments = [*GRAPHS, *toy.arguments, "task.batch_size=4", f"task.store={store}"]
    folders = [tmp_path / name for name in ("first", "second")]
    for folder in folders:
        folder.mkdir()
    with started(folders[0], *arguments) as first:
        wait_for(lambda: len(answers(store)) >= 4, first)
        stop_between_writes(first, store)  # the store is its own for as long as the second takes to come
        with started(folders[1], *arguments) as second:
            waits = f"Waiting for the launch with process id {first.pid}, which is filling"
            wait_for(lambda: waits in (folders[1] / "out.txt").read_text(), second)
            first.send_signal(signal.SIGCONT)
            assert [first.wait(), second.wait()] == [0, 0]
    jobs = [records(folder)[0] for folder in folders]
    assert [made(job) for job in jobs] == [len(answers(store)), 0]
    assert unlike_times(jobs[0]) == unlike_times(jobs[1])
    assert settled(jobs[0]) == settled(jobs[1])


def test_the_same_job_is_not_run_twice_at_once(here: Here, toy: Toy, tmp_path: Path) -> None:
    arguments = [*GRAPHS, *toy.arguments, "task.batch_size=4"]
    with started(tmp_path, *arguments) as running:
        wait_for(lambda: len(answers(tmp_path / STORE)) >= 4, running)
        running.send_signal(signal.SIGSTOP)
        answer = here(*arguments)
        assert answer.code == 1 and "This very job is running already, in " in answer.out


# --- a server -----------------------------------------------------------------------------------------------------


@pytest.fixture
def port() -> int:
    return free_port()


def served(toy: Toy, port: int) -> list[str]:
    how = ["task.engine=openai", "task.answering=generate", "task.prompt_format=chat", "task.server_requests=2"]
    where = [f"task.server_url=http://127.0.0.1:{port}/v1", f"task.server_model={toy.model}"]
    return ["task=argo_graphs", "task.cost_ratios=[1]", "task.strategies=[argo,fixed_k]", *toy.arguments, *how, *where]


@needs_a_server
def test_a_server_that_stops_costs_what_was_not_answered_yet(
    here: Here, toy: Toy, port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("argo.openai_engine.RETRIES", 1)
    monkeypatch.setattr("argo.task.CHUNK", 2)
    arguments = served(toy, port)
    log = tmp_path / "server.log"
    with transformers_serve(toy.model, port, log) as server:

        def stop() -> None:
            while written(here.folder) < 2:
                time.sleep(0.005)
            server.kill()

        watch = threading.Thread(target=stop)
        watch.start()
        answer = here(*arguments)
        watch.join()
    (job,) = records(here.folder)
    assert answer.code == 0, answer
    rows = read_rows(job)
    good = [row for row in rows if not row["error"]]
    assert 2 <= len(good) < 8
    assert all("start it and run again." in row["error"] for row in rows if row["error"])
    stored = answers(here.folder / STORE)

    with transformers_serve(toy.model, port, log):
        again = here(*arguments)
        assert again.code == 0 and len(records(here.folder)) == 2  # as recorded
        assert read_rows(records(here.folder)[-1]) == rows
        mended = here.job(*arguments, "retry_failed=true")
    assert read_record(mended)["samples"] == {"completed": 8, "failed": 0}
    assert [row for row in read_rows(mended) if row["id"] in {row["id"] for row in good}] == good
    assert len(answers(here.folder / STORE)) == len(stored) + made(mended)

    here.folder = tmp_path / "here"
    here.folder.mkdir()
    local = [text for text in arguments if not text.startswith("task.server")]
    local[local.index("task.engine=openai")] = "task.engine=transformers"
    assert cells(here.job(*local)) == cells(mended)  # the same model in this process says the same


@needs_a_server
def test_a_server_that_is_not_up_yet(here: Here, toy: Toy, port: int, tmp_path: Path) -> None:
    answer = here(*served(toy, port))
    assert answer.code == 1 and "No server answers at task.server_url=" in answer.out
    (job,) = records(here.folder)
    assert read_record(job)["status"] == "failed"
    with transformers_serve(toy.model, port, tmp_path / "server.log"):
        assert here(*served(toy, port), "retry_failed=true").code == 0
