"""The controller's steps when they are killed or meet each other: nothing is lost, and the numbers are the same."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from controller.schema import REWARDS
from controller.table import Profile, read
from tests.argo_runs import started
from tests.controller_runs import STEPS, Toy, make_toy, step_folder, tree
from tests.runs import Here, read_record, records, wait_for

MARK = 100.0
"""Added to a number of a checkpoint, to be found again."""


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    return make_toy(tmp_path_factory.mktemp("toy"))


def lines(folder: Path, step: str, name: str) -> list[bytes]:
    """Whole rows of a step's log; none where it has not begun."""
    file = next((folder / STEPS).glob(f"{step}-*/{name}"), None)
    return file.read_bytes().split(b"\n")[:-1] if file else []


def profiled(folder: Path) -> Profile:
    return read(step_folder(folder, "profile") / "profile.parquet")


def stored(folder: Path) -> Any:
    """Metrics and facts of a step."""
    return json.loads((folder / "step.json").read_text())


def close(one: Any, other: Any) -> bool:
    """Whether two JSON values are the same but for the last digits, which vary from process to process."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(close(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(close, one, other))
    return bool(np.isclose(one, other, rtol=1e-3, atol=1e-5)) if isinstance(one, float) else one == other


def test_a_profile_that_is_killed_goes_on_at_the_next_sample(
    here: Here, toy: Toy, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    arguments = [*toy.arguments, "step=profile"]
    with started(tmp_path, *arguments) as running:
        wait_for(lambda: len(lines(tmp_path, "profile", "times_1.jsonl")) >= 2, running)
    log, kept = step_folder(tmp_path, "profile") / "times_1.jsonl", lines(tmp_path, "profile", "times_1.jsonl")
    answered = lines(tmp_path, "profile", "answers.jsonl")
    assert len(answered) == 1 and 2 <= len(kept) < 10 and records(tmp_path) == []
    with log.open("ab") as file:
        file.write(b'{"id": "test-1 and 0 more", "parts": [[1')  # as if the kill had hit the middle of a row

    here.folder = tmp_path
    job = here.job(*arguments)
    assert "importance-" in (job / "launch.log").read_text()  # was found
    now = lines(tmp_path, "profile", "times_1.jsonl")
    assert now[: len(kept)] == kept and len(now) == 10
    assert lines(tmp_path, "profile", "answers.jsonl") == answered

    here.folder = tmp_path_factory.mktemp("unbroken")
    here.job(*arguments)
    mine, other = profiled(tmp_path), profiled(here.folder)
    assert (mine.ids, mine.splits, mine.space) == (other.ids, other.splits, other.space)
    for name in ("accuracy", "output_tokens", "vision_tokens", "text_tokens", "timed"):
        np.testing.assert_array_equal(getattr(mine, name), getattr(other, name))
    assert 0 < mine.accuracy.mean() < 1 and mine.timed.sum() == 10 and mine.single_ms.shape[2] == 2
    first = json.loads(kept[0])
    single = mine.single_ms[mine.ids.index(first["id"].split()[0]), :, 0]
    assert single == pytest.approx(np.sum(first["parts"], axis=1))


def test_a_training_that_is_killed_ends_with_the_same_policies(
    here: Here, toy: Toy, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    arguments = [*toy.arguments, "step=stage2", "task.stage2.epochs=40"]
    here.folder = tmp_path_factory.mktemp("unbroken")
    unbroken = here.job(*arguments)
    for step in ("importance", "profile", "latency"):  # the same times
        folder = step_folder(here.folder, step)
        shutil.copytree(folder, tmp_path / STEPS / folder.name)
    found = tree(tmp_path / STEPS)
    whole, checkpoint = step_folder(here.folder, "stage2"), "stage2-*/reference_grpo.pt"

    with started(tmp_path, *arguments) as running:
        wait_for(lambda: any((tmp_path / STEPS).glob(checkpoint)), running)
    broken = step_folder(tmp_path, "stage2")
    assert broken.name == whole.name and not (broken / "masked.safetensors").exists()
    state = torch.load(broken / "reference_grpo.pt", weights_only=True)
    assert 5 <= len(state["curve"]) < 40
    state["curve"][0]["entropy"] += MARK
    torch.save(state, broken / "reference_grpo.pt")

    here.folder = tmp_path
    resumed = here.job(*arguments)
    assert found.items() <= tree(tmp_path / STEPS).items()
    for reward in REWARDS:
        mine, other = (load_file(folder / f"{reward}.safetensors") for folder in (broken, whole))
        for name in other:
            np.testing.assert_allclose(mine[name], other[name], rtol=1e-3, atol=1e-5)
    mine, other = stored(broken), stored(whole)
    mine[1]["reference"]["curve"][0]["entropy"] -= MARK  # it went on from what was there
    assert close(mine, other)
    assert close(read_record(resumed)["metrics"], read_record(unbroken)["metrics"])


@pytest.mark.slow
def test_two_launches_at_once_share_the_steps(toy: Toy, tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("first", "second")]
    (tmp_path / "outputs").mkdir()
    for folder in folders:
        folder.mkdir()
        (folder / "outputs").symlink_to(tmp_path / "outputs")
    with started(folders[0], *toy.arguments, "step=importance") as first:
        wait_for(lambda: any((tmp_path / STEPS).glob("importance-*/blocks.jsonl")), first)
        first.send_signal(signal.SIGSTOP)  # it holds the step for as long as the second takes to come
        with started(folders[1], *toy.arguments, "step=profile") as second:
            out = folders[1] / "out.txt"
            wait_for(lambda: "waits for the launch" in out.read_text(), second)
            first.send_signal(signal.SIGCONT)
            assert [first.wait(), second.wait()] == [0, 0]
        assert "importance-" in out.read_text() and "found, nothing is computed again" in out.read_text()
    assert len(lines(tmp_path, "importance", "blocks.jsonl")) == 1
    assert [read_record(job)["status"] for job in records(folders[0])] == ["completed"] * 2
