"""Several replicas of one model behind one queue of batches: whoever is free takes the next.

A batch that a replica fails goes to another one, once. A replica that fails twice in a row is dead, and the others do
the rest. A batch that fails on two replicas fails for good, and only its calls with it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from argo.calls import Call, Engine, Failure, Reply
from suite.errors import UserError

log = logging.getLogger(__name__)

STRIKES = 2
"""Failures in a row of which a replica dies; also the replicas that a batch is tried on."""


@dataclass(slots=True, eq=False)
class Batch:
    """Calls for one replica, by their places among all."""

    places: list[int]
    tried: set[int] = field(default_factory=set)


class ReplicaPool:
    """An `argo.calls.Engine` over engines of equal identity.

    Attributes:
        batch: a batch for each replica.
        strikes: failures in a row of each replica.
    """

    def __init__(self, engines: Sequence[Engine]) -> None:
        """Share the calls among `engines`, at least one."""
        self.engines = list(engines)
        self.identity: dict[str, Any] = self.engines[0].identity
        self.window = min(engine.window for engine in self.engines)
        self.batch = sum(engine.batch for engine in self.engines)
        self.strikes = [0] * len(self.engines)

    def tokens(self, text: str) -> int:
        """As any replica counts."""
        return self.engines[0].tokens(text)

    def alive(self) -> set[int]:
        """Replicas that are not dead."""
        return {replica for replica, strikes in enumerate(self.strikes) if strikes < STRIKES}

    def answer(self, calls: Sequence[Call]) -> list[Reply | Failure]:
        """See `Engine`.

        Raises:
            UserError: no replica is left.
        """
        round_ = Round(self, calls)
        with ThreadPoolExecutor(len(self.engines)) as threads:
            workers = [threads.submit(round_.work, replica) for replica in self.alive()]
            try:
                for worker in workers:
                    worker.result()
            finally:  # also at an interrupt: the threads end with the batches they are on
                round_.queue.clear()
        if not self.alive():
            raise UserError(f"All {len(self.engines)} replicas of the model failed; the last said: {round_.last_words}")
        return [round_.outcomes[place] for place in range(len(calls))]


class Round:
    """One `answer` of a pool: what is still to be done, and what came of the rest."""

    def __init__(self, pool: ReplicaPool, calls: Sequence[Call]) -> None:
        self.pool, self.calls = pool, calls
        self.outcomes: dict[int, Reply | Failure] = {}
        self.last_words = "nothing"
        self.queue, self.under_way = list[Batch](), 0
        self.changed = threading.Condition()
        # of like length, so that batches waste little on padding, and the longest first, so that all end together
        order = sorted(range(len(calls)), key=lambda i: (bool(calls[i].options), len(calls[i].prompt)), reverse=True)
        replicas = max(1, len(pool.alive()))
        size = max(1, min(pool.batch // len(pool.engines), -(-len(calls) // replicas)))
        self.queue += [Batch(order[start : start + size]) for start in range(0, len(order), size)]

    def work(self, replica: int) -> None:
        """Take batches until none is left, or this replica is dead."""
        while (batch := self._take(replica)) is not None:
            try:
                outcomes = self.pool.engines[replica].answer([self.calls[place] for place in batch.places])
            except Exception as error:  # whatever a card or its driver may raise
                log.warning("Replica %d failed a batch of %d calls: %s", replica, len(batch.places), error)
                self._failed(replica, batch, str(error) or type(error).__name__)
            else:
                self._done(replica, batch, outcomes)

    def _take(self, replica: int) -> Batch | None:
        """The next batch that this replica has not tried; waits while one may still come back from another."""
        with self.changed:
            while replica in self.pool.alive():
                for batch in self.queue:
                    if replica not in batch.tried:
                        self.queue.remove(batch)
                        self.under_way += 1
                        return batch
                if not self.under_way:
                    break
                self.changed.wait()
            return None

    def _done(self, replica: int, batch: Batch, outcomes: Sequence[Reply | Failure]) -> None:
        with self.changed:
            self.pool.strikes[replica] = 0
            self.outcomes.update(zip(batch.places, outcomes, strict=True))
            self.under_way -= 1
            self.changed.notify_all()

    def _failed(self, replica: int, batch: Batch, words: str) -> None:
        with self.changed:
            self.pool.strikes[replica] += 1
            self.last_words = words
            self.under_way -= 1
            batch.tried.add(replica)
            self.queue.append(batch)
            for one in [one for one in self.queue if len(one.tried) == STRIKES or one.tried >= self.pool.alive()]:
                self.queue.remove(one)
                failure = Failure(error=f"The model failed on {len(one.tried)} of its replicas: {words}")
                self.outcomes.update((place, failure) for place in one.places)
            self.changed.notify_all()
