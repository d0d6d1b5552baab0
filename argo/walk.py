"""One question through one strategy: the decision process, played out. No model is asked here.

A path is what the steps so far have come to, a letter a step: `R` a retrieval that succeeded, `P` a step of reasoning,
`F` a retrieval whose passages were turned down. All that is ever asked of a model is a function of (question, path),
so walks of different strategies and costs share whatever part of their path they share. A retrieval that fails by lot
leaves no letter: nothing was handed on, and the same sub-query stands.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from argo.mdp import Action
from argo.schema import ArgoConfig
from argo.strategies import STRATEGIES, Kind, Know, Rules, Situation, margin
from suite.rng import generator


class Unknown(Exception):
    """A strategy wants to know what was not asked of the models yet."""

    def __init__(self, kind: str, path: str) -> None:
        super().__init__(kind, path)
        self.kind, self.path = kind, path


@dataclass(frozen=True, slots=True, kw_only=True)
class Luck:
    """The draws of one question, the same for every strategy and cost: the n-th retrieval has the n-th number.

    Attributes:
        retrievals: (max_steps,) in [0, 1); below p_s, that retrieval succeeds.
        lots: (max_steps,) for `random`.
    """

    retrievals: tuple[float, ...]
    lots: tuple[float, ...]


def luck(seed: int, question: str, task: ArgoConfig) -> Luck:
    """Draws that depend on (seed, replicate, question) alone."""

    def draw(purpose: str) -> tuple[float, ...]:
        numbers: np.ndarray = generator(seed, question, purpose, task.replicate).random(task.max_steps)
        return tuple(numbers.tolist())

    return Luck(retrievals=draw("retrieval"), lots=draw("random"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """One step.

    Attributes:
        action: what was chosen.
        u: progress before it, in [0, 1].
        ok: whether it succeeded; reasoning always does.
        path: where it stood, so its sub-query is that of this path.
        after: the path it led to.
    """

    action: Action
    u: float
    ok: bool
    path: str
    after: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Walk:
    """What one strategy does with one question.

    Attributes:
        steps: in order.
        path: where it answers.
        u: progress there, in [0, 1].
        asked: paths at which a sub-query was needed.
        probed: what the strategy asked the models, beside the steps themselves.
    """

    steps: tuple[Taken, ...]
    path: str
    u: float
    asked: tuple[str, ...]
    probed: tuple[tuple[str, str], ...] = ()

    @property
    def calls(self) -> int:
        """Model calls of this walk alone: sub-queries, their answers, the strategy's own, the final answer."""
        probes = {probe for probe in self.probed if probe != ("final", self.path) and probe[0] != "similarity"}
        return len(self.asked) + sum(letter != "F" for letter in self.path) + len(probes) + 1

    @property
    def retrievals(self) -> int:
        """Retrievals tried."""
        return sum(step.action is Action.RETRIEVE for step in self.steps)

    @property
    def reasons(self) -> int:
        """Steps of reasoning."""
        return len(self.steps) - self.retrievals


def walk(strategy: str, rules: Rules, draws: Luck, know: Know) -> Walk:
    """Play a question from U = 0 until the strategy terminates, or for `max_steps`.

    Raises:
        Unknown: the strategy needs an answer of the models first; get it and play again.
    """
    decide, task, solution = STRATEGIES[strategy], rules.task, rules.solution
    path, u, retrievals = "", 0, 0
    steps: list[Taken] = []
    probed: dict[tuple[str, str], None] = {}

    def ask(kind: Kind, where: str) -> Any:
        probed[kind, where] = None
        return know(kind, where)

    for step in range(task.max_steps):
        at = Situation(u=u, step=step, retrievals=retrievals, path=path, lot=draws.lots[step])
        action = decide(at, rules, ask)
        if action is Action.TERMINATE:
            break
        before, ok, letter = path, True, "P"
        if action is Action.RETRIEVE:
            ok = _succeeds(path, draws.retrievals[retrievals], rules, ask)
            letter = "R" if ok else "" if task.success == "bernoulli" else "F"
            retrievals += 1
        path += letter
        steps.append(Taken(action=action, u=u / solution.units, ok=ok, path=before, after=path))
        if ok:
            u = solution.advance(u, action)
    asked = tuple(dict.fromkeys(taken.path.rstrip("F") for taken in steps))  # F: the last sub-query stands
    return Walk(steps=tuple(steps), path=path, u=u / solution.units, asked=asked, probed=tuple(probed))


def _succeeds(path: str, lot: float, rules: Rules, ask: Know) -> bool:
    """Whether a retrieval at `path` succeeds, by `task.success`."""
    if rules.task.success == "bernoulli":
        return lot < rules.solution.p_s
    if rules.task.success == "similarity":
        return bool(ask("similarity", path) >= rules.task.similarity_threshold)
    return margin(ask("final", f"{path}R")) >= margin(ask("final", path))


def prefixes(path: str) -> Iterable[str]:
    """Every path on the way, the empty one and the path itself included, shortest first."""
    return (path[:n] for n in range(len(path) + 1))


def closure(paths: Iterable[str]) -> set[str]:
    """All paths on the way to any of `paths`."""
    return set(chain.from_iterable(prefixes(path) for path in paths))
