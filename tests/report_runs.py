"""Made-up jobs of all three studies, and rows of samples that try to break out of a page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

EVIL = "<script>window.pwned = 1</script>"
IMAGE = (
    b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x00\x00\x01\x00\x00\x00\x01\x08\x06\x00\x00\x00\x1f\x15\xc4\x89\x00\x00"
    b"\x00\rIDATx\x9cc\xf8\xcf\xc0\xf0\x1f\x00\x05\x00\x01\xff\x89\x99=\x1d\x00\x00\x00\x00IEND\xaeB`\x82"
)


def metric(value: float | None, unit: str = "1", **other: Any) -> dict[str, Any]:
    """A metric as stored, with an interval of 10 % either side."""
    ci95 = None if value is None else [value * 0.9, value * 1.1]
    return {"value": value, "unit": unit, "n": 20, "ci95": ci95, "origin": "measured", "note": "", **other}


def make_record(job: int, task: str, typed: dict[str, Any], metrics: dict[str, Any], **config: Any) -> dict[str, Any]:
    """A record in the stored schema."""
    return {
        "schema": 1,
        "fingerprint": f"{job:064x}",
        "status": "completed",
        "task": task,
        "name": f"{task}_results",
        "config": {"task": {**typed, "same_for_all": 7}, **config},
        "overrides": [f"task={task}", *(f"task.{key}={value}" for key, value in typed.items())],
        "metrics": metrics,
        "facts": {"tables": [{"title": "A table", "header": ["", "p"], "rows": [["a - b", "0.03"]]}]},
        "samples": {"completed": 20, "failed": 0},
        "error": None,
        "seed": 42,
        "provenance": {"git_sha": "abc", "git_dirty": False, "packages": {"torch": "2.13.0"}, "machine": {"cpu": "x"}},
        "models": {"llm": "1"},
        "data_sha256": "dd",
        "started_at": "2026-01-02T10:00:00+00:00",
        "wall_time_s": 3.5,
    }


def write_sweep(folder: Path, jobs: int = 12) -> Path:
    """Jobs 0 to 5 (or all of more than twelve) caption, 6 and 7 retrieve, 8 and 9 look, the others failed."""
    for job in range(jobs):
        cards = {"hardware": {"name": "h100" if job % 3 == 2 else "local"}}
        if job < 6 or jobs > 12:
            found = {"bleu": metric(0.1 * (job + 1)), "cloud_call_rate": metric(1 / (job + 2), note=EVIL)}
            record = make_record(job, "specdec", {"k": job + 1}, found | {"ttft_ms": metric(None, "ms")}, **cards)
        elif job < 8:
            found = {"accuracy": metric(0.1 * job), "cost": metric(job)}
            record = make_record(job, "argo", {"cost_ratio": job}, found, **cards)
        else:
            found = {"accuracy": metric(0.05 * job), "latency_ms": metric(job, "ms", origin="modelled")}
            record = make_record(job, "controller", {"latency_budget_ms": 10 * job}, found, **cards)
            if job > 9:
                record |= {"status": "failed", "error": f"no room for {EVIL}", "metrics": {}}
        path = folder / str(job)
        path.mkdir(parents=True)
        (path / "record.json").write_text(json.dumps(record))
        rows = [{"id": f"s{i}", "status": "ok", "error": None, "metrics": {"bleu": 0.1 * i}} for i in range(3)]
        (path / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (path / "plots").mkdir()
        (path / "plots" / "one.svg").write_text('<svg xmlns="http://www.w3.org/2000/svg" width="700" height="400"/>')
    return folder


class Words:
    """A tokenizer of four words."""

    words = ("calm ", EVIL, " voice", "")

    def decode(self, tokens: list[int], *, skip_special_tokens: bool) -> str:
        return "".join(self.words[token] for token in tokens)


def specdec_rows() -> list[dict[str, Any]]:
    metrics = {"calls": 1.0, "emitted": 4.0, "ttft_ms": 12.5, "otps": 80.0}
    row = {"category": EVIL, "references": [EVIL], "tokens": [0, 1, 2, 3], "metrics": metrics}
    return [{"id": EVIL, **row, "sources": ["edge", "accepted", "corrected", "bonus"]}]


def argo_rows() -> list[dict[str, Any]]:
    step = {"action": "retrieve", "u": 0.0, "ok": True, "sub_query": EVIL, "passages": [EVIL], "answer": EVIL}
    walk = {"prediction": EVIL, "option": 0, "scores": [-1.5, -2.5], "u": 0.2, "trajectory": [step]}
    found = [{"strategy": "argo", "cost_ratio": 1, "walk": 0, "metrics": {"correct": 1.0}}]
    row = {"question": EVIL, "options": [EVIL, "B"], "answer": 0, "answers": ["A"], "difficulty": EVIL}
    return [{"id": EVIL, "status": "ok", "error": None, **row, "supporting": [EVIL], "walks": [walk], "cells": found}]


def controller_rows() -> list[dict[str, Any]]:
    knobs = {"budget_ms": 20.0, "tier": EVIL, "top_k": 4, "blocks": 8, "answer": EVIL, "accuracy": 0.0}
    run = {**knobs, "total_ms": 21.5, "decision_ms": 0.05, "met": False}
    return [{"id": EVIL, "dataset": EVIL, "question": EVIL, "answers": [EVIL], "runs": [run, {**run, "met": True}]}]
