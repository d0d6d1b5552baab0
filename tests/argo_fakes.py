"""A deterministic model, retriever and questions, to test the logic of the grid exactly."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

from argo.calls import Call, Failure, Reply
from argo.corpus import Passage
from argo.questions import Question
from argo.retrieve import Hit

PASSAGES = {f"p{i:02d}": Passage(id=f"p{i:02d}", title=f"T{i}", text=f"fact number {i}") for i in range(60)}


def digits(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


class FakeEngine:
    """Says what a hash of the prompt says; fails where `fails` says so."""

    def __init__(self, *, fails: Callable[[Call], bool] = lambda call: False, batch: int = 7) -> None:
        self.identity: dict[str, Any] = {"engine": "fake"}
        self.window, self.batch, self.fails = 10**6, batch, fails
        self.calls: list[Call] = []

    def answer(self, calls: Sequence[Call]) -> list[Reply | Failure]:
        assert len(calls) <= self.batch
        self.calls += calls
        return [Failure(error="no answer") if self.fails(call) else self._reply(call) for call in calls]

    def tokens(self, text: str) -> int:
        return len(text.split())

    def _reply(self, call: Call) -> Reply:
        number = digits(call.prompt)
        if call.options:
            scores = tuple(-(digits(call.prompt + option) % 1000) / 250 for option in call.options)
            best = call.options[scores.index(max(scores))]
            return Reply(
                text=best, scores=scores, prompt_tokens=9, completion_tokens=0, latency_ms=2.0, finish="scored"
            )
        return Reply(text=f"w{number % 10**6}", prompt_tokens=9, completion_tokens=3, latency_ms=5.0)


class FakeRetriever:
    """Every passage, in an order that a hash of the query says."""

    def __init__(self) -> None:
        self.identity: dict[str, Any] = {"kind": "fake"}
        self.searches = 0

    def search(self, queries: Sequence[str], depth: int) -> list[list[Hit]]:
        self.searches += len(queries)
        found = []
        for query in queries:
            ranked = sorted(PASSAGES, key=lambda name: digits(query + name))
            found.append([Hit(id=name, score=(digits(query) % 100 - i) / 100) for i, name in enumerate(ranked[:depth])])
        return found


def questions(number: int, *, free: bool = False) -> list[Question]:
    options = () if free else ("alpha", "beta", "gamma", "delta")
    return [
        Question(
            id=f"q{i}",
            question=f"what is {i}?",
            options=options,
            answer=None if free else i % 4,
            answers=("alpha",) if free else (options[i % 4],),
            difficulty="hard",
            supporting=("p01", f"p{i + 2:02d}"),
        )
        for i in range(number)
    ]
