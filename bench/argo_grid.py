"""ARGO's grid: planning and replaying a large one from the store, and the naive loop against the tree on a real model.

    python -m bench.argo_grid                    both, about 7 minutes on 2 idle cores
    python -m bench.argo_grid --part replay      1000 questions x 5 strategies x 10 cost points, no model: seconds
    python -m bench.argo_grid --part naive       the `small` grid on the embedded model
    python -m bench.argo_grid --quick            a first impression: 50 questions, and 2 of the `small` grid

Replay: a stand-in for the model, which answers with a hash of the prompt, fills a store; then everything but the model
is timed. Bar: 10 s.

Naive: each (question, strategy, cost) by itself, one call at a time, nothing kept, against the same grid on one tree
with an empty store. The loop would take hours, so a random sample of its cells is run, half before the tree and half
after it, and scaled by the exact number of calls that all cells make; the interval is over the cells sampled. Loading
the model, and embedding the corpus, are in neither. Bar: 20 times.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from hydra import compose, initialize_config_dir
from omegaconf import open_dict

import argo.schema
import suite.config
from argo.calls import Call, Failure, Reply
from argo.curves import Cell
from argo.embed import Embedder
from argo.engines import open_engine
from argo.frontier import Frontier
from argo.mdp import cost_points
from argo.questions import Question, QuestionSet, read_questions
from argo.retrieve import Bm25, Exact
from argo.schema import STRATEGIES, ArgoGraphsConfig, QuestionsConfig
from argo.store import CallStore
from argo.study import Study, outcome, told
from argo.summary import summarise
from argo.task import CHUNK
from argo.tree import Tree
from bench import here
from suite.config import CONF, RunConfig, typed
from suite.stats import ratio_ci

REPLAY_BAR_S, NAIVE_BAR = 10.0, 20.0
SEED = 42
Grid = dict[Cell, dict[str, Any]]


class HashEngine:
    """In place of a model: a text, or scores, that a hash of the prompt says. Deterministic, instant, meaningless."""

    window, batch = 10**6, 512

    def __init__(self) -> None:
        self.identity: dict[str, Any] = {"engine": "hash"}

    def tokens(self, text: str) -> int:
        """Words."""
        return len(text.split())

    def answer(self, calls: Sequence[Call]) -> list[Reply | Failure]:
        """See `argo.calls.Engine`."""
        return [self._reply(call) for call in calls]

    def _reply(self, call: Call) -> Reply:
        mark = hashlib.blake2b(call.prompt.encode(), digest_size=8).digest()
        facts: dict[str, Any] = {"prompt_tokens": self.tokens(call.prompt), "latency_ms": 1.0}
        if not call.options:
            return Reply(text=f"{mark.hex()} is found in {call.prompt[-60:]!r}", completion_tokens=20, **facts)
        scores = tuple(-mark[i % 8] / 8 for i in range(len(call.options)))
        best = call.options[scores.index(max(scores))]
        return Reply(text=best, scores=scores, completion_tokens=0, finish="scored", **facts)


@contextmanager
def clocked(times: dict[str, float], name: str) -> Iterator[None]:
    """Add the seconds of the block to `times`."""
    start = time.perf_counter()
    yield
    times[name] = times.get(name, 0.0) + time.perf_counter() - start


def grid_cells(task: ArgoGraphsConfig, points: int) -> list[Cell]:
    """Five strategies at so many costs."""
    ratios = cost_points(task.mdp, "linear", points)
    return [Cell(strategy=strategy, cost_ratio=ratio) for strategy in STRATEGIES[:5] for ratio in ratios]


def read_off(study: Study, tree: Tree, into: Grid, times: dict[str, float]) -> None:
    """Every cell of one question, as `task=argo_graphs` reads it."""
    with clocked(times, "cells"):
        for policy, walk in study.walks(tree).items():
            told(tree, walk)
            for cell in study.policies[policy]:
                into.setdefault(cell, {})[tree.question.id] = outcome(tree, walk, study.task, cell.cost_ratio)


def bench_replay(number: int, points: int = 10) -> None:
    """Fill a store, then time what is left when no model is needed."""
    data = read_questions(QuestionsConfig(difficulty="mixed"), None)
    asked = [many_of(data.questions, i) for i in range(number)]
    task = ArgoGraphsConfig(retriever="bm25", mode="full")
    cells, passages = grid_cells(task, points), {passage.id: passage for passage in data.passages}
    with tempfile.TemporaryDirectory() as folder:
        for state in ("filling", "replay"):
            times, grid, busy_s = dict[str, float](), Grid(), time.process_time()
            with clocked(times, "plan"):
                study = Study(task, SEED, cells)
                plan = study.plan(asked)
            with CallStore(Path(folder) / "calls.sqlite") as store:
                grower = Frontier(
                    task=task, engine=HashEngine(), retriever=Bm25(data.passages), passages=passages, store=store
                )
                with grower:
                    for start in range(0, number, CHUNK):
                        trees = [Tree(question=question) for question in asked[start : start + CHUNK]]
                        with clocked(times, "tree"):
                            study.grow(trees, grower)
                        for tree in trees:
                            read_off(study, tree, grid, times)
            bar, busy_s = sum(times.values()), time.process_time() - busy_s
            if state == "filling":
                print(f"{number} questions x {len(cells)} cells: {plan}; filled in {bar:.1f} s", flush=True)
        assert grower.made == 0
        with clocked(times, "summary"):
            summarise(grid, {}, seed=SEED)
    parts = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in times.items())
    print(f"planned and replayed in {bar:.1f} s, {busy_s:.1f} s of the processor; 1000 are to take {REPLAY_BAR_S:g} s")
    print(f"  {parts}", flush=True)


def many_of(questions: Sequence[Question], number: int) -> Question:
    """A question of its own for each number, in the words of one that there is."""
    question = questions[number % len(questions)]
    return replace(question, id=f"{question.id}-{number}", question=f"({number}) {question.question}")


class Arms:
    """The naive loop and the tree, on the same model, questions and cells."""

    def __init__(self, config: RunConfig, data: QuestionSet, folder: Path) -> None:
        self.config, self.data, self.folder = config, data, folder
        self.task: ArgoGraphsConfig = config.task
        self.cells = grid_cells(self.task, 5)
        self.passages = {passage.id: passage for passage in data.passages}
        self.batched, self.alone = (open_engine(_sized(config, size)) for size in (self.task.batch_size, 1))
        self.alone.answer([Call(prompt="Hello", max_new_tokens=2)])  # loads the model
        Exact(data.passages, Embedder(config, folder / "corpus"))
        self.opened = 0

    def frontier(self, engine: Any, store: CallStore | None = None) -> Frontier:
        """One whose embeddings know the corpus and no query."""
        self.opened += 1
        vectors = shutil.copytree(self.folder / "corpus", self.folder / f"vectors {self.opened}")
        retriever = Exact(self.data.passages, Embedder(self.config, vectors))
        return Frontier(task=self.task, engine=engine, retriever=retriever, passages=self.passages, store=store)

    def naive(self, question: Question, cell: Cell) -> tuple[float, int, Any]:
        """Seconds, calls and answer of one cell by itself."""
        grower, start = self.frontier(self.alone), time.perf_counter()
        study, tree = Study(self.task, SEED, [cell]), Tree(question=question)
        study.grow([tree], grower)
        (walk,) = study.walks(tree).values()
        answer = told(tree, walk)["prediction"]
        return time.perf_counter() - start, grower.made, answer

    def tree(self) -> tuple[float, Frontier, dict[tuple[str, Cell], Any]]:
        """Seconds of the whole grid, what was asked for it, and its answers."""
        with CallStore(self.folder / "calls.sqlite") as store, self.frontier(self.batched, store) as grower:
            start = time.perf_counter()
            study = Study(self.task, SEED, self.cells)
            trees = [Tree(question=question) for question in self.data.questions]
            study.grow(trees, grower)
            answers = {
                (tree.question.id, cell): told(tree, walk)["prediction"]
                for tree in trees
                for policy, walk in study.walks(tree).items()
                for cell in study.policies[policy]
            }
            return time.perf_counter() - start, grower, answers


def bench_naive(number: int, seconds: float, least: int) -> None:
    """The `small` grid both ways, the naive one sampled for so many seconds, and so many cells before and after."""
    config = composed()
    data = read_questions(config.dataset, number)
    with tempfile.TemporaryDirectory() as folder:
        arms = Arms(config, data, Path(folder))
        plan = Study(arms.task, SEED, arms.cells).plan(data.questions)
        pairs = [(question, cell) for question in data.questions for cell in arms.cells]
        order = [pairs[i] for i in np.random.default_rng(SEED).permutation(len(pairs))]
        print(f"{number} questions x {len(arms.cells)} cells: {plan}", flush=True)
        sampled: list[tuple[float, int]] = []
        answers: dict[tuple[str, Cell], Any] = {}

        def sample(until_s: float, least: int) -> None:
            while len(sampled) < least or sum(taken for taken, _ in sampled) < until_s:
                question, cell = order[len(sampled)]
                taken_s, calls, answers[question.id, cell] = arms.naive(question, cell)
                sampled.append((taken_s, calls))

        sample(seconds / 2, least)
        tree_s, grower, found = arms.tree()
        sample(seconds, 2 * least)
    each = ratio_ci([taken for taken, _ in sampled], [float(calls) for _, calls in sampled], seed=SEED)
    assert each.value is not None and each.ci95 is not None
    whole_s, low_s, high_s = (plan.naive * value for value in (each.value, *each.ci95))
    agree = sum(found.get(place) == answer for place, answer in answers.items())
    print(f"naive: {len(sampled)} of {len(pairs)} cells sampled, {each.value:.2f} s a call, {plan.naive} calls:")
    print(f"       {whole_s / 60:.1f} min [{low_s / 60:.1f}, {high_s / 60:.1f}] for the grid")
    print(f"tree:  {tree_s / 60:.1f} min, {grower.made} calls made, {grower.found} found")
    print(f"       {agree} of the {len(sampled)} sampled cells have the same answer both ways")
    print(f"the tree is {whole_s / tree_s:.1f} times faster [{low_s / tree_s:.1f}, {high_s / tree_s:.1f}]"
          f" (bar: {NAIVE_BAR:g}), with {plan.naive / grower.made:.1f} times fewer calls")  # fmt: skip


def composed() -> RunConfig:
    """`task=argo_graphs` as it is shipped."""
    suite.config.register()
    argo.schema.register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        whole = compose("config", ["task=argo_graphs"], return_hydra_config=True)
    with open_dict(whole):
        del whole["hydra"]
    return typed(whole)


def _sized(config: RunConfig, rows: int) -> RunConfig:
    return replace(config, task=replace(config.task, batch_size=rows))


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=("replay", "naive", "both"), default="both")
    parser.add_argument("--quick", action="store_true", help="50 questions to replay; 2 questions and 20 s of the loop")
    args = parser.parse_args()

    print(here(), flush=True)
    if args.part != "naive":
        bench_replay(50 if args.quick else 1000)
    if args.part != "replay":
        bench_naive(*(2, 20.0, 1) if args.quick else (10, 240.0, 2))


if __name__ == "__main__":
    main()
