"""Drafters: who proposes the next tokens. The edge model, the text's own n-grams, the two together, or no one.

A drafter never decides anything: what it proposes is judged by a gate (gates.py) and, where the gate says so, by the
cloud (verify.py).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from edgecloud.codecs import Codec
from edgecloud.lm import CachedLM, Prompt
from edgecloud.sampling import Luck, Sampling, draw


@dataclass(slots=True)
class Drafted:
    """A proposed token, and what is known of it before the cloud has seen it.

    Attributes:
        token: its id.
        entropy_nats: of the edge's softmax at temperature 1; None where no model proposed it, as are the next two.
        confidence: largest probability of that softmax.
        logits: what the softmax was taken of, (columns,).
        column: the token's place in them.
        q: the distribution it was drawn from, (vocab,) by token id; None when greedy.
        chance: its position's uniform in [0, 1), for gates that draw lots.
        surprise_nats: -log of its probability under the cloud; None but for the gate that peeks at it (`oracle`).
        uncertainty: see `gates.uncertainty`; None until a gate asks for it.
        at_s: when it was drafted, seconds since the sample began (measured).
    """

    token: int
    entropy_nats: float | None = None
    confidence: float | None = None
    logits: Tensor | None = None
    column: int = 0
    q: Tensor | None = None
    chance: float = 0.0
    surprise_nats: float | None = None
    uncertainty: float | None = None
    at_s: float = 0.0


class Drafter(Protocol):
    """Proposes tokens for one sample at a time."""

    @property
    def seconds(self) -> float:
        """Time spent proposing since the last reset (measured)."""

    @property
    def computed(self) -> int:
        """Positions a model computed for it since the last reset."""

    def reset(self, prompt: Prompt, luck: Luck) -> None:
        """Begin a sample."""

    def draft(self, emitted: list[int], most: int, ends: frozenset[int], clock: Callable[[], float]) -> list[Drafted]:
        """At most `most` tokens that may follow the prompt and `emitted`; a token of `ends` is the last one."""


class EdgeDrafter:
    """The edge model, token by token, until `stop` finds a token it would rather have judged first.

    Attributes:
        model: the edge.
        stop: early draft stopping: the token it holds for is the last of its block, and is sent with it.
        keep_q: whether a verifier needs q even when greedy; it is then the softmax at temperature 1.
        codec: what carries q to a cloud that verifies losslessly; when sampling, tokens are drawn from what arrives.
            None: q itself arrives.
    """

    def __init__(
        self,
        model: CachedLM,
        sampling: Sampling,
        stop: Callable[[Drafted], bool] | None = None,
        *,
        keep_q: bool = False,
        codec: Codec | None = None,
    ) -> None:
        self.model, self.sampling, self.stop, self.keep_q, self.codec = model, sampling, stop, keep_q, codec

    @property
    def seconds(self) -> float:
        """See `Drafter`."""
        return self.model.seconds

    @property
    def computed(self) -> int:
        """See `Drafter`."""
        return self.model.computed

    def reset(self, prompt: Prompt, luck: Luck) -> None:
        """See `Drafter`."""
        self.prompt, self.luck = prompt.tokens, luck
        self.model.reset(prompt.audio)

    def draft(self, emitted: list[int], most: int, ends: frozenset[int], clock: Callable[[], float]) -> list[Drafted]:
        """See `Drafter`."""
        block: list[Drafted] = []
        sequence = self.prompt + emitted
        while len(block) < most:
            block.append(self.propose(sequence, len(emitted) + len(block)))
            block[-1].at_s = clock()
            sequence.append(block[-1].token)
            if block[-1].token in ends or (self.stop is not None and self.stop(block[-1])):
                break
        return block

    def propose(self, sequence: list[int], position: int) -> Drafted:
        """One token after `sequence`, the `position`-th of the output."""
        logits = self.model.logits(sequence)[0]
        if self.sampling.greedy:
            column = int(logits.argmax())
            q = self.model.spread(Sampling(temperature=1.0).probabilities(logits)) if self.keep_q else None
        else:
            column, q = self._drawn(self.sampling.probabilities(logits), self.luck.uniform("draft", position))
        nats, confidence = spread_of(logits)
        return Drafted(
            token=self.model.token(column),
            entropy_nats=nats,
            confidence=confidence,
            logits=logits,
            column=column,
            q=q,
            chance=self.luck.uniform("gate", position),
        )

    def _drawn(self, p: Tensor, u: float) -> tuple[int, Tensor]:
        """A column drawn from `p` (columns,), and the q (vocab,) to verify it against."""
        if self.codec is None:
            return draw(p, u), self.model.spread(p)
        token, q = self.codec.draw(self.model.spread(p).numpy(force=True), u)
        return self.model.column(token), torch.from_numpy(q).to(p.device)


class LookupDrafter:
    """Prompt lookup: what followed the last n tokens when they stood in the text before.

    A. Saxena 2023, github.com/apoorvumang/prompt-lookup-decoding. Unlike transformers' `prompt_lookup_num_tokens`,
    which takes the first place that matches, this takes the latest: on the shipped prompts it drafts a little better.
    Its draft is certain, so q has all its mass on it: lossless verification then accepts with probability p.
    """

    seconds, computed = 0.0, 0

    def __init__(self, sampling: Sampling, vocab: int, *, longest: int = 3, shortest: int = 1) -> None:
        self.sampling, self.vocab, self.longest, self.shortest = sampling, vocab, longest, shortest

    def reset(self, prompt: Prompt, luck: Luck) -> None:
        """See `Drafter`."""
        self.prompt = prompt.tokens

    def draft(self, emitted: list[int], most: int, ends: frozenset[int], clock: Callable[[], float]) -> list[Drafted]:
        """See `Drafter`."""
        tokens = continuation(self.prompt + emitted, most, self.longest, self.shortest)
        last = next((i for i, token in enumerate(tokens) if token in ends), len(tokens))
        return [Drafted(token=token, q=self._certain(token), at_s=clock()) for token in tokens[: last + 1]]

    def _certain(self, token: int) -> Tensor | None:
        if self.sampling.greedy:
            return None
        return torch.nn.functional.one_hot(torch.tensor(token), self.vocab).double()


class MixedDrafter:
    """Prompt lookup where the text's last two tokens stood in it before, and else the edge model.

    As in Hu et al. 2025, "SAM Decoding", arXiv:2411.10666, the length of the match decides who drafts. What a lookup
    proposes costs nothing; the edge reads it when it drafts next.
    """

    def __init__(self, edge: EdgeDrafter) -> None:
        self.edge, self.lookup = edge, LookupDrafter(edge.sampling, edge.model.vocab, shortest=2)

    @property
    def seconds(self) -> float:
        """See `Drafter`."""
        return self.edge.seconds

    @property
    def computed(self) -> int:
        """See `Drafter`."""
        return self.edge.computed

    def reset(self, prompt: Prompt, luck: Luck) -> None:
        """See `Drafter`."""
        self.lookup.reset(prompt, luck)
        self.edge.reset(prompt, luck)

    def draft(self, emitted: list[int], most: int, ends: frozenset[int], clock: Callable[[], float]) -> list[Drafted]:
        """See `Drafter`."""
        return self.lookup.draft(emitted, most, ends, clock) or self.edge.draft(emitted, most, ends, clock)


class NoDrafter:
    """Proposes nothing: each token is a cloud call."""

    seconds, computed = 0.0, 0

    def reset(self, prompt: Prompt, luck: Luck) -> None:
        """See `Drafter`."""

    def draft(self, emitted: list[int], most: int, ends: frozenset[int], clock: Callable[[], float]) -> list[Drafted]:
        """See `Drafter`."""
        return []


def continuation(sequence: list[int], most: int, longest: int, shortest: int = 1) -> list[int]:
    """What followed the latest earlier place of the longest tail (`shortest` to `longest` tokens) of `sequence`."""
    for n in range(min(longest, len(sequence) - 1), shortest - 1, -1):
        tail = sequence[-n:]
        for start in range(len(sequence) - n - 1, -1, -1):
            if sequence[start : start + n] == tail:
                return sequence[start + n : start + n + most]
    return []


def spread_of(logits: Tensor) -> tuple[float, float]:
    """Shannon entropy (nats) of softmax(logits) at temperature 1, and its largest probability."""
    p = torch.softmax(logits, dim=-1)
    return float(torch.special.entr(p).sum()), float(p.max())
