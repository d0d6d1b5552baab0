"""What a task is given: samples done once, failures kept or fatal, luck that does not depend on order."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from suite import progress
from suite.config import RunConfig
from suite.context import RunContext, ok
from suite.errors import UserError
from suite.hardware.profile import HardwareConfig
from suite.records import SampleLog
from suite.records.samples import read_samples
from suite.rng import generator


@dataclass(frozen=True)
class Item:
    id: str


class FakeTracker:
    """Keeps the rows it is shown."""

    def __init__(self) -> None:
        self.rows: list[Mapping[str, Any]] = []

    def log_sample(self, row: Mapping[str, Any]) -> None:
        self.rows.append(row)


ITEMS = [Item(name) for name in "abcd"]


def work(item: Item) -> dict[str, Any]:
    if item.id == "b":
        raise UserError("b cannot be read.")
    return {"text": item.id.upper(), "metrics": {"n": 1}}


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Any]:
    logs = []

    def made(**settings: Any) -> RunContext:
        log = SampleLog(tmp_path / "samples.jsonl")
        logs.append(log)
        return RunContext(
            config=RunConfig(task=None, dataset=None, **settings),
            folder=tmp_path,
            samples=log,
            tracker=FakeTracker(),  # type: ignore[arg-type]
        )

    yield made
    for log in logs:
        log.close()


def test_a_failed_sample_is_kept_and_the_run_goes_on(make: Any) -> None:
    ctx = make()
    ctx.each(ITEMS, work, "toy")
    rows = read_samples(ctx.samples.path)
    assert [(row["id"], row["status"], row["error"]) for row in rows] == [
        ("a", "ok", None),
        ("b", "failed", "b cannot be read."),
        ("c", "ok", None),
        ("d", "ok", None),
    ]
    assert rows[0]["text"] == "A"
    assert ctx.tracker.rows == rows
    assert [row["id"] for row in ok(ctx.samples)] == ["a", "c", "d"]


def test_strict_stops_at_the_first_and_keeps_what_is_done(make: Any) -> None:
    ctx = make(strict=True)
    with pytest.raises(UserError, match="b cannot be read"):
        ctx.each(ITEMS, work, "toy")
    assert [row["id"] for row in read_samples(ctx.samples.path)] == ["a"]


def test_a_bug_is_no_failed_sample(make: Any) -> None:
    ctx = make()
    with pytest.raises(ZeroDivisionError):
        ctx.each(ITEMS, lambda item: {"x": 1 / (item.id < "c")}, "toy")
    assert [row["id"] for row in read_samples(ctx.samples.path)] == ["a", "b"]


def test_samples_are_done_once(make: Any, caplog: pytest.LogCaptureFixture) -> None:
    make().each(ITEMS[:2], work, "toy")
    done: list[str] = []
    with caplog.at_level(logging.INFO):
        make().each(ITEMS, lambda item: done.append(item.id) or {"metrics": {}}, "toy")
    assert done == ["c", "d"]
    assert "toy: 2 of 4 samples are done already" in caplog.text
    assert [row["id"] for row in read_samples(make().samples.path)] == ["a", "b", "c", "d"]


def test_progress_counts_what_was_done_before(
    make: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "REPORT_EVERY_S", -1.0)
    make().each(ITEMS[:2], work, "toy")
    caplog.clear()
    with caplog.at_level(logging.INFO):
        make().each(ITEMS, work, "toy")
    said = [record.getMessage().partition(", about")[0] for record in caplog.records]
    assert said == ["toy: 2 of 4 samples are done already", "toy: 3 of 4 samples", "toy: 4 of 4 samples"]


def test_a_model_that_is_not_configured_is_a_sentence(make: Any) -> None:
    with pytest.raises(UserError, match=r"models\.cloud is not configured.*Give models\.cloud\.source and \.id"):
        make().model("cloud", HardwareConfig())


def test_luck_depends_on_seed_sample_purpose_and_step_alone(make: Any) -> None:
    ctx = make(seed=7)
    first = ctx.rng("a", "draft", 3).random(4)
    ctx.rng("b", "draft").random(100)
    assert (ctx.rng("a", "draft", 3).random(4) == first).all()
    others = [("b", "draft", 3), ("a", "accept", 3), ("a", "draft", 4)]
    streams = [first, make(seed=8).rng("a", "draft", 3).random(4), *(ctx.rng(*other).random(4) for other in others)]
    assert len({tuple(stream) for stream in streams}) == 5


def test_keys_do_not_run_together() -> None:
    assert generator(1, "ab", "c").random() != generator(1, "a", "bc").random()
    assert generator(1, "1").random() != generator(1, 1).random()


def test_the_generator_is_the_documented_one() -> None:
    """Golden: another generator would silently change every sampled result."""
    assert generator(42, "sample", "draft", 0).random(2).tolist() == [0.21937449767948736, 0.5080929126893232]
