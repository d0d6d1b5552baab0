"""`task=argo`: answer every question with one strategy at one cost of a retrieval.

Read next: strategies.py, what is decided; walk.py, the process; frontier.py, who is asked.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from argo.curves import Cell, cell_metrics
from argo.mdp import breakpoints, critical_cost
from argo.questions import Question, QuestionSet, read_questions
from argo.schema import MODES, ArgoConfig
from argo.study import Plan, Study, baselines, outcome, told
from argo.tree import Tree
from suite.config import RunConfig
from suite.context import ok
from suite.errors import UserError
from suite.progress import Progress
from suite.result import Result

if TYPE_CHECKING:
    from argo.frontier import Frontier
    from suite.context import RunContext

log = logging.getLogger(__name__)
CHUNK = 100
"""Questions whose trees grow together: enough for full batches, and results appear all along a run of days."""
STORE = Path("outputs") / ".calls" / "calls.sqlite"
HEADLINE = ("accuracy", "retrievals", "retrieval_rate", "cost", "llm_calls")


def run(cfg: RunConfig, ctx: RunContext) -> Result:
    """Answer what is not answered yet, then aggregate over all questions.

    In a sweep the first job grows the trees for all jobs that share them; the others read them off.
    """
    from argo import page

    task: ArgoConfig = cfg.task
    cell = Cell(strategy=task.strategy, cost_ratio=task.cost_ratio)
    study = Study(task, cfg.seed, dict.fromkeys((cell, *sharing(cfg, ctx.siblings))))
    policy = next(policy for policy, cells in study.policies.items() if cell in cells)

    def row(tree: Tree) -> dict[str, Any]:
        walk = study.walks(tree).get(policy)
        if walk is None:
            raise UserError(study.failure(tree, policy) or "there is no walk through this question")
        return {**asked(tree.question), **told(tree, walk), "metrics": outcome(tree, walk, task, cell.cost_ratio)}

    data, facts = answer(cfg, ctx, study, row)
    rows = ok(ctx.samples)
    if not rows:
        raise UserError(f"No question was answered; the first one: {first_error(ctx)}")
    page.write(
        ctx.folder / "trajectories.html", page.gather({cell: rows}), {passage.id: passage for passage in data.passages}
    )
    metrics = cell_metrics([sample["metrics"] for sample in rows], seed=cfg.seed)
    return Result(metrics=metrics, facts={"headline": [*HEADLINE], **facts, **of_process(task, [cell.cost_ratio])})


def first_error(ctx: RunContext) -> str:
    """What the first failed sample says."""
    return next((str(sample["error"]) for sample in ctx.samples if sample["error"]), "there was none")


def sharing(cfg: RunConfig, siblings: Sequence[RunConfig]) -> list[Cell]:
    """The cells of those jobs of a sweep that differ from this one in strategy and cost alone."""
    found = []
    for other in siblings:
        if isinstance(other.task, ArgoConfig):
            cell = Cell(strategy=other.task.strategy, cost_ratio=other.task.cost_ratio)
            here = replace(cfg.task, strategy=cell.strategy, cost_ratio=cell.cost_ratio)
            same = ("models", "dataset", "hardware", "gpu_mode", "seed")
            if other.task == here and all(getattr(other, name) == getattr(cfg, name) for name in same):
                found.append(cell)
    return found


class Grower(Protocol):
    """What knows which calls a run takes: a `Study`."""

    def plan(self, questions: Iterable[Question]) -> Plan:
        """See `Study.plan`."""

    def grow(self, trees: Sequence[Tree], frontier: Frontier) -> None:
        """See `Study.grow`."""


def answer(
    cfg: RunConfig, ctx: RunContext, study: Grower, row: Callable[[Tree], dict[str, Any]]
) -> tuple[QuestionSet, dict[str, Any]]:
    """Grow the trees of the questions that are not done, and keep `row` of each; returns the data and facts about it.

    Raises:
        UserError: the data, the model or the store cannot be used.
    """
    from argo.engines import open_engine
    from argo.frontier import Frontier
    from argo.retrieve import open_retriever
    from argo.store import CallStore

    task: ArgoConfig = cfg.task
    data = read_questions(cfg.dataset, cfg.dataset.max_samples or MODES[task.mode])
    usable = [question for question in data.questions if not question.problem]
    todo = [question for question in usable if question.id not in ctx.samples]
    whole = study.plan(usable)
    log.info("%d questions: %s", len(usable), whole)
    trees: dict[str, Tree] = {}
    with (
        CallStore(Path(task.store).expanduser() if task.store else STORE) as store,
        Progress("calls", study.plan(todo).unique, unit="call") as progress,
        Frontier(
            task=task,
            engine=open_engine(cfg),
            retriever=open_retriever(cfg, data.passages),
            passages={passage.id: passage for passage in data.passages},
            store=store,
            advance=progress.advance,
        ) as frontier,
    ):

        def work(question: Question) -> dict[str, Any]:
            if question.problem:
                raise UserError(question.problem)
            if question.id not in trees:
                start = todo.index(question)
                fresh = {one.id: Tree(question=one) for one in todo[start : start + CHUNK]}
                study.grow(list(fresh.values()), frontier)
                trees.clear()
                trees.update(fresh)
            return row(trees[question.id])

        ctx.each(data.questions, work, label=task.method)
    log.info("%d model calls made, %d found", frontier.made, frontier.found)
    return data, about(data, whole, frontier)


def about(data: QuestionSet, plan: Plan, frontier: Frontier) -> dict[str, Any]:
    """What a record says of its questions and calls."""
    return {
        "plan": {
            "unique_calls": plan.unique,
            "at_most_more": plan.at_most,
            "naive_calls": plan.naive,
            "made": frontier.made,
            "found": frontier.found,
        },
        "engine": frontier.engine.identity,
        "retriever": frontier.retriever.identity,
        "data": data.notes | {"problems": list(data.problems)},
        "baselines": baselines(data.questions),
    }


def of_process(task: ArgoConfig, ratios: Sequence[float]) -> dict[str, Any]:
    """The decision process: the optimal policy at every cost, and where it changes."""
    from argo.mdp import Mdp, solve

    solved = {ratio: solve(Mdp.at(task.mdp, ratio)) for ratio in ratios}
    return {
        "words": {f"{ratio:g}": solution.word for ratio, solution in solved.items()},
        "thresholds": {
            f"{ratio:g}": {
                "theta_cont": solution.theta_cont,
                "theta_star": solution.theta_star,
                "is_threshold": solution.is_threshold,
            }
            for ratio, solution in solved.items()
        },
        "breakpoints": [point / task.mdp.c_p for point in breakpoints(task.mdp)],
        "critical_cost_ratio": critical_cost(task.mdp) / task.mdp.c_p,
    }


def asked(question: Question) -> dict[str, Any]:
    """A question as its row shows it."""
    return {
        "question": question.question,
        "options": list(question.options),
        "answer": question.answer,
        "answers": list(question.answers),
        "difficulty": question.difficulty,
        "supporting": list(question.supporting),
        "flags": list(question.flags),
    }
