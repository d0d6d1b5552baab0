"""When to retrieve, when to reason, when to stop: every strategy as one small function of the same situation.

A strategy sees how far the question has come and, if it asks for more (`know`), what the models say there. It never
sees the right answer.

=================  ==================================================================================================
argo               argmax of Q of the decision process (mdp.py)
always_retrieve    retrieve until the information is complete (U = 1)
always_reason      reason until it is
random             one or the other by lot until it is
fixed_k            k retrievals, failed ones included, then answer: plain retrieval-augmented generation
confidence         retrieve until it is, or until the best option leads the second by `confidence_margin` nats
difficulty         the reader sorts the question first: no retrieval, one, or until it is complete.  After
                   Adaptive-RAG (Jeong et al. 2024, arXiv:2403.14403), whose classifier is trained; this one is prompted
=================  ==================================================================================================
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from argo.mdp import Action, Solution
from argo.schema import ArgoConfig

Kind = Literal["final", "difficulty", "similarity"]
Know = Callable[[Kind, str], Any]
"""What a model says at a path; raises `walk.Unknown` where it was not asked yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """Where a question stands before a step.

    Attributes:
        u: progress, in units of the solution's lattice.
        step: steps taken.
        retrievals: of them, retrievals tried.
        path: what they came to (walk.py).
        lot: a number in [0, 1) drawn for this question and step.
    """

    u: int
    step: int
    retrievals: int
    path: str
    lot: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What a strategy is given beside the situation."""

    task: ArgoConfig
    solution: Solution


Strategy = Callable[[Situation, Rules, Know], Action]


def argo(at: Situation, rules: Rules, know: Know) -> Action:
    """The optimal policy."""
    return rules.solution.action(at.u)


def always_retrieve(at: Situation, rules: Rules, know: Know) -> Action:
    """Retrieve to the end."""
    return Action.RETRIEVE if at.u < rules.solution.units else Action.TERMINATE


def always_reason(at: Situation, rules: Rules, know: Know) -> Action:
    """Reason to the end."""
    return Action.REASON if at.u < rules.solution.units else Action.TERMINATE


def random(at: Situation, rules: Rules, know: Know) -> Action:
    """A fair coin at every step."""
    if at.u >= rules.solution.units:
        return Action.TERMINATE
    return Action.RETRIEVE if at.lot < 0.5 else Action.REASON


def fixed_k(at: Situation, rules: Rules, know: Know) -> Action:
    """K retrievals, whatever comes of them."""
    return Action.RETRIEVE if at.retrievals < rules.task.fixed_k else Action.TERMINATE


def confidence(at: Situation, rules: Rules, know: Know) -> Action:
    """Retrieve while the reader hesitates between two options."""
    if at.u >= rules.solution.units or margin(know("final", at.path)) >= rules.task.confidence_margin:
        return Action.TERMINATE
    return Action.RETRIEVE


def difficulty(at: Situation, rules: Rules, know: Know) -> Action:
    """As much as the question was sorted for: `none`, `one` or `many`."""
    wanted = {"none": 0, "one": 1, "many": rules.task.max_steps}[know("difficulty", "")]
    return Action.RETRIEVE if at.retrievals < wanted and at.u < rules.solution.units else Action.TERMINATE


STRATEGIES: dict[str, Strategy] = {
    function.__name__: function
    for function in (argo, always_retrieve, always_reason, random, fixed_k, confidence, difficulty)
}


def margin(scores: tuple[float, ...] | list[float]) -> float:
    """How far the likeliest option leads the second, in nats."""
    first, second = sorted(scores, reverse=True)[:2]
    return first - second
