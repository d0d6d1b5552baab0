"""gpu_mode=data_parallel: two processes with a copy of the models each leave the record of one."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from suite.errors import UserError
from suite.processes import Share, Team
from tests import argo_runs, controller_runs
from tests.runs import (
    Here,
    TinyPair,
    read_record,
    read_rows,
    settled,
    settled_rows,
    start,
    wait_for,
    write_prompts,
)

SAMPLES = 11
TWO = ["gpu_mode=data_parallel", "gpu_mode.replicas=2"]


def without_mode(record: dict[str, Any]) -> dict[str, Any]:
    """What is left when the command, and how many processes there were, is left out."""
    kept = settled(record)
    for name in ("fingerprint", "overrides", "command"):
        kept.pop(name, None)
    return kept | {"config": {**record["config"], "gpu_mode": None}, "processes": None}


@pytest.fixture(scope="module")
def arguments(pair: TinyPair, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    prompts = write_prompts(tmp_path_factory.mktemp("many") / "prompts.jsonl", SAMPLES)
    return [*pair.arguments, f"dataset.path={prompts}"]


def test_two_processes_leave_the_record_of_one(here: Here, arguments: list[str]) -> None:
    alone, together = here.job(*arguments, "gpu_mode=single"), here.job(*arguments, *TWO)
    assert settled_rows(together) == settled_rows(alone)
    assert without_mode(read_record(together)) == without_mode(read_record(alone))
    assert (read_record(alone)["processes"], read_record(together)["processes"]) == (1, 2)


def test_what_is_done_is_not_done_again(here: Here, arguments: list[str]) -> None:
    first = here.job(*arguments, *TWO)
    rows = (first / "samples.jsonl").read_text().splitlines()
    (first / "record.json").unlink()  # killed after five samples and a bit
    marked = [json.dumps({**json.loads(row), "text": "kept"}) for row in rows[:5]]
    (first / "samples.jsonl").write_text("\n".join([*marked, rows[5][:20]]))
    again = here.job(*arguments, *TWO)
    assert [row["text"] == "kept" for row in read_rows(again)] == [True] * 5 + [False] * (SAMPLES - 5)
    assert [row["id"] for row in read_rows(again)] == [f"p{i}" for i in range(SAMPLES)]


@pytest.mark.slow
def test_a_broken_sample_fails_as_it_does_alone(here: Here, arguments: list[str], tmp_path: Path) -> None:
    prompts = write_prompts(tmp_path / "broken.jsonl", 3)
    rows = [json.loads(line) for line in prompts.read_text().splitlines()]
    rows[1]["prompt"] = ""
    prompts.write_text("".join(json.dumps(row) + "\n" for row in rows))
    arguments = [*arguments, f"dataset.path={prompts}"]
    together = here.job(*arguments, *TWO)
    assert [row["status"] for row in read_rows(together)] == ["ok", "failed", "ok"]
    answer = here(*arguments, *TWO, "strict=true", "seed=2")
    assert answer.code == 1
    assert "broken.jsonl, line 2" in answer.out


def test_limits_hold_for_one_process(here: Here, arguments: list[str]) -> None:
    answer = here(*arguments, *TWO, "hardware=iphone15_cpu")
    assert answer.code == 1
    assert "gpu_mode.replicas=2 does not go with hardware=iphone15_cpu" in answer.out + answer.err


def rank_of(share: Share) -> int:
    return share.rank


def stumble(share: Share) -> None:
    if share.rank == 1:
        raise ValueError("no such card")
    time.sleep(60)


def die(share: Share) -> None:
    if share.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)


@pytest.mark.slow
def test_one_that_stumbles_or_dies_ends_the_job_and_the_next_starts_anew() -> None:
    two = Team(2)
    with pytest.raises(RuntimeError, match="ValueError: no such card") as told:
        two.run(stumble)
    assert "in stumble" in told.value.__notes__[0]
    with pytest.raises(UserError, match=r"One of the 2 processes of gpu_mode ended .*SIGKILL"):
        two.run(die)
    assert two.run(rank_of) == 0
    two.stop()


@pytest.mark.slow
def test_killed_it_leaves_no_process_and_goes_on_where_it_was(here: Here, arguments: list[str], tmp_path: Path) -> None:
    prompts = write_prompts(tmp_path / "long.jsonl", 400)
    arguments = [*arguments, f"dataset.path={prompts}"]
    running = start(tmp_path, *arguments, *TWO)

    def rows() -> list[str]:
        return [line for path in tmp_path.glob("outputs/*/*/samples.jsonl") for line in path.read_text().splitlines()]

    try:
        wait_for(lambda: len(rows()) > 8, running)
        workers = psutil.Process(running.pid).children(recursive=True)
    finally:
        running.kill()
        running.wait()
    assert len(workers) >= 2
    _, alive = psutil.wait_procs(workers, timeout=10)
    for one in alive:
        one.kill()
    assert alive == []
    kept = rows()
    job = here.job(*arguments, *TWO)
    assert (job / "samples.jsonl").read_text().splitlines()[: len(kept) - 1] == kept[: len(kept) - 1]
    assert [row["id"] for row in read_rows(job)] == [f"p{i}" for i in range(400)]


@pytest.mark.slow
def test_argo_deals_its_batches_to_two_replicas(here: Here, tmp_path: Path) -> None:
    toy = argo_runs.make_toy(tmp_path)
    common = ["task=argo", "task.strategy=argo", *toy.arguments]
    alone = here.job(*common, "gpu_mode=single", f"task.store={tmp_path / 'one.sqlite'}")
    together = here.job(*common, *TWO, f"task.store={tmp_path / 'two.sqlite'}")
    assert argo_runs.unlike_times(together) == argo_runs.unlike_times(alone)
    assert argo_runs.made(together) == argo_runs.made(alone) > 0


@pytest.mark.slow
def test_the_controller_deals_its_samples_to_two_processes(here: Here, tmp_path: Path) -> None:
    """What is decided and answered is the same; what was timed is not."""
    toy = controller_runs.make_toy(tmp_path)
    common = [*toy.arguments, "step=adaptive"]
    alone, together = here.job(*common, "gpu_mode=single"), here.job(*common, *TWO)

    def decided(folder: Path) -> list[Any]:
        names = ("tier", "top_k", "blocks", "answer", "accuracy")
        return [(row["id"], [[run[name] for name in names] for run in row["runs"]]) for row in read_rows(folder)]

    assert decided(together) == decided(alone)
    assert len(decided(alone)) > 1
    assert read_record(together)["processes"] == 2
