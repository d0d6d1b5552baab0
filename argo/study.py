"""Many questions through many cells (strategy, cost of retrieval): plan the union of their trees, grow it, read it off.

Cells that take the same steps whatever the models say are one policy: ARGO's at two costs with the same optimal word,
any other strategy at all costs. So ten cost points cost little more than one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from argo.calls import Reply
from argo.curves import Cell
from argo.frontier import Frontier
from argo.mdp import Action, Mdp, solve
from argo.prompts import chosen
from argo.questions import Question
from argo.schema import ArgoConfig
from argo.strategies import Rules
from argo.tree import Tree, Want
from argo.walk import Luck, Unknown, Walk, luck, walk
from suite.errors import UserError
from suite.quality.squad import exact_match, token_f1

Policy = tuple[str, str]
"""Strategy, and what tells its steps apart between costs: the optimal word."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Model calls that a study takes.

    Attributes:
        unique: calls of the union of all trees, each made once; exact where no strategy asks the models first.
        at_most: bound on what strategies that do may add.
        naive: calls when every cell is run by itself, exact as `unique` is.
    """

    unique: int
    at_most: int
    naive: int

    def __str__(self) -> str:
        more = f" and at most {self.at_most} more" if self.at_most else ""
        return f"{self.unique} model calls{more}, in place of {self.naive} cell by cell"


class Study:
    """The walks of every cell over trees that they share.

    Attributes:
        policies: the distinct ones, each with the cells that follow it.
    """

    def __init__(self, task: ArgoConfig, seed: int, cells: Iterable[Cell]) -> None:
        """Solve the decision process at every cost.

        Raises:
            ConfigError: it cannot be solved.
        """
        self.task, self.seed = task, seed
        self.rules: dict[Policy, Rules] = {}
        self.policies: dict[Policy, list[Cell]] = {}
        for cell in cells:
            solution = solve(Mdp.at(task.mdp, cell.cost_ratio))
            policy = (cell.strategy, solution.word if cell.strategy == "argo" else "")
            self.rules.setdefault(policy, Rules(task=task, solution=solution))
            self.policies.setdefault(policy, []).append(cell)
        self.luck = lru_cache(maxsize=None)(self._luck)

    def _luck(self, question: str) -> Luck:
        return luck(self.seed, question, self.task)

    def plan(self, questions: Iterable[Question]) -> Plan:
        """Count before anything runs."""
        unique = at_most = naive = 0
        for question in questions:
            want = Want()
            for policy, cells in self.policies.items():
                try:
                    found = walk(policy[0], self.rules[policy], self.luck(question.id), _nothing_known)
                except Unknown:
                    at_most += 3 * self.task.max_steps + 2  # a step is a sub-query, its answer and a look at the result
                    continue
                want.add(found)
                naive += found.calls * len(cells)
            unique += want.calls
        return Plan(unique=unique, at_most=at_most, naive=naive)

    def grow(self, trees: Sequence[Tree], frontier: Frontier) -> None:
        """Have everything asked that the walks of all policies come by."""
        pending = True
        while pending:
            pending, wants = False, []
            for tree in trees:
                want = Want()
                for policy in self.policies:
                    try:
                        want.add(self._walk(policy, tree))
                    except Unknown as unknown:
                        pending = True
                        want.look(unknown.kind, unknown.path)
                    except UserError:
                        continue  # the cell's row tells
                wants.append((tree, want))
            frontier.grow(wants)

    def walks(self, tree: Tree) -> dict[Policy, Walk]:
        """The walk of every policy through a grown tree; one through a failed call is left out."""
        found = {}
        for policy in self.policies:
            try:
                one = self._walk(policy, tree)
            except UserError:
                continue
            if tree.problem(one) is None:
                found[policy] = one
        return found

    def failure(self, tree: Tree, *policies: Policy) -> str | None:
        """Why a cell of this question has no result, if one of `policies` (none named: of all) has none."""
        for policy in policies or self.policies:
            try:
                if problem := tree.problem(self._walk(policy, tree)):
                    return problem
            except UserError as error:
                return str(error)
        return None

    def _walk(self, policy: Policy, tree: Tree) -> Walk:
        return walk(policy[0], self.rules[policy], self.luck(tree.question.id), tree.know)


def _nothing_known(kind: str, path: str) -> object:
    raise Unknown(kind, path)


def told(tree: Tree, one: Walk) -> dict[str, Any]:
    """A walk as a reader sees it: its steps, and the answer it came to."""
    final = tree.nodes[one.path].final
    assert final is not None
    option = picked(tree.question, final)
    return {
        "prediction": final.text if option is None else tree.question.options[option],
        "option": option,
        "scores": None if final.scores is None else [round(score, 4) for score in final.scores],
        "u": round(one.u, 6),
        "trajectory": [
            {
                "action": step.action.value,
                "u": round(step.u, 6),
                "ok": step.ok,
                "sub_query": query.text if (query := tree.nodes[step.path].query) else None,
                "passages": list(tree.nodes[step.after].handed) if step.ok else [],
                "answer": tree.nodes[step.after].notes[-1].answer if step.ok else None,
            }
            for step in one.steps
        ],
    }


def picked(question: Question, final: Reply) -> int | None:
    """The option that a final answer comes to; None of a free-form question, or where it names none."""
    if not question.options:
        return None
    if final.scores is not None:
        return max(range(len(final.scores)), key=final.scores.__getitem__)
    return chosen(final.text, question.options)


def outcome(tree: Tree, one: Walk, task: ArgoConfig, cost_ratio: float) -> dict[str, float | None]:
    """The metrics of one question in one cell; no cost where it is infinite."""
    question, node, spent = tree.question, tree.nodes[one.path], tree.spent(one)
    final = node.final
    assert final is not None
    right: dict[str, float | None]
    if question.options:
        right = {"correct": float(picked(question, final) == question.answer)}
    else:
        right = {
            "correct": max(exact_match(final.text, answer) for answer in question.answers),
            "f1": max(token_f1(final.text, answer) for answer in question.answers),
        }
    if question.supporting:
        right["support"] = len(set(question.supporting) & set(node.passages)) / len(set(question.supporting))
    c_p, retrievals, reasons = task.mdp.c_p, one.retrievals, one.reasons
    cost = (retrievals * cost_ratio * c_p if retrievals else 0.0) + reasons * c_p
    return right | {
        "retrievals": retrievals,
        "retrieved": sum(step.ok for step in one.steps if step.action is Action.RETRIEVE),
        "reasons": reasons,
        "llm_calls": spent.calls,
        "prompt_tokens": spent.prompt_tokens,
        "completion_tokens": spent.completion_tokens,
        "cost": round(cost, 9) if math.isfinite(cost) else None,
        "latency_ms": spent.latency_ms,
        "dropped": spent.dropped,
    }


def baselines(questions: Sequence[Question]) -> dict[str, float]:
    """Accuracies of reading nothing: chance, always the commonest key, always the longest option."""
    asked = [question for question in questions if question.options and not question.problem]
    if not asked:
        return {}
    keys = [question.answer for question in asked]
    lengths = [[len(option) for option in question.options] for question in asked]
    longest = [row.index(max(row)) for row in lengths]
    return {
        "chance": sum(1 / len(question.options) for question in asked) / len(asked),
        "majority": max(keys.count(key) for key in set(keys)) / len(asked),
        "longest_option": sum(a == b for a, b in zip(keys, longest, strict=True)) / len(asked),
    }
