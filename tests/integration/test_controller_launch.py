"""The controller's study as a user types it: all steps from nothing, what is found again, sweeps, bad input."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from controller.schema import STEPS as NAMES
from suite.hardware.machine import cpu_model
from suite.models.loading import loads
from tests.controller_runs import (
    ROWS,
    STEPS,
    Toy,
    make_toy,
    questions,
    step_folder,
    targets,
    tree,
    write_questions,
)
from tests.runs import Answer, Here, read_record, read_rows, records, start

PLOTS = (
    "c1_errors",
    "c2_confusion",
    "c3_confusion_masked",
    "c4_tradeoff",
    "c5_knobs",
    "c6_drop",
    "c7_knobs",
    "c8_adherence",
)


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    return make_toy(tmp_path_factory.mktemp("toy"))


@dataclass(frozen=True, kw_only=True)
class Study:
    """All steps of the study, run once in a process of their own."""

    folder: Path
    arguments: list[str]
    answer: Answer


@pytest.fixture(scope="module")
def study(toy: Toy, tmp_path_factory: pytest.TempPathFactory) -> Study:
    folder = tmp_path_factory.mktemp("study")
    code = start(folder, *toy.arguments, "step=all").wait()
    answer = Answer(code=code, out=(folder / "out.txt").read_text(), err=(folder / "err.txt").read_text())
    return Study(folder=folder, arguments=toy.arguments, answer=answer)


def copied(study: Study, here: Here) -> None:
    """The steps that were done, in a place of their own."""
    shutil.copytree(study.folder / STEPS, here.folder / STEPS)


def said(answer: Answer) -> str:
    """What a command says that must fail in a sentence."""
    text = " ".join((answer.out + answer.err).split())
    assert answer.code == 1 and "Traceback" not in text, answer
    return text


# --- what is computed, and what is found --------------------------------------------------------------------------


def test_all_steps_from_nothing(study: Study) -> None:
    assert study.answer.code == 0, study.answer
    assert "Traceback" not in study.answer.out + study.answer.err
    (job,) = records(study.folder)
    record = read_record(job)
    assert record["status"] == "completed" and record["samples"] == {"completed": 5, "failed": 0}
    rows = targets(record)
    assert {row for row, *_ in rows} == set(ROWS)
    order = [("MISSED", "cannot tell", "met").index(row[-1]) for row in rows]
    assert order == sorted(order)
    printed = study.answer.out
    for row, what, *_ in rows:
        assert f"│ {row} " in printed and what.split()[0] in printed
    assert set(record["facts"]) >= set(NAMES) - {"all"}
    assert {path.stem for path in (job / "plots").glob("*.svg")} >= set(PLOTS)
    page = (job / "samples.html").read_text()
    assert all(row["question"] in page for row in read_rows(job))


def test_every_run_is_told(study: Study) -> None:
    """The rows of C8: ten budgets, four policies, parts that add up."""
    for row in read_rows(records(study.folder)[0]):
        assert set(row["beside"]) >= {"lookup", "random", "oracle"}
        for runs in (row["runs"], *row["beside"].values()):
            budgets = [one["budget_ms"] for one in runs]
            assert len(budgets) == 10 and budgets == sorted(budgets)
            for one in runs:
                parts = sum(one["parts"].values()) + one["decision_ms"]
                assert one["total_ms"] >= parts > 0
                assert one["met"] == (one["total_ms"] <= one["budget_ms"])
        assert all(one["decision_ms"] > 0 for one in row["runs"])
        assert all(one["decision_ms"] == 0 for one in row["beside"]["oracle"])


def test_the_same_command_again_computes_nothing(study: Study, here: Here) -> None:
    here.folder = study.folder
    (first,) = records(study.folder)
    before, files = loads(), tree(study.folder / STEPS)
    answer = here(*study.arguments, "step=all")
    again = records(study.folder)[-1]
    assert answer.code == 0 and "finished before: nothing is computed again" in answer.out
    assert (again / "record.json").read_bytes() == (first / "record.json").read_bytes()
    assert (again / "samples.html").read_bytes() == (first / "samples.html").read_bytes()
    assert loads() == before and tree(study.folder / STEPS) == files
    shutil.rmtree(again)


def test_blocks_of_the_data_sets_that_come_with_the_suite(here: Here, toy: Toy) -> None:
    record = read_record(here.job(*toy.small, "task.profile_samples=2", "step=importance"))
    assert {what.split(",")[0] for _, what, *_ in targets(record)} == {
        "VQA data sets correlate over 0.9",
        "VQA against diagram clearly differs",
    }
    pairs = {row[1] for row in record["facts"]["tables"][1]["rows"]}
    assert {"shapes and text", "commonsense and diagram"} <= pairs


def test_a_step_finds_what_is_there_and_loads_no_model(study: Study, here: Here) -> None:
    copied(study, here)
    before, files = loads(), tree(here.folder / STEPS)
    for step in ("latency", "grpo"):
        job = here.job(*study.arguments, f"step={step}")
        assert (
            f"{step_folder(here.folder, step).name}: found, nothing is computed again"
            in (job / "launch.log").read_text()
        )
        assert {row for row, *_ in targets(read_record(job))} == {NAMES[step]}
        assert list((job / "plots").glob(f"{NAMES[step].lower()}_*.svg"))
    assert loads() == before and tree(here.folder / STEPS) == files


def test_a_sweep_over_budgets_trains_nothing_twice(study: Study, here: Here) -> None:
    copied(study, here)
    files = tree(here.folder / STEPS)
    answer = here("-m", *study.arguments, "task.latency_budget_ms=0.001,1e6", "task.reward=reference")
    assert answer.code == 0, answer
    after = tree(here.folder / STEPS)
    assert files.items() <= after.items()
    exported = {"reference.onnx", "reference_tier.onnx"}  # for the first time
    assert {Path(name).name for name in set(after) - set(files)} <= exported
    under, over = records(here.folder)
    assert [read_record(job)["facts"]["budgets_ms"] for job in (under, over)] == [[0.001], [1e6]]
    cheapest = set()
    for row in read_rows(under):  # under the cheapest configuration: it is used, and the budget counted as missed
        (one,) = row["runs"]
        assert (one["tier"], one["top_k"], one["blocks"], one["met"]) == ("low", 2, 2, False)
        for name in ("lookup", "random"):
            (one,) = row["beside"][name]
            cheapest.add((one["tier"], one["top_k"], one["blocks"], one["met"]))
    assert len(cheapest) == 1 and not cheapest.pop()[-1]  # the one that the estimator takes for the cheapest
    assert read_record(under)["metrics"]["controller_adherence"]["value"] == 0.0
    assert read_record(over)["metrics"]["controller_adherence"]["value"] == 1.0
    missed = {what: reached for _, what, _, reached, word in targets(read_record(under)) if word == "MISSED"}
    assert missed["mean latency within the budget"] == "0 of 1 budgets; not 0.0 ms"


def test_adaptive_inference_goes_on_at_the_next_sample(study: Study, here: Here) -> None:
    copied(study, here)
    arguments = [*study.arguments, "task.latency_budget_ms=30"]
    killed = here.job(*arguments)
    log, kept = killed / "samples.jsonl", read_rows(killed)[:2]
    whole = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(b"".join(whole[:2]) + whole[2][:100])  # as a kill in the third sample leaves it
    (killed / "record.json").unlink()
    job = here.job(*arguments)
    assert read_rows(job)[:2] == kept and len(read_rows(job)) == len(whole) == 5
    assert read_record(job)["samples"] == {"completed": 5, "failed": 0}


# --- bad input ----------------------------------------------------------------------------------------------------


def test_broken_samples_are_skipped_told_and_counted(here: Here, toy: Toy, tmp_path: Path) -> None:
    mine = Toy(folder=tmp_path / "toy")
    mine.folder.mkdir()
    mine.model.symlink_to(toy.model)
    shutil.copytree(toy.data, mine.data)
    (mine.data / "train" / "images" / "0.png").write_bytes(b"no image")
    (mine.data / "train" / "images" / "1.png").unlink()
    rows = questions(mine.data, "train")
    rows[2][0] = "  "
    write_questions(mine.data, "train", rows)
    answer = here(*mine.arguments, "step=importance")
    assert answer.code == 0, answer
    record = read_record(records(here.folder)[0])
    expected = ["the image 0.png in", "there is no image 1.png", "there is no question"]
    skipped = record["facts"]["skipped"]
    assert len(skipped) == 3 and all(start in text for start, text in zip(expected, skipped, strict=True))
    assert all(f"skipped: {text}" in answer.out for text in skipped)
    kept = json.loads((step_folder(here.folder, "importance") / "blocks.jsonl").read_text())
    assert kept["id"] == "train-3 and 6 more"
    refused = said(here(*mine.arguments, "step=importance", "strict=true", "seed=1"))
    assert "sample train-0: the image 0.png in" in refused and "replace it or drop the row." in refused


def test_no_image_opens(here: Here, toy: Toy, tmp_path: Path) -> None:
    mine = Toy(folder=tmp_path / "toy")
    mine.folder.mkdir()
    mine.model.symlink_to(toy.model)
    shutil.copytree(toy.data, mine.data)
    for image in (mine.data / "train" / "images").iterdir():
        image.write_bytes(b"no image")
    refused = said(here(*mine.arguments, "step=importance"))
    assert "dataset=easy_vqa has no usable sample in its split `tune`; the first that was skipped: sample" in refused


@pytest.mark.parametrize(
    ("typed", "sentence"),
    [
        ("task.blocks=[2,5]", "task.blocks=[2, 5]: the model has 4 decoder blocks; ask for no more."),
        ("task.top_ks=[2,9]", "task.top_ks=[2, 9]: the model has 8 experts; ask for no more."),
        ("task.tiers=[high,low]", "task.tiers=['high', 'low'] must go from cheap to dear"),
        ("task.estimator=nowhere", "task.estimator=nowhere is not a folder; give that of a `latency` step."),
    ],
)
def test_knobs_that_the_model_has_not(here: Here, toy: Toy, typed: str, sentence: str) -> None:
    assert sentence in said(here(*toy.arguments, "step=importance", typed))


def test_a_loss_that_is_no_number_stops_with_a_sentence_and_loses_nothing(study: Study, here: Here) -> None:
    copied(study, here)
    files = tree(here.folder / STEPS)
    refused = said(here(*study.arguments, "step=stage2", "task.stage2.alpha=1e300"))
    assert "Training of stage2 stopped: the loss of epoch 1 is not a number; the state after epoch 0 is kept" in refused
    assert "lower task.stage2.lr=0.0001 and run again." in refused
    after = tree(here.folder / STEPS)
    assert files.items() <= after.items()
    assert {Path(name).name for name in set(after) - set(files)} == {"reference_grpo.pt"}


def test_an_estimator_from_another_machine_is_recalibrated(study: Study, here: Here, tmp_path: Path) -> None:
    copied(study, here)
    theirs = tmp_path / "theirs"
    shutil.copytree(step_folder(here.folder, "latency"), theirs)
    facts = json.loads((theirs / "estimator.json").read_text())
    (theirs / "estimator.json").write_text(json.dumps(facts | {"machine": "another machine"}))
    here.job(*study.arguments, "step=latency", f"task.estimator={theirs}", "task.recalibrate=20")
    (made,) = [
        folder
        for folder in (here.folder / STEPS).glob("latency-*")
        if not (study.folder / STEPS / folder.name).exists()
    ]
    mine = json.loads((made / "estimator.json").read_text())
    assert mine == facts | {"machine": cpu_model()}
    assert (made / "estimator.safetensors").read_bytes() != (theirs / "estimator.safetensors").read_bytes()

    here.folder = tmp_path / "others"
    here.folder.mkdir()
    other = [*study.arguments, "task.top_ks=[2,3]", "step=latency", f"task.estimator={theirs}"]
    assert "The latency estimator knows the knobs" in said(here(*other))
