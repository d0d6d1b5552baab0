"""One edge's session on the cloud's model: messages in, verdicts out. No gRPC here.

Several sessions share the weights; each has a cache of its own, and with it one live sequence.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from typing import Any

from torch import Tensor

from edgecloud.batch import BatchedLM, Lane
from edgecloud.counters import SOURCES
from edgecloud.draft import Drafted
from edgecloud.lean import lean_supports
from edgecloud.lm import CachedLM
from edgecloud.sampling import Luck, Sampling
from edgecloud.verify import VERIFIERS, LocalCloud, Verification, ensemble, lossless
from edgecloud.wire import (
    BadMessage,
    Begin,
    Judge,
    Peek,
    Refused,
    Surprises,
    Verdicts,
    require,
    unpacked_prompt,
    unpacked_q,
)
from suite.errors import UserError


class SharedLM(CachedLM):
    """A `CachedLM` that is computed as if alone; its forward passes take turns with those of its siblings."""

    def __init__(self, model: Any, *, vocab: int, engine: str) -> None:
        """The first of the siblings: it fuses the weights, once for all."""
        super().__init__(model, vocab=vocab, engine=engine)
        self.turn = threading.Lock()

    def sibling(self) -> SharedLM:
        """Another sequence on the same weights."""
        other = copy.copy(self)
        other.engine = copy.copy(self.engine)
        other.reset()  # transformers' engine makes a new cache; of the lean one there is only one live sibling
        return other

    def logits(self, sequence: list[int], keep: int = 1) -> Tensor:
        """See `CachedLM`."""
        with self.turn:
            return super().logits(sequence, keep)

    def close(self) -> None:
        """Nothing to give back: the cache goes with it."""


Leased = SharedLM | Lane
Lease = Callable[[], Leased]
"""Hands out a sequence with a cache of its own over shared weights, to be closed after use."""


def leases(model: Any, *, vocab: int, engine: str, most: int) -> Lease:
    """At most `most` sequences at a time on one model, those that wait at the same time computed together.

    A single one, and any on a model that only transformers knows, is computed exactly as in one process; a batch
    rounds differently, which in bfloat16 now and then is a token.
    """
    if most > 1 and engine == "lean" and lean_supports(model):
        return BatchedLM(model, slots=most, vocab=vocab).sequence
    return SharedLM(model, vocab=vocab, engine=engine).sibling


class Session:
    """What the cloud keeps of one edge: a cache, and the sample it is at."""

    def __init__(self, model: Leased) -> None:
        self.model = model
        self.cloud: LocalCloud | None = None
        self.emitted: list[int] = []
        self.needs_q = False
        self.refusal = "No sample has begun."

    def answer(self, message: Begin | Judge | Peek) -> Verdicts | Surprises | Refused | None:
        """What to say to a message; None to `Begin`.

        Raises:
            BadMessage: it cannot be, given those before.
        """
        try:
            if isinstance(message, Begin):
                self.begin(message)
                return None
            if self.cloud is None:
                return Refused(sentence=self.refusal)
            return self.judge(message, self.cloud) if isinstance(message, Judge) else self.peek(message, self.cloud)
        except UserError as error:
            self.cloud, self.refusal = None, str(error)
            return None if isinstance(message, Begin) else Refused(sentence=self.refusal)

    def begin(self, message: Begin) -> None:
        """Forget the sample before.

        Raises:
            UserError: the model cannot hear its clip.
        """
        self._check_ids(message.tokens)
        sampling = Sampling(temperature=message.temperature, top_p=message.top_p)
        how = Verification(
            sampling=sampling,
            rank_threshold=message.rank_threshold,
            surprise_threshold_nats=message.surprise_threshold_nats,
            cloud_weight=message.cloud_weight,
        )
        verifier = VERIFIERS[message.verification]
        self.needs_q = needs_q(message.verification, sampling)
        self.emitted, self.cloud = [], None
        cloud = LocalCloud(self.model, verifier, how)
        cloud.reset(unpacked_prompt(message), Luck(message.seed, message.sample))
        self.cloud = cloud

    def judge(self, message: Judge, cloud: LocalCloud) -> Verdicts:
        """One round."""
        require(not self.needs_q or len(message.q) == sum(message.unsure), "judge.q is missing")
        qs = iter([unpacked_q(q, self.model.vocab) for q in message.q])
        drafted = self._follow(message)
        for d, unsure in zip(drafted, message.unsure, strict=True):
            if unsure and message.q:
                d.q = next(qs)
        verdicts = cloud.judge(self.emitted, drafted, list(message.unsure), message.room)
        return Verdicts(
            tokens=tuple(verdict.token for verdict in verdicts),
            sources=tuple(SOURCES.index(verdict.source) for verdict in verdicts),
            seconds=cloud.seconds,
            computed=cloud.computed,
        )

    def peek(self, message: Peek, cloud: LocalCloud) -> Surprises:
        """For the oracle gate."""
        nats = cloud.peek(self.emitted, self._follow(message))
        return Surprises(nats=tuple(nats), seconds=cloud.seconds, computed=cloud.computed)

    def _follow(self, message: Judge | Peek) -> list[Drafted]:
        """Take over what was emitted meanwhile."""
        self._check_ids(message.new)
        self._check_ids(message.drafted)
        require(message.known == len(self.emitted), "the edge and the cloud are not at the same token")
        self.emitted.extend(message.new)
        return [Drafted(token=token) for token in message.drafted]

    def _check_ids(self, tokens: tuple[int, ...]) -> None:
        """Only tokens the model has: on a GPU one that it has not would end the whole server."""
        if tokens and not 0 <= min(tokens) <= max(tokens) < self.model.vocab:
            raise BadMessage(f"a token is not below {self.model.vocab}")


def needs_q(verification: str, sampling: Sampling) -> bool:
    """Whether the verifier looks at what a token was drawn from."""
    verifier = VERIFIERS[verification]
    return verifier is ensemble or (verifier is lossless and not sampling.greedy)
