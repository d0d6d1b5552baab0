"""The trace file: what it keeps, what damage it forgives, what it refuses, and several processes on one file."""

from __future__ import annotations

import json
import logging
import multiprocessing
from pathlib import Path
from typing import Any

import pytest

from edgecloud.costs import Costs
from edgecloud.trace import Answer, Proposal, SampleTrace, Trace, open_trace
from suite.errors import UserError

MADE_OF = {"models.edge": "a" * 64, "dataset": "d" * 64, "models.edge.dtype": "float32"}


def begun(path: Path) -> Trace:
    trace = Trace(path, MADE_OF)
    trace.begin({"eos": [2]})
    return trace


def learn(trace: Trace, name: str, *outputs: tuple[int, ...]) -> SampleTrace:
    """Facts after each of `outputs`, told by their lengths, in one line of the file."""
    sample = trace.samples.get(name) or trace.add(SampleTrace(id=name, asked="q", prompt=[1, 2], sound=(8, 5)))
    for output in outputs:
        node = sample.root
        for token in output:
            node = node.child(token)
        node.proposal = Proposal(len(output), 0.1 * len(output), 0.5, 1 / 3)
        node.answer = Answer(9, 1, 2.5) if output else None
        sample.unsaved[output] = node
    sample.calls["edge"].append((2, 0.125))
    sample.first.setdefault("cloud", (7, 0.25))
    trace.save(sample)
    return sample


def facts(trace: Trace) -> dict[str, Any]:
    """Everything a trace knows, by sample and output."""
    found: dict[str, Any] = {}
    for name, sample in trace.samples.items():
        waiting = [((), sample.root)]
        while waiting:
            output, node = waiting.pop()
            if node.proposal or node.answer:
                found[f"{name} {list(output)}"] = (node.proposal, node.answer)
            waiting += [((*output, token), child) for token, child in node.children.items()]
    return found


def test_what_is_saved_is_read_back_exactly(tmp_path: Path) -> None:
    trace = begun(tmp_path / "t.jsonl")
    learn(trace, "a", (), (5,), (5, 6), (5, 7, 8))
    learn(trace, "b", (3, 3))
    learn(trace, "a", (5, 7, 8, 9), (4,))
    again = Trace(trace.path, MADE_OF)
    assert facts(again) == facts(trace) and len(facts(again)) == 7
    assert again.samples["a"].prompt == [1, 2] and again.samples["a"].sound == (8, 5)
    assert again.samples["b"].first == {"cloud": (7, 0.25)}
    assert again.costs["edge"].calls == {2: [0.125] * 3} == trace.costs["edge"].calls
    assert again.about == {"eos": [2]}


def test_a_torn_last_line_is_dropped_with_a_word_and_the_next_one_stands_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trace = begun(tmp_path / "t.jsonl")
    learn(trace, "a", (5,))
    kept = facts(trace)
    learn(trace, "b", (6,))
    trace.path.write_bytes(trace.path.read_bytes()[:-9])
    with caplog.at_level(logging.WARNING):
        again = Trace(trace.path, MADE_OF)
    assert facts(again) == kept
    assert "cut off in its last line" in caplog.text
    learn(again, "c", (7,))
    assert facts(Trace(trace.path, MADE_OF)) == facts(again) and len(facts(again)) == 2


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda text: "hello\nworld\n", "is not a trace; give another file in task.trace"),
        (lambda text: "[1, 2]", "is not a trace"),
        (lambda text: json.dumps({"id": "s", "status": "ok"}) + "\n", "is not a trace"),
        (lambda text: text.split("\n")[0][:40], "cut off in its first line; delete it"),
        (lambda text: text.split("\n")[0][:9], "cut off in its first line; delete it"),
        (lambda text: text.replace('"facts"', "facts", 1), r"line 2 is broken .* delete that line"),
        (lambda text: text.replace('"edgecloud_trace": 1', '"edgecloud_trace": 7'), "has version 7, this one reads 1"),
        (lambda text: text.replace("a" * 64, "b" * 64), "of other models or data .models.edge bbbbbbbbbbbb... and not"),
        (lambda text: text.replace('"float32"', '"bfloat16"'), "models.edge.dtype bfloat16 and not float32"),
    ],
)
def test_a_file_that_cannot_be_played_costs_one_sentence(tmp_path: Path, damage: Any, sentence: str) -> None:
    trace = begun(tmp_path / "t.jsonl")
    learn(trace, "a", (5,))
    learn(trace, "b", (6,))
    trace.path.write_text(damage(trace.path.read_text()))
    with pytest.raises(UserError, match=sentence):
        Trace(trace.path, MADE_OF)


def test_a_folder_is_no_trace(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        Trace(tmp_path, MADE_OF)


def test_a_sweep_reads_the_file_once_and_only_what_was_added_after(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    mine = open_trace(path, MADE_OF)
    mine.begin({})
    learn(mine, "a", (5,))
    learn(Trace(path, MADE_OF), "b", (6,))  # another process
    assert open_trace(path, MADE_OF) is mine
    assert set(mine.samples) == {"a", "b"}
    path.unlink()
    assert open_trace(path, MADE_OF).samples == {}


def _write(path: Path, name: str) -> None:
    trace = Trace(path, MADE_OF)
    trace.begin({"by": name})
    for i in range(30):
        learn(trace, f"{name}{i % 5}", (i, i), (i,))
    learn(trace, "both", (ord(name),))


def test_processes_that_record_at_once_lose_nothing_of_each_others(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_write, args=(path, name)) for name in "xyz"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    trace = Trace(path, MADE_OF)
    assert len(facts(trace)) == 3 * 60 + 3
    assert len(trace.costs["edge"].calls[2]) == 3 * 31
    assert path.read_text().count("edgecloud_trace") == 1


def test_costs_are_the_line_through_the_medians() -> None:
    costs = Costs()
    assert costs.seconds(5) == 0.0
    costs.add(4, 0.3)
    assert costs.seconds(1) == costs.seconds(9) == 0.3  # one length tells no slope
    for n in (1, 2, 8):
        for noise in (0.0, 0.0, 50.0):  # a busy machine
            costs.add(n, 0.1 + 0.05 * n + noise)
    assert costs.seconds(6) == pytest.approx(0.1 + 0.05 * 6)
    assert costs.line() == pytest.approx((0.1, 0.05))


def test_costs_are_never_negative() -> None:
    costs = Costs()
    costs.add(10, 0.1)
    costs.add(20, 10.0)
    assert costs.line()[0] == 0.0 and costs.seconds(1) > 0.0
    costs.add(30, 0.01)
    costs.add(31, 0.01)
    assert costs.line()[1] >= 0.0
