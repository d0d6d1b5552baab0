"""`task=argo_calibration`: parameters to run with, from what steps bring on held-out questions.

Every question is answered along two chains, retrievals alone and reasoning alone; calibrate.py makes estimates of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from argo.calibrate import Trace, estimate, right_probability
from argo.frontier import Frontier
from argo.questions import Question
from argo.schema import CalibrationConfig
from argo.study import Plan, picked
from argo.task import answer, asked, first_error
from argo.tree import Tree, Want
from suite.config import RunConfig
from suite.context import ok
from suite.errors import UserError
from suite.quality.squad import token_f1
from suite.report.words import number
from suite.result import Result

if TYPE_CHECKING:
    from suite.context import RunContext


class Chains:
    """In place of a `Study`: every question after 0, 1, ... steps of one kind, none of which fails."""

    def __init__(self, steps: int) -> None:
        self.ends = [letter * n for letter in "RP" for n in range(steps + 1)]

    def want(self) -> Want:
        """The ends and what leads there."""
        return Want(ends=set(self.ends))

    def plan(self, questions: Iterable[Question]) -> Plan:
        """See `Study.plan`."""
        number = sum(1 for _ in questions)
        alone = sum(2 * len(end) + 1 for end in self.ends)
        return Plan(unique=number * self.want().calls, at_most=0, naive=number * alone)

    def grow(self, trees: Sequence[Tree], frontier: Frontier) -> None:
        """See `Study.grow`."""
        frontier.grow([(tree, self.want()) for tree in trees])


def run(cfg: RunConfig, ctx: RunContext) -> Result:
    """Walk the chains, then estimate.

    Raises:
        UserError: bad input, no question was answered, or the chains teach nothing.
    """
    task: CalibrationConfig = cfg.task

    def row(tree: Tree) -> dict[str, Any]:
        if tree.failed:
            raise UserError(next(iter(tree.failed.values())))
        chains = {letter: [score(tree, letter * n) for n in range(task.steps + 1)] for letter in "RP"}
        supporting = set(tree.question.supporting)
        handed = [tree.nodes["R" * n].handed for n in range(1, task.steps + 1)]
        return {
            **asked(tree.question),
            "retrieved": chains["R"],
            "reasoned": chains["P"],
            "supported": [bool(supporting & set(names)) for names in handed] if supporting else None,
            "metrics": {},
        }

    _, facts = answer(cfg, ctx, Chains(task.steps), row)
    rows = ok(ctx.samples)
    if not rows:
        raise UserError(f"No question was answered; the first one: {first_error(ctx)}")
    bends = task.mdp.reward == "saturating"
    found = estimate(
        [trace(sample) for sample in rows], seed=cfg.seed, saturating_delta_r=task.mdp.delta_r if bends else None
    )
    notes = {
        "delta_r": "progress of a retrieval that succeeds" + (" (given)" if bends else ""),
        "delta_p": "progress of a step of reasoning",
        "p_s": "retrievals that succeed",
        "alpha": "steepness of the saturating reward",
    }
    metrics = {
        name: value.metric(unit="1", origin="computed", note=note)
        for name, note in notes.items()
        if (value := getattr(found, name)) is not None
    }
    lines = [
        ["retrievals", *map(number, found.retrieved)],
        ["reasoning", *map(number, found.reasoned)],
    ]
    title = f"Mean progress U after so many steps (score {number(found.start)} at U = 0, {number(found.best)} at U = 1)"
    table = {"title": title, "header": ["chain", *map(str, range(1, task.steps + 1))], "rows": lines}
    return Result(metrics=metrics, facts=facts | {"tables": [table]})


def score(tree: Tree, path: str) -> float:
    """How good the answer at a path is: probability of the right option, or 1 and 0; F1 of a free-form answer."""
    question, final = tree.question, tree.nodes[path].final
    assert final is not None
    if not question.options:
        return max(token_f1(final.text, answer) for answer in question.answers)
    if final.scores is not None and question.answer is not None:
        return right_probability(final.scores, question.answer)
    return float(picked(question, final) == question.answer)


def trace(sample: dict[str, Any]) -> Trace:
    """A row as calibrate.py wants it."""
    return Trace(
        question=sample["id"],
        start=sample["retrieved"][0],
        retrieved=tuple(sample["retrieved"][1:]),
        reasoned=tuple(sample["reasoned"][1:]),
        supported=None if sample["supported"] is None else tuple(sample["supported"]),
    )
