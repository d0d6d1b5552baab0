"""Several samples at a time: rows in their order, failures alone, and nothing finished is lost when it ends early."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from suite.config import RunConfig
from suite.context import RunContext
from suite.errors import UserError
from suite.records import SampleLog
from suite.records.samples import read_samples
from suite.tracking.tracker import Tracker


@dataclass(frozen=True)
class Item:
    id: str


class FakeTracker(Tracker):
    def __init__(self) -> None:
        pass

    def log_sample(self, row: Any) -> None:
        pass


ITEMS = [Item(name) for name in "abcdef"]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Any]:
    logs = []

    def made(**settings: Any) -> RunContext:
        logs.append(SampleLog(tmp_path / "samples.jsonl"))
        config = RunConfig(task=None, dataset=None, **settings)
        return RunContext(config=config, folder=tmp_path, samples=logs[-1], tracker=FakeTracker())

    yield made
    for log in logs:
        log.close()


def ids(ctx: RunContext) -> list[str]:
    return [row["id"] for row in read_samples(ctx.samples.path)]


def test_rows_keep_their_order_whoever_is_done_first(make: Any) -> None:
    ctx, later, together = make(), threading.Event(), threading.Barrier(3)

    def work(item: Item) -> dict[str, Any]:
        if item.id in "abc":
            together.wait(10)  # three are at work at the same time
        if item.id == "a":
            assert later.wait(10)
        if item.id == "f":
            later.set()
        return {"metrics": {}}

    ctx.each(ITEMS, work, "toy", workers=3)
    assert ids(ctx) == list("abcdef")


def test_a_failed_sample_fails_alone(make: Any) -> None:
    ctx = make()

    def work(item: Item) -> dict[str, Any]:
        if item.id in "be":
            raise UserError(f"{item.id} cannot be read.")
        return {"metrics": {}}

    ctx.each(ITEMS, work, "toy", workers=4)
    rows = read_samples(ctx.samples.path)
    assert [row["status"] for row in rows] == ["ok", "failed", "ok", "ok", "failed", "ok"]
    assert [row["id"] for row in rows] == list("abcdef")
    assert rows[4]["error"] == "e cannot be read."


@pytest.mark.parametrize("error", [UserError, KeyboardInterrupt, ZeroDivisionError])
def test_ended_early_it_stops_the_others_and_keeps_what_is_done(make: Any, error: type[BaseException]) -> None:
    ctx, done, stopped = make(strict=True), threading.Event(), threading.Event()

    def work(item: Item) -> dict[str, Any]:
        if item.id == "a":
            assert done.wait(10)
            raise error("a")
        if item.id == "b":
            assert stopped.wait(10)  # it would go on for ever
            raise RuntimeError("stopped")
        if item.id == "d":
            done.set()
            assert stopped.wait(10)
        return {"metrics": {}}

    with pytest.raises(error):
        ctx.each(ITEMS, work, "toy", workers=3, stop=stopped.set)
    kept = ids(ctx)
    assert kept[:2] == ["c", "d"]
    assert not {"a", "b"} & set(kept)
    again: list[str] = []
    make(strict=True).each(ITEMS, lambda item: again.append(item.id) or {"metrics": {}}, "toy")
    assert sorted(kept + again) == list("abcdef")


def test_an_interrupt_of_the_waiting_thread_ends_it(make: Any) -> None:
    ctx, stopped = make(), threading.Event()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # whatever an earlier test has left there

    def work(item: Item) -> dict[str, Any]:
        if item.id == "b":
            time.sleep(0.05)
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        assert stopped.wait(10)
        return {"metrics": {}}

    with pytest.raises(KeyboardInterrupt):
        ctx.each(ITEMS, work, "toy", workers=2, stop=stopped.set)
    assert ids(ctx)[:2] == ["a", "b"]


def test_nothing_is_stopped_when_all_is_done(make: Any) -> None:
    stopped = threading.Event()
    make().each(ITEMS, lambda item: {"metrics": {}}, "toy", workers=2, stop=stopped.set)
    assert not stopped.is_set()
