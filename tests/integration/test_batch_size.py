"""`task.batch_size`: the record of one sample at a time, made several at a time."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest

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

SAMPLES = 9


def without_batch(record: dict[str, Any]) -> dict[str, Any]:
    """What the batch size alone explains left out."""
    kept = settled(record)
    kept["config"]["task"].pop("batch_size")
    for name in ("fingerprint", "overrides", "command"):
        kept.pop(name, None)
    return kept


@pytest.fixture(scope="module")
def arguments(pair: TinyPair, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    prompts = write_prompts(tmp_path_factory.mktemp("many") / "prompts.jsonl", SAMPLES)
    return [*pair.arguments, f"dataset.path={prompts}", "task.gate=always", "task.verification=lossless"]


@pytest.mark.parametrize("method", ["specdec", "cloud", "edge"])
@pytest.mark.parametrize("temperature", [0, 1])
def test_rows_and_record_are_those_of_one_at_a_time(
    here: Here, arguments: list[str], method: str, temperature: int
) -> None:
    arguments = [*arguments, f"task.method={method}", f"task.temperature={temperature}"]
    alone, together = here.job(*arguments), here.job(*arguments, "task.batch_size=5")
    assert settled_rows(together) == settled_rows(alone)
    one, five = read_record(alone), read_record(together)
    assert without_batch(five)["metrics"] == without_batch(one)["metrics"]
    assert five["metrics"]["ttft_ms"]["note"].endswith("in a batch of 5: others' share is in it")
    assert "batch" not in one["metrics"]["ttft_ms"]["note"]
    assert five["metrics"]["throughput_tokens_s"]["note"] == "all samples together, 5 at a time"


def test_throughput_counts_no_second_twice(here: Here, arguments: list[str]) -> None:
    job = here.job(*arguments)
    rows = [row["metrics"] for row in read_rows(job)]
    found = read_record(job)["metrics"]["throughput_tokens_s"]["value"]
    alone = sum(row["emitted"] for row in rows) / sum(row["total_time_ms"] / 1e3 for row in rows)
    assert found == pytest.approx(alone, rel=0.02)


def test_interrupted_it_ends_at_once_and_goes_on_where_it_was(
    here: Here, arguments: list[str], tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    arguments = [*arguments, "task.max_new_tokens=400", "task.temperature=1", "task.batch_size=3"]
    running = start(tmp_path, *arguments)

    def written() -> int:
        file = next(tmp_path.glob("outputs/*/*/samples.jsonl"), None)
        return file.read_bytes().count(b"\n") if file else 0

    wait_for(lambda: written() >= 2, running)
    running.send_signal(signal.SIGINT)
    assert running.wait(20) != 0
    assert "Traceback" not in (tmp_path / "err.txt").read_text()
    done = written()
    assert 2 <= done < SAMPLES
    assert records(tmp_path) == []
    resumed = here.job(*arguments)
    here.folder = tmp_path_factory.mktemp("unbroken")
    unbroken = here.job(*arguments)
    by_id = {row["id"]: row for row in settled_rows(unbroken)}
    assert {row["id"]: row for row in settled_rows(resumed)} == by_id
    assert settled(read_record(resumed)) == settled(read_record(unbroken))


def test_a_prompt_that_cannot_be_decoded_fails_alone(here: Here, arguments: list[str], tmp_path: Path) -> None:
    path = Path(next(a for a in arguments[::-1] if a.startswith("dataset.path=")).partition("=")[2])
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[4]["prompt"] = " ".join(["w1"] * 2000)
    broken = tmp_path / "broken.jsonl"
    broken.write_text("".join(json.dumps(row) + "\n" for row in rows))
    job = here.job(*arguments, f"dataset.path={broken}", "task.batch_size=4")
    found = read_rows(job)
    assert [row["id"] for row in found if row["status"] == "failed"] == ["p4"]
    assert "the model's window 1024" in found[4]["error"]


def test_what_cannot_be_batched_is_said(here: Here, arguments: list[str]) -> None:
    answer = here(*arguments, "task.batch_size=2", "task.engine=transformers")
    assert answer.code != 0
    assert "task.batch_size=2 decodes in this process with engine lean; set task.engine=lean" in answer.out
