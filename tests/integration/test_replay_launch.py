"""task.sweep=replay as a user types it: the same rows as live, no model where the trace suffices, one sentence else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edgecloud.analysis import analyse
from suite.models.loading import loads
from tests.runs import Here, TinyPair, read_record, read_rows, records

REPLAY = "task.sweep=replay"
WAYS: list[list[str]] = [
    ["task.gate=always", "task.verification=lossless", "task.k=4"],
    ["task.entropy_threshold=0.8"],
    ["task.gate=random", "task.random_rate=0.4", "task.draft_schedule=heuristic"],
]


def told(folder: Path) -> list[dict[str, Any]]:
    """What the rows say but times, and the memory of where they came from."""
    kept = ("id", "text", "references", "prompt_tokens", "tokens", "sources", "counters")
    numbers = ("emitted", "calls", "verified", "agreement")
    return [
        {name: row[name] for name in kept} | {name: row["metrics"][name] for name in numbers}
        for row in read_rows(folder)
    ]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: " ".join(way))
def test_rows_and_scores_are_those_of_a_live_job(here: Here, pair: TinyPair, way: list[str]) -> None:
    live = here.job(*pair.arguments, *way)
    recording = here.job(*pair.arguments, *way, REPLAY)
    before = loads()
    covered = here.job(*pair.arguments, *way, REPLAY, "task.on_trace_end=refuse")
    assert told(live) == told(recording) == told(covered)
    assert loads() == before
    first, again = read_record(recording)["metrics"], read_record(covered)["metrics"]
    assert first["trace_coverage"]["value"] == 0.0 and first["live_calls"]["value"] > 0
    assert again["trace_coverage"]["value"] == 1.0 and again["live_calls"]["value"] == 0
    for name in ("bleu", "cider", "acceptance_rate", "cloud_call_rate"):
        assert again[name] == read_record(live)["metrics"][name]
    assert again["otps"]["origin"] == "modelled" and again["otps"]["value"] > 0
    assert again["cpu_percent"]["value"] is None


@pytest.mark.parametrize("way", [["task.gate=always", "task.k=5"], ["task.gate=oracle", "task.verification=bild"]])
def test_the_embedded_audio_pair_replays_as_it_decodes(here: Here, way: list[str]) -> None:
    exact = ["dataset.max_samples=3", "hardware.dtype=float32", "task.cloud_hardware.dtype=float32"]
    live = here.job(*exact, *way)
    assert told(live) == told(here.job(*exact, *way, REPLAY))
    covered = here.job(*exact, *way, REPLAY, "task.on_trace_end=refuse", "network=4g")
    assert told(live) == told(covered)
    uploaded = read_record(covered)["metrics"]["bytes_up"]["value"]
    assert uploaded == read_record(here.job(*exact, *way, "network=4g"))["metrics"]["bytes_up"]["value"]


def test_where_the_trace_ends_a_sample_is_refused_with_a_sentence(here: Here, pair: TinyPair) -> None:
    here.job(*pair.arguments, "task.gate=always", REPLAY)
    answer = here(*pair.arguments, "task.entropy_threshold=4", "task.k=5", REPLAY, "task.on_trace_end=refuse")
    assert answer.code == 1
    refused = [row for row in read_rows(records(here.folder)[-1]) if row["status"] == "failed"]
    assert refused and all("set task.on_trace_end=live" in row["error"] for row in refused)


def test_a_trace_of_other_models_costs_a_sentence(here: Here, pair: TinyPair, tmp_path: Path) -> None:
    trace = f"task.trace={tmp_path / 'mine.jsonl'}"
    here.job(*pair.arguments, REPLAY, trace)
    swapped = [f"models.edge.id={pair.folder / 'cloud'}"]
    answer = here(*pair.arguments, *swapped, REPLAY, trace)
    assert answer.code == 1
    assert "mine.jsonl is of other models or data (models.edge " in answer.out


def test_no_trace_to_refuse_from_costs_a_sentence(here: Here, pair: TinyPair) -> None:
    answer = here(*pair.arguments, REPLAY, "task.trace=none.jsonl", "task.on_trace_end=refuse")
    assert answer.code == 1
    assert "There is no trace none.jsonl; record one with task.on_trace_end=live." in answer.out


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ("task.temperature=0.7", "task.temperature=0.7 cannot be replayed from a trace; set task.temperature=0"),
        ("task.method=cloud", "task.method=cloud cannot be replayed"),
        ("task.verification=ensemble", "needs whole distributions, which a trace does not hold"),
        ("task.on_trace_end=guess", "task.on_trace_end=guess is not one of live, refuse"),
    ],
)
def test_what_no_trace_can_play_is_refused_before_anything_starts(
    here: Here, pair: TinyPair, option: str, sentence: str
) -> None:
    answer = here(*pair.arguments, REPLAY, option)
    assert answer.code != 0 and sentence in answer.out


def test_a_sweep_ends_with_its_analysis_in_the_report(here: Here, pair: TinyPair) -> None:
    axes = ["task.entropy_threshold=0,0.5,1.5", "task.k=2,4"]
    answer = here("-m", *pair.arguments, REPLAY, *axes)
    assert answer.code == 0, answer
    folder = records(here.folder)[0].parent
    found = json.loads((folder / "analysis.json").read_text())
    assert found["summary"][0].startswith("Recommended: task.entropy_threshold=")
    assert "by_sample" not in found["recommended"] and "paired differences" in found["summary"][2]
    assert set(found["auroc"]) == {"entropy", "confidence", "uncertainty"}
    assert {one["gate"] for one in found["bounds"]} == {"random", "oracle"}
    assert [row["k"] for row in found["speedup"]] == [2, 4]  # threshold 0 sends everything
    for row in found["speedup"]:
        assert sum(row["gap"].values()) == pytest.approx(row["tokens_analytic"] - row["speedup"])
    page = (folder / "report.html").read_text()
    assert page.count("data:image/svg+xml;base64,") == 3
    assert "the fewest" not in page and found["summary"][0].split(":")[0] in page
    assert len(records(here.folder)) == 6  # the bounds leave no job behind
    first = sorted(folder.glob("*/samples.jsonl"))[0]
    rows = [json.loads(line) for line in first.read_text().splitlines()]
    kept = [{**row, "metrics": {**row["metrics"], found["quality"]: None}} for row in rows]
    first.write_text("".join(json.dumps(row) + "\n" for row in kept))
    analyse(folder)
    assert "Left out: 1 of the jobs" in json.loads((folder / "analysis.json").read_text())["summary"][1]


def test_a_rounds_network_is_told_without_the_prompts_upload(here: Here, pair: TinyPair) -> None:
    axes = ["task.entropy_threshold=0", "task.k=2,4", "task.network.rtt_ms=10", "task.network.up_mbit_s=0.1"]
    assert here("-m", *pair.arguments, REPLAY, *axes).code == 0
    folder = records(here.folder)[0].parent
    for row in json.loads((folder / "analysis.json").read_text())["speedup"]:
        samples = read_rows(folder / row["job"])
        total = {name: sum(one["metrics"][name] for one in samples) for name in samples[0]["metrics"] if "e2e" in name}
        assert total["e2e_question_ms"] > 0
        blocks_ms = total["e2e_uplink_ms"] - total["e2e_question_ms"] + total["e2e_waiting_ms"]
        assert row["network_ms"] == pytest.approx(blocks_ms / sum(one["counters"]["rounds"] for one in samples))


def test_a_live_sweep_says_what_its_analysis_leaves_out(here: Here, pair: TinyPair) -> None:
    assert here("-m", *pair.arguments, "task.entropy_threshold=0,1.5").code == 0
    found = json.loads((records(here.folder)[0].parent / "analysis.json").read_text())
    assert "task.sweep=replay" in found["summary"][1]
    assert (found["bounds"], found["auroc"]) == ([], {})


def test_auroc_is_of_the_clouds_whole_outputs_or_not_told(here: Here, pair: TinyPair) -> None:
    gated, whole = ["task.entropy_threshold=1.5,3"], ["task.gate=always", "task.verification=lossless"]
    here.job(*pair.arguments, REPLAY, "task.entropy_threshold=1.5")  # asks the cloud about some tokens only
    here.job(*pair.arguments, REPLAY, "task.entropy_threshold=3")

    def auroc(*options: str) -> dict[str, object]:
        before = {path.parent for path in here.folder.rglob("analysis.json")}
        assert here("-m", *pair.arguments, REPLAY, *gated, *options).code == 0
        (folder,) = {path.parent for path in here.folder.rglob("analysis.json")} - before
        found: dict[str, object] = json.loads((folder / "analysis.json").read_text())["auroc"]
        return found

    assert auroc("task.on_trace_end=refuse") == {}
    told_once = auroc()
    assert set(told_once) == {"entropy", "confidence", "uncertainty"} and auroc("task.k=5") == told_once
    covered = here.job(*pair.arguments, REPLAY, *whole, "task.on_trace_end=refuse")
    assert read_record(covered)["metrics"]["trace_coverage"]["value"] == 1.0


@pytest.mark.parametrize("way", [[], [REPLAY]], ids=["live", "replay"])
def test_an_oracle_that_sends_nothing_calls_nobody(here: Here, pair: TinyPair, way: list[str]) -> None:
    job = here.job(*pair.arguments, *way, "task.gate=oracle", "task.oracle_threshold=inf")
    metrics = read_record(job)["metrics"]
    assert metrics["cloud_call_rate"]["value"] == metrics["cloud_token_share"]["value"] == 0.0
