"""ARGO as a user types it: one tree of calls for a whole sweep, the same cells whichever way it is run, bad input."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from argo.schema import STRATEGIES
from suite.models.loading import keep_only, loads
from tests.argo_runs import (
    STORE,
    Toy,
    answers,
    cells,
    made,
    make_toy,
    save_chat_model,
    unlike_times,
    write_data,
    write_jsonl,
)
from tests.runs import Here, launch, read_record, read_rows, records

FIVE = ",".join(STRATEGIES[:5])
SWEEP = ["-m", "task=argo", "task.cost_ratio=1,2,5,10", f"task.strategy={FIVE}"]
GRAPHS = ["task=argo_graphs", "task.cost_ratios=[1,2,5,10]"]


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    return make_toy(tmp_path_factory.mktemp("toy"))


def a_copy(toy: Toy, folder: Path) -> Toy:
    """The same model with data of its own."""
    copied = Toy(folder=folder / "toy")
    copied.folder.mkdir()
    copied.model.symlink_to(toy.model)
    write_data(copied, 4)
    return copied


def test_a_sweep_asks_once_and_its_cells_are_those_of_the_graphs(here: Here, toy: Toy) -> None:
    answer = here(*SWEEP, *toy.arguments)
    assert answer.code == 0, answer
    jobs = records(here.folder)
    assert [read_record(job)["status"] for job in jobs] == ["completed"] * 20
    calls = [made(job) for job in jobs]
    assert calls[0] == len(answers(here.folder / STORE)) > 0
    assert calls[1:] == [0] * 19
    facts = read_record(jobs[0])["facts"]
    assert facts["plan"]["made"] + facts["plan"]["found"] == facts["plan"]["unique_calls"]

    (folder,) = here.folder.glob("multirun/*/*")
    analysis = json.loads((folder / "analysis.json").read_text())
    assert analysis["groups"][0]["jobs"] == [str(n) for n in range(20)]
    assert {path.name for path in (folder / "plots").iterdir()} >= {"graph_1a.svg", "graph_1b.svg"}
    page = (folder / "trajectories.html").read_text()
    assert all(row["question"] in page for row in read_rows(jobs[0]))
    report = (folder / "report.html").read_text()
    assert 'alt="graph 1a"' in report
    assert 'href="19/trajectories.html"' in report and (jobs[19] / "trajectories.html").exists()

    again = here(*SWEEP, *toy.arguments)
    assert again.code == 0 and "20 of 20 jobs were finished before" in again.out
    for old, new in zip(jobs, records(here.folder)[20:], strict=True):
        assert (new / "record.json").read_bytes() == (old / "record.json").read_bytes()
    assert len(answers(here.folder / STORE)) == calls[0]

    swept = {place: metrics for job in jobs for place, metrics in cells(job).items()}
    assert len(swept) == 20 * 4
    assert {metrics["correct"] for metrics in swept.values()} == {0.0, 1.0}
    assert here(*SWEEP, *toy.arguments, "task.store=other/calls.sqlite").code == 0
    elsewhere = records(here.folder)[40:]
    assert made(elsewhere[0]) == calls[0]  # nothing was taken from the first store
    assert {place: metrics for job in elsewhere for place, metrics in cells(job).items()} == swept

    graphs = here.job(*GRAPHS, *toy.arguments, "task.store=third.sqlite")
    assert made(graphs) == calls[0]
    assert cells(graphs) == swept


def test_strategies_that_ask_first_share_the_store_too(here: Here, toy: Toy) -> None:
    axes = ["-m", "task=argo", "task.cost_ratio=1,5", "task.strategy=confidence,difficulty,argo"]
    for success in ("similarity", "judged"):
        assert here(*axes, *toy.arguments, f"task.success={success}").code == 0
    jobs = records(here.folder)
    assert [made(job) for job in jobs[1:6]] == [0] * 5 and [made(job) for job in jobs[7:]] == [0] * 5
    graphs = here.job(
        "task=argo_graphs",
        "task.cost_ratios=[1,5]",
        "task.strategies=[confidence,difficulty,argo]",
        "task.success=judged",
        "task.store=other.sqlite",
        *toy.arguments,
    )
    assert cells(graphs) == {place: metrics for job in jobs[6:] for place, metrics in cells(job).items()}


def test_without_the_records_the_store_tells_all_and_no_model_is_loaded(here: Here, toy: Toy) -> None:
    first = here.job(*GRAPHS, *toy.arguments)
    shutil.rmtree(here.folder / "outputs" / ".index")
    keep_only()  # no model stays warm
    before, stored = loads(), answers(here.folder / STORE)
    second = here.job(*GRAPHS, *toy.arguments)
    assert made(second) == 0 < made(first)
    assert loads() == before
    assert answers(here.folder / STORE) == stored
    assert unlike_times(second) == unlike_times(first)
    assert read_record(second)["metrics"] == read_record(first)["metrics"]
    assert read_record(second)["facts"]["engine"] == read_record(first)["facts"]["engine"]


def test_a_run_from_the_store_never_imports_torch(here: Here, toy: Toy) -> None:
    small = [*GRAPHS, *toy.arguments, "dataset.max_samples=1", "hardware.device=cpu"]  # else torch counts the GPUs
    here.job(*small)
    shutil.rmtree(here.folder / "outputs" / ".index")
    done = launch(here.folder, *small, python=("-X", "importtime"))
    assert done.returncode == 0, done.stderr[-2000:]
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if "|" in line}
    assert "numpy" in imported
    assert {"torch", "transformers"} & imported == set()


def test_an_unfinished_command_grows_only_what_is_not_there(here: Here, toy: Toy) -> None:
    here.job(*GRAPHS, *toy.arguments, "dataset.max_samples=2")
    before = len(answers(here.folder / STORE))
    longer = here.job(*GRAPHS, *toy.arguments)
    plan = read_record(longer)["facts"]["plan"]
    assert len(answers(here.folder / STORE)) == before + plan["made"]
    here.job(*GRAPHS[:1], "task.cost_ratios=[1,2,5,10,20,50]", *toy.arguments)
    assert made(records(here.folder)[-1]) == 0  # no new policy


# --- bad input ----------------------------------------------------------------------------------------------------


def test_broken_rows_are_counted_and_listed_and_the_run_goes_on(here: Here, toy: Toy, tmp_path: Path) -> None:
    mine = a_copy(toy, tmp_path)
    good = mine.questions.read_text().splitlines()
    bad = ['{"id": "torn", "question": "wh', '{"id": "q9", "question": "Why?", "options": ["a", "b"], "answer": 5}']
    write_jsonl(mine.questions, [good[0], bad[0], good[1], bad[1]])
    write_jsonl(mine.corpus, [*mine.corpus.read_text().splitlines(), '{"id": "p99"}'])
    job = here.job(*GRAPHS, *mine.arguments)
    record = read_record(job)
    assert record["samples"] == {"completed": 2, "failed": 2}
    data = record["facts"]["data"]
    assert (data["questions broken"], data["passages broken"]) == (2, 1)
    assert len(data["problems"]) == 3
    assert any("line 2: not JSON" in problem for problem in data["problems"])
    assert any("must be the index of the right option" in problem for problem in data["problems"])
    assert [row["status"] for row in read_rows(job)] == ["ok", "ok", "failed", "failed"]


@pytest.mark.parametrize(
    ("typed", "sentence"),
    [
        (["task.mdp.delta_r=0.123456"], "task.mdp.delta_r=0.123456 makes a lattice of "),
        (["task.cost_ratio=-1"], "task.cost_ratio=-1.0 must be at least 0"),
        (["task.cost_ratio=nan"], "task.cost_ratio=nan must be at least 0"),
        (["task.mdp.p_s=1.5"], "task.mdp.p_s=1.5 must be between 0"),
        (["task.strategy=allways_reason"], "Did you mean 'always_reason'?"),
        (["task.engine=openai"], "task.server_model is empty; with task.engine=openai give the model's name there."),
        (["dataset.corpus=nowhere"], "dataset.corpus=nowhere does not exist; give a file or folder that does."),
        (["task.answering=generate", "task.strategy=confidence"], "set task.answering=likelihood."),
    ],
)
def test_what_cannot_be_run_is_refused_before_it_starts(here: Here, toy: Toy, typed: list[str], sentence: str) -> None:
    answer = here("task=argo", *toy.arguments, *typed)
    assert answer.code != 0
    said = answer.out + answer.err
    assert sentence in " ".join(said.split()) and "Traceback" not in said
    assert not (here.folder / STORE).exists()


def failed(here: Here, *arguments: str) -> str:
    """What a command says that must fail; no traceback."""
    answer = here(*arguments)
    said = " ".join((answer.out + answer.err).split())
    assert answer.code == 1 and "Traceback" not in said, answer
    return said


def test_an_empty_corpus(here: Here, toy: Toy, tmp_path: Path) -> None:
    mine = a_copy(toy, tmp_path)
    mine.corpus.write_text("")
    assert "holds no passage to retrieve; give a corpus with at least one." in failed(here, *GRAPHS, *mine.arguments)


def test_no_question_of_the_difficulty(here: Here, toy: Toy, tmp_path: Path) -> None:
    mine = a_copy(toy, tmp_path)
    write_jsonl(mine.questions, mine.questions.read_text().splitlines()[:1])
    said = failed(here, *GRAPHS, *mine.arguments, "dataset.difficulty=hard")
    assert "has no question of dataset.difficulty=hard (its difficulties: easy); dataset.difficulty=mixed" in said


def test_retrievals_that_never_succeed_end_all_the_same(here: Here, toy: Toy) -> None:
    job = here.job(*GRAPHS, *toy.arguments, "task.mdp.p_s=0", "task.max_steps=6")
    found = cells(job)
    assert len(found) == 20 * 4
    for (strategy, _, _), metrics in found.items():
        assert metrics["retrieved"] == 0
        if strategy == "always_retrieve":
            assert (metrics["retrievals"], metrics["llm_calls"]) == (6, 2)  # one sub-query, and the answer
        if strategy == "argo":
            assert metrics["retrievals"] == 0  # it knows better


def test_retrieval_for_nothing_and_at_no_price(here: Here, toy: Toy) -> None:
    job = here.job("task=argo_graphs", "task.cost_ratios=[0,inf]", *toy.arguments)
    found = cells(job)
    free = [metrics for (name, ratio, _), metrics in found.items() if name == "argo" and ratio == 0]
    dear = [metrics for (name, ratio, _), metrics in found.items() if name == "argo" and ratio > 0]
    assert all(metrics["reasons"] == 0 < metrics["retrievals"] and metrics["cost"] == 0 for metrics in free)
    assert all(metrics["retrievals"] == 0 < metrics["reasons"] for metrics in dear)
    assert (job / "plots" / "graph_1a.svg").exists()
    for ratio in ("0", "inf"):
        single = here.job("task=argo", f"task.cost_ratio={ratio}", *toy.arguments)
        assert made(single) == 0
        assert cells(single) == {place: metrics for place, metrics in found.items() if place in cells(single)}


def test_passages_that_do_not_fit_the_window_are_dropped_and_counted(here: Here, toy: Toy, tmp_path: Path) -> None:
    mine = a_copy(toy, tmp_path)
    long = [json.loads(line) for line in mine.corpus.read_text().splitlines()]
    write_jsonl(mine.corpus, [{**row, "text": f"{row['text']} {'and so on ' * 30}"} for row in long])
    mine.model.unlink()
    save_chat_model(mine.model, window=1400)  # the instructions, notes and one passage
    job = here.job(*GRAPHS, *mine.arguments, "task.top_k=3")
    assert read_record(job)["samples"] == {"completed": 4, "failed": 0}
    dropped = {place: metrics["dropped"] for place, metrics in cells(job).items()}
    assert all(dropped[place] > 0 for place in dropped if place[0] == "always_retrieve")
    assert all(dropped[place] == 0 for place in dropped if place[0] == "always_reason")


def test_a_question_longer_than_the_window_fails_alone(here: Here, toy: Toy, tmp_path: Path) -> None:
    mine = a_copy(toy, tmp_path)
    rows: list[dict[str, Any]] = [json.loads(line) for line in mine.questions.read_text().splitlines()]
    rows[1]["question"] += " really" * 2000
    write_jsonl(mine.questions, rows)
    job = here.job(*GRAPHS, *mine.arguments)
    assert [row["status"] for row in read_rows(job)] == ["ok", "failed", "ok", "ok"]
    assert "window" in read_rows(job)[1]["error"]


def test_a_corpus_that_changed_is_indexed_anew(here: Here, toy: Toy, tmp_path: Path) -> None:
    mine = a_copy(toy, tmp_path)
    chroma = [*GRAPHS, *mine.arguments, "task.retriever=chroma"]
    first = here.job(*chroma)
    rows = [json.loads(line) for line in mine.corpus.read_text().splitlines()]
    write_jsonl(mine.corpus, [{**row, "text": f"{row['text']} Indeed."} for row in rows])
    second = here.job(*chroma)
    old, new = (read_record(job)["facts"]["retriever"] for job in (first, second))
    assert old["kind"] == "chroma" and old["embedder"] == new["embedder"]
    assert old["corpus_sha256"] != new["corpus_sha256"]
    assert made(second) > 0  # other passages are other prompts


def test_no_server(here: Here, toy: Toy) -> None:
    served = ["task.engine=openai", "task.answering=generate", "task.prompt_format=chat", "task.server_model=toy"]
    said = failed(here, *GRAPHS, *toy.arguments, *served, "task.server_url=http://127.0.0.1:9/v1")
    assert "No server answers at task.server_url=http://127.0.0.1:9/v1" in said
    assert "start it, or give its address." in said
