"""What the controller's steps share: names of their folders, samples taken, chunks, budgets, standings, targets."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from controller.baselines import Table
from controller.data import Sample, VqaData
from controller.images import ImageFile
from controller.schema import ControllerConfig, GrpoConfig, TrainConfig
from controller.space import Space
from controller.steps import standing
from controller.steps.bench import STEPS, Bench
from controller.steps.chunks import chunked
from controller.steps.ground import Ground, Side
from controller.targets import points, share, table, target
from suite.errors import UserError
from suite.hardware.profile import HardwareConfig
from tests.tiny_vlm import picture

EARLY = {"importance", "profile"}


def bench(*, strict: bool = False, samples: tuple[Sample, ...] = (), **changes: Any) -> Bench:
    """Of a model and data that are not looked at."""
    cfg = SimpleNamespace(
        task=ControllerConfig(**changes), seed=42, strict=strict, hardware=HardwareConfig(name="local"),
        dataset=SimpleNamespace(name="easy_vqa"),
    )  # fmt: skip
    made = Bench(cfg=cfg, ctx=None)  # type: ignore[arg-type]
    vars(made).update(revision="weights", data_digest="data", data=VqaData(samples=samples), adapter=FakeAdapter())
    return made


class FakeAdapter:
    """A model with room for ten letters of a question."""

    def text(self, question: str) -> str:
        if len(question) > 10:
            raise UserError(f"the question '{question}' is too long.")
        return question


def sample(
    folder: Path, name: str, dataset: str = "shapes", split: str = "tune", problem: str = "", question: str = "what?"
) -> Sample:
    """Its image opens unless its name says that it is broken."""
    file = folder / f"{name}.png"
    if "broken" in name:
        file.write_bytes(b"no image")
    else:
        picture(1).save(file)
    return Sample(
        id=name, dataset=dataset, split=split, question=question, answers=("red",), choices=(),
        image=ImageFile(home=folder, name=file.name), problem=problem,
    )  # fmt: skip


# --- names of folders ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "moved"),
    [
        ({"top_ks": [2, 4]}, set(STEPS)),
        ({"max_new_tokens": 3}, set(STEPS)),
        ({"timed_samples": 7}, set(STEPS) - {"importance"}),
        ({"rounds": 7}, set(STEPS) - {"importance"}),
        ({"recalibrate": 30}, set(STEPS) - EARLY),
        ({"latency": TrainConfig(epochs=7)}, set(STEPS) - EARLY),
        ({"supervised": TrainConfig(epochs=7)}, {"supervised"}),
        ({"stage1": TrainConfig(epochs=7)}, {"stage1", "stage2", "grpo"}),
        ({"stage2": GrpoConfig(beta=0.7)}, {"stage2", "grpo"}),
        ({"grpo": GrpoConfig(epochs=7)}, {"grpo"}),
        ({"latency_budget_ms": 100.0}, set()),
        ({"reward": "reference"}, set()),
        ({"step": "all"}, set()),
    ],
)
def test_a_setting_moves_the_steps_whose_numbers_it_moves(changes: dict[str, Any], moved: set[str]) -> None:
    before, after = bench(), bench(**changes)
    assert {name for name in STEPS if before.key(name) != after.key(name)} == moved


def test_every_setting_is_of_a_step_or_of_adaptive_inference() -> None:
    settings = {option for step in STEPS.values() for option in step.settings}
    assert {one.name for one in fields(ControllerConfig)} - settings == {"name", "step", "latency_budget_ms", "reward"}


@pytest.mark.parametrize("what", ["seed", "weights", "data", "hardware"])
def test_seed_weights_data_and_machine_move_every_step(what: str) -> None:
    before, after = bench(), bench()
    after.cfg.seed += what == "seed"  # type: ignore[misc]
    if what == "hardware":
        after.cfg.hardware = replace(after.cfg.hardware, dtype="float16")  # type: ignore[misc]
    vars(after).update({"weights": {"revision": "others"}, "data": {"data_digest": "other"}}.get(what, {}))
    assert all(before.key(name) != after.key(name) for name in STEPS)


# --- samples ------------------------------------------------------------------------------------------------------


def test_data_sets_take_turns_and_what_does_not_open_is_skipped_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = (
        sample(tmp_path, "a-broken"),
        sample(tmp_path, "a-long", question="what on earth is this?"),
        sample(tmp_path, "a1"),
        sample(tmp_path, "a2"),
        sample(tmp_path, "a3"),
        sample(tmp_path, "b-odd", "text", problem="row 4: there is no question."),
        sample(tmp_path, "b1", "text"),
        sample(tmp_path, "b-test", "text", split="test"),
    )
    here = bench(samples=rows)
    for _ in range(2):
        assert [one.id for one in here.samples("tune", 2)] == ["a1", "b1", "a2"]
    assert set(here.skipped) == {"a-broken", "a-long", "b-odd"} and len(caplog.records) == 3
    assert "sample a-broken: the image a-broken.png in" in caplog.text and "row 4: there is no question." in caplog.text


def test_strict_stops_at_what_does_not_open(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^sample broken: the image broken.png in .* does not open"):
        bench(strict=True, samples=(sample(tmp_path, "broken"),)).samples("tune", 1)


def test_no_sample_at_all(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no usable sample in its split `tune`; the first .*: sample broken: "):
        bench(samples=(sample(tmp_path, "broken"), sample(tmp_path, "fine", split="test"))).samples("tune", 1)


# --- chunks -------------------------------------------------------------------------------------------------------


def test_chunks_that_were_done_are_not_done_again(tmp_path: Path) -> None:
    samples = [sample(tmp_path, f"s{i}") for i in range(7)]
    worked: list[list[str]] = []

    def work(chunk: Any) -> dict[str, Any]:
        worked.append([one.id for one in chunk])
        if len(worked) == 3:
            raise KeyboardInterrupt
        return {"ids": worked[-1], "turn": len(worked)}

    log = tmp_path / "log.jsonl"
    with pytest.raises(KeyboardInterrupt):
        chunked(samples, log, work, label="test", size=2)
    with log.open("ab") as file:
        file.write(b'{"id": "s4 and 1 more", "ids"')  # the process died while it wrote
    rows = chunked(samples, log, work, label="test", size=2)
    assert worked == [["s0", "s1"], ["s2", "s3"], ["s4", "s5"], ["s4", "s5"], ["s6"]]
    assert [row["ids"] for row in rows] == [["s0", "s1"], ["s2", "s3"], ["s4", "s5"], ["s6"]]
    assert [row["turn"] for row in rows] == [1, 2, 4, 5]
    assert chunked(samples, log, work, label="test", size=2) == rows and len(worked) == 5


# --- ground and standings -----------------------------------------------------------------------------------------


def side(accuracy: list[list[float]], latency: list[list[float]]) -> Side:
    n = len(accuracy)
    return Side(
        ids=tuple(f"s{i}" for i in range(n)), datasets=("shapes",) * n, accuracy=np.array(accuracy),
        latency_ms=np.array(latency), p95_ms=np.array(latency) + 5, language=np.zeros((n, 3)),
        vision=np.zeros((n, 2, 3)),
    )  # fmt: skip


def test_a_tier_is_open_where_its_cheapest_configuration_fits_at_p95() -> None:
    space = Space(tiers=("low", "medium", "high"), top_ks=(2,), depths=(2, 4))
    one = side([[0.0] * 6] * 2, [[10, 20, 30, 40, 50, 60], [10, 90, 40, 90, 80, 90]])
    here = Ground(space=space, budgets_ms=np.array([1.0, 32.0, 45.0, 55.0, 100.0]), tune=one, held=one, test=one)
    assert here.per_tier == 2
    first = [[1, 0, 0], [1, 0, 0], [1, 1, 0], [1, 1, 1], [1, 1, 1]]
    second = [[1, 0, 0], [1, 0, 0], [1, 1, 0], [1, 1, 0], [1, 1, 1]]
    np.testing.assert_array_equal(here.open_tiers(one), np.array([first, second], dtype=bool))


def test_above_the_hull_by_as_much_as_looking_at_the_sample_brings() -> None:
    """The dear configuration helps half of the samples: from 10 ms at 0 the hull rises to 0.5 at 30 ms."""
    fixed = Table(
        accuracy=np.array([[0.0, 1.0]] * 4 + [[0.0, 0.0]] * 4), latency_ms=np.tile([10.0, 30.0], (8, 1))
    )  # fmt: skip
    knowing = np.array([[1, 1]] * 4 + [[0, 1]] * 4)  # at the first budget only where it helps, at the second always
    gap = standing.above_hull(fixed, fixed.pick(knowing), seed=1)
    assert gap.value == pytest.approx((0.25 + 0.0) / 2) and gap.n == 8
    for column in (0, 1):
        assert standing.above_hull(fixed, fixed.pick(np.array([column])), seed=1).value == pytest.approx(0.0)
    wasted = np.array([[0]] * 4 + [[1]] * 4)
    assert standing.above_hull(fixed, fixed.pick(wasted), seed=1).value == pytest.approx(-0.25)


def test_a_hull_chosen_beforehand_keeps_its_configurations() -> None:
    """Of two equally dear ones the second is right on `tune` and the first on the samples judged, which take longer."""
    latency = np.tile([10.0, 30.0, 30.0], (4, 1))
    tune = Table(accuracy=np.tile([0.0, 0.5, 1.0], (4, 1)), latency_ms=latency)
    fixed = Table(accuracy=np.tile([0.0, 1.0, 0.5], (4, 1)), latency_ms=2 * latency)
    got = fixed.pick(np.array([1, 1]))
    assert standing.above_hull(fixed, got, seed=1).value == pytest.approx(0.0)
    assert standing.above_hull(fixed, got, seed=1, beforehand=tune).value == pytest.approx(0.5)
    half = fixed.pick(np.array([[0], [0], [1], [1]]))
    assert standing.above_hull(fixed, half, seed=1, beforehand=tune).value == pytest.approx(0.5 - 0.25)
    strict, fair = standing.hull_targets("C8", "", fixed, got, tune, seed=1)
    assert (strict["met"], fair["met"]) == (None, True)
    assert fair["what"] == "accuracy against the fixed hull chosen on tune at equal mean latency"


# --- targets ------------------------------------------------------------------------------------------------------


def test_what_falls_short_is_told_first() -> None:
    made = [
        target("C1", "a", "1", "2", met=True),
        target("C2", "b", "1", "2", met=None),
        target("C4", "c", "1", "2", met=False),
        target("C3", "d", "1", "2", met=False),
        target("C3", "e", "1", "2", met=False),
    ]
    shown = table(made)
    assert shown["rows"] == [
        ["C3", "d", "1", "2", "MISSED"],
        ["C3", "e", "1", "2", "MISSED"],
        ["C4", "c", "1", "2", "MISSED"],
        ["C2", "b", "1", "2", "cannot tell"],
        ["C1", "a", "1", "2", "met"],
    ]
    assert len(shown["header"]) == 5


def test_shares_and_differences_in_words() -> None:
    assert share(0.5, (0.25, 0.755)) == "50.0 % [25.0, 75.5]" and share(1.0, None) == "100.0 %"
    assert points(-0.012, (-0.1, 0.05)) == "-1.2 points [-10.0, +5.0]" and points(0.0, None) == "+0.0 points"
