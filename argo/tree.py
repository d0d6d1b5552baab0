"""The tree of one question: what the models said at every path that any walk takes.

A node holds what has been handed on and found out when its path is reached; `frontier.py` grows it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from argo.calls import Reply
from argo.prompts import Note, sorted_as
from argo.questions import Question
from argo.walk import Unknown, Walk, closure, prefixes
from suite.errors import UserError


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """What calls took, added up.

    Attributes:
        calls: model calls.
        prompt_tokens: read.
        completion_tokens: generated.
        latency_ms: measured, each call's share of its batch; None where one is not known.
        dropped: passages that did not fit a prompt.
    """

    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    latency_ms: float | None = 0.0
    dropped: int = 0

    def plus(self, reply: Reply, dropped: int = 0) -> Spent:
        """With one more call."""
        before, more = self.latency_ms, reply.latency_ms
        return Spent(
            calls=self.calls + 1,
            prompt_tokens=self.prompt_tokens + reply.prompt_tokens,
            completion_tokens=self.completion_tokens + reply.completion_tokens,
            latency_ms=None if before is None or more is None else before + more,
            dropped=self.dropped + dropped,
        )


@dataclass(slots=True, kw_only=True)
class Node:
    """One path that was reached.

    Attributes:
        handed: ids of the passages handed on by its last step.
        passages: ids of all passages handed on so far, in order.
        seen: those and the ones turned down, which are not shown again.
        notes: sub-queries and what was found, of all steps.
        spent: on getting here, from the start.
        query: the next sub-query; None until asked for. After a failed retrieval the last one stands.
        found: ids of the passages that a retrieval from here hands on, and
        similarity: the best one's score; None until searched for.
        final: the answer given here; None until asked for.
        dropped: passages that did not fit its prompt.
    """

    handed: tuple[str, ...] = ()
    passages: tuple[str, ...] = ()
    seen: tuple[str, ...] = ()
    notes: tuple[Note, ...] = ()
    spent: Spent = Spent()
    query: Reply | None = None
    found: tuple[str, ...] = ()
    similarity: float | None = None
    final: Reply | None = None
    dropped: int = 0


@dataclass(slots=True, kw_only=True)
class Want:
    """What walks need of one tree.

    Attributes:
        ends: paths at which an answer is wanted.
        asks: paths at which the next sub-query is wanted, even if no step from there succeeded.
        sort: whether the question's difficulty is wanted.
    """

    ends: set[str] = field(default_factory=set)
    asks: set[str] = field(default_factory=set)
    sort: bool = False

    def add(self, walk: Walk) -> None:
        """Everything a finished walk needs."""
        self.ends.add(walk.path)
        self.asks.update(walk.asked)

    def look(self, kind: str, path: str) -> None:
        """What a strategy asked for (`walk.Unknown`)."""
        if kind == "difficulty":
            self.sort = True
        else:
            (self.ends if kind == "final" else self.asks).add(path)

    def paths(self) -> set[str]:
        """Every path on the way, the empty one included."""
        return closure(self.ends | self.asks)

    @property
    def calls(self) -> int:
        """Model calls that this takes, each made once."""
        paths = self.paths()
        left = {path[:-1].rstrip("F") for path in paths if path} | {path.rstrip("F") for path in self.asks}
        return len(left) + sum(path != "" and path[-1] != "F" for path in paths) + len(self.ends) + self.sort


@dataclass(slots=True, kw_only=True)
class Tree:
    """A question, its nodes by path, and why there is none where a call failed.

    Attributes:
        sort: how many documents the question was said to take; None until asked for.
        failed: (what was asked: `step`, `query`, `final` or `difficulty`; path) -> why there is no answer.
    """

    question: Question
    nodes: dict[str, Node] = field(default_factory=lambda: {"": Node()})
    sort: Reply | None = None
    failed: dict[tuple[str, str], str] = field(default_factory=dict)

    def know(self, kind: str, path: str) -> object:
        """What a strategy may ask (`strategies.Know`).

        Raises:
            Unknown: it was not asked of the models yet.
            UserError: it was, and the call failed.
        """
        if reason := self.failed.get((kind, path)) or self._unreached(path):
            raise UserError(reason)
        node = self.nodes.get(path)
        if kind == "difficulty" and self.sort is not None:
            return sorted_as(self.sort.text)
        if kind == "similarity" and node is not None and node.similarity is not None:
            return node.similarity
        if kind == "final" and node is not None and node.final is not None:
            return node.final.scores
        raise Unknown(kind, path)

    def problem(self, walk: Walk) -> str | None:
        """Why a walk cannot be told, None if it can."""
        asked = next((self.failed[place] for path in walk.asked if (place := ("query", path)) in self.failed), None)
        return self._unreached(walk.path) or asked or self.failed.get(("final", walk.path))

    def spent(self, walk: Walk) -> Spent:
        """What a walk took, were it alone."""
        node = self.nodes[walk.path]
        total = node.spent
        if walk.steps and not walk.steps[-1].ok and node.query is not None:
            total = total.plus(node.query)  # of which nothing came
        for kind, path in walk.probed:
            probed = self.sort if kind == "difficulty" else self.nodes[path].final if kind == "final" else None
            if probed is not None and (kind, path) != ("final", walk.path):
                total = total.plus(probed, self.nodes[path].dropped)
        assert node.final is not None
        return total.plus(node.final, node.dropped)

    def _unreached(self, path: str) -> str | None:
        if not self.failed or path in self.nodes:
            return None
        places = ((kind, prefix) for prefix in prefixes(path) for kind in ("step", "query"))
        return next((self.failed[place] for place in places if place in self.failed), None)
