"""What is asked of a language model, what it says, and who can be asked."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One question to the model, greedy.

    Attributes:
        prompt: the text to go on from; for a chat engine, the user's turn.
        options: continuations to be scored; empty: generate.
        max_new_tokens: tokens generated at most.
        stop: texts that end the generation; the reply is cut before them.
        raw: go on from the prompt as it stands, in no turn of a chat; so are options always scored.
    """

    prompt: str
    options: tuple[str, ...] = ()
    raw: bool = False
    max_new_tokens: int = 50
    stop: tuple[str, ...] = ("\n",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What the model said, and what it took.

    Attributes:
        text: generated, stripped; of scored options, the likeliest.
        scores: log-probability of each option (nats, summed over its tokens); None of a generation.
        prompt_tokens: tokens read.
        completion_tokens: tokens generated; 0 of scored options.
        latency_ms: wall time of the batch it ran in over the calls of that batch, measured; None where not known.
        finish: `stop` or `length`; `scored`.
    """

    text: str
    scores: tuple[float, ...] | None = None
    prompt_tokens: int
    completion_tokens: int
    latency_ms: float | None
    finish: str = "stop"


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A call that got no usable answer, after all retries."""

    error: str


class Engine(Protocol):
    """Something that answers calls.

    Attributes:
        identity: what else than the prompt decides an answer: model, revision, precision, engine, chat template.
        window: tokens of prompt and answer together at most.
        batch: calls worth handing over at once.
    """

    identity: dict[str, Any]
    batch: int

    @property
    def window(self) -> int:
        """See the attributes."""

    def answer(self, calls: Sequence[Call]) -> list[Reply | Failure]:
        """One outcome per call, in order. A call that fails does not spoil the others.

        Raises:
            UserError: nothing can be answered at all.
        """

    def tokens(self, text: str) -> int:
        """How many tokens a text is, about as the model counts."""


@dataclass(slots=True)
class Keys:
    """Content addresses of an engine's calls: equal keys, equal answers."""

    identity: dict[str, Any]
    replicate: int = 0
    _start: Any = field(init=False)

    def __post_init__(self) -> None:
        told = json.dumps({**self.identity, "replicate": self.replicate}, sort_keys=True, ensure_ascii=False)
        self._start = hashlib.blake2b(told.encode(), digest_size=20)

    def __call__(self, call: Call) -> str:
        """Hex digits that depend on the identity, the replicate and all of the call."""
        whole = self._start.copy()
        told = {name: getattr(call, name) for name in Call.__slots__}  # not asdict, whose copies take half of a replay
        whole.update(json.dumps(told, sort_keys=True, ensure_ascii=False).encode())
        return str(whole.hexdigest())
