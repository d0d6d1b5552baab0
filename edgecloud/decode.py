"""The decoding loops: one model alone, and speculative decoding between an edge and a cloud.

Speculative decoding (Leviathan et al. 2023, arXiv:2211.17192): the edge drafts up to k tokens; the gate says which of
them need the cloud; if any does, the cloud computes the whole block in one forward pass and the verifier judges them
in order. The first token refused is replaced by the cloud's and ends the round; if all stand, the cloud adds its own.

Who drafts and who judges are parts (draft.py, verify.py): the same loop runs on two models of this process, on a cloud
behind a network, and on a recorded trace.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from edgecloud.counters import Counters
from edgecloud.draft import Drafter
from edgecloud.gates import Gate, oracle
from edgecloud.lm import CachedLM, Prompt
from edgecloud.sampling import Luck, Sampling, draw, entropy
from edgecloud.verify import Cloud

LONGEST = 20  # draft length that the heuristic schedule never passes, as transformers' default


OnToken = Callable[[int, str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """When an output is over."""

    max_new_tokens: int
    eos: frozenset[int] = frozenset()
    stop: Callable[[list[int]], bool] | None = None
    """Whether the emitted tokens contain a stop string."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """How much is drafted, and what of it goes to the cloud."""

    k: int
    gate: Gate
    threshold: float
    heuristic: bool = False
    """Draft length from round to round: 2 more when all verified tokens stood, 1 less when one fell (transformers'
    `heuristic` schedule), from `k` on, between 1 and `LONGEST`; else always `k`."""

    @property
    def longest(self) -> int:
        """The longest draft there can be."""
        return max(LONGEST, self.k) if self.heuristic else self.k


@dataclass(frozen=True, slots=True)
class Round:
    """What one turn of the loop did, for a clock to price (timeline.py).

    Attributes:
        drafted: tokens proposed.
        sent: tokens in the call to the cloud, 0 where there was none.
        called: whether the cloud was called; with `sent` 0 it was asked for its own next token.
        committed: tokens emitted.
        kept: tokens of them that were committed before the call, on the edge's word.
        full: whether every token sent stood.
        edge_positions: positions the edge's model computed, prompt included.
        cloud_positions: positions the cloud's model computed, prompt included.
        edge_s: time in the drafter (measured).
        cloud_s: time in the cloud's model (measured).
    """

    drafted: int
    sent: int
    called: bool
    committed: int
    kept: int
    full: bool
    edge_positions: int
    cloud_positions: int
    edge_s: float
    cloud_s: float


@dataclass(slots=True)
class Output:
    """One decoded sample: tokens, who decided each (`counters.SOURCES`), and when.

    Attributes:
        tokens: emitted token ids, end-of-sequence included.
        sources: one of `counters.SOURCES` per token.
        entropies: edge entropy (nats) per token, None where the edge did not propose it.
        times_s: seconds from the start to each token (measured).
        edge_s: time in the edge model (measured).
        cloud_s: time in the cloud model (measured).
        rounds: what each turn of the loop did.
        on_token: told each token and its source as it is emitted; the output's clock stands still meanwhile.
    """

    ending: Ending
    counters: Counters
    on_token: OnToken | None = None
    tokens: list[int] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)
    entropies: list[float | None] = field(default_factory=list)
    times_s: list[float] = field(default_factory=list)
    rounds: list[Round] = field(default_factory=list)
    edge_s: float = 0.0
    cloud_s: float = 0.0
    ended: bool = False
    started: float = field(default_factory=time.perf_counter)

    def elapsed_s(self) -> float:
        """Seconds since decoding began (measured)."""
        return time.perf_counter() - self.started

    @property
    def room(self) -> int:
        """Tokens that may still be emitted."""
        return self.ending.max_new_tokens - len(self.tokens)

    def commit(self, token: int, source: str, at_s: float, entropy_nats: float | None = None) -> None:
        """Emit one token and see whether the output is over."""
        self.tokens.append(token)
        self.sources.append(source)
        self.entropies.append(entropy_nats)
        self.times_s.append(at_s)
        stopped = self.ending.stop is not None and self.ending.stop(self.tokens)
        self.ended = token in self.ending.eos or self.room == 0 or stopped
        if self.on_token is not None:
            before = time.perf_counter()
            self.on_token(token, source)
            self.started += time.perf_counter() - before


def generate(
    model: CachedLM,
    prompt: Prompt,
    ending: Ending,
    sampling: Sampling,
    luck: Luck,
    source: str,
    on_token: OnToken | None = None,
) -> Output:
    """One model alone, token by token; `source` is `edge` or `cloud`."""
    out = Output(ending, Counters(), on_token)
    model.reset(prompt.audio)
    purpose = "draft" if source == "edge" else "replace"
    while not out.ended:
        logits = model.logits(prompt.tokens + out.tokens)[0]
        nats = entropy(logits) if source == "edge" else None
        if sampling.greedy:
            column = int(logits.argmax())
        else:
            column = draw(sampling.probabilities(logits), luck.uniform(purpose, len(out.tokens)))
        out.commit(model.token(column), source, out.elapsed_s(), nats)
    out.counters.seen = model.computed if source == "cloud" else 0
    out.edge_s, out.cloud_s = (model.seconds, 0.0) if source == "edge" else (0.0, model.seconds)
    return out


def speculate(
    drafter: Drafter,
    cloud: Cloud,
    prompt: Prompt,
    rules: Rules,
    ending: Ending,
    luck: Luck,
    on_token: OnToken | None = None,
) -> Output:
    """The drafter drafts, the cloud verifies; see the module's docstring.

    Raises:
        UserError: a text outgrows a model's window, or a model hears nothing.
    """
    count = Counters.for_draft(rules.longest)
    out = Output(ending, count, on_token)
    drafter.reset(prompt, luck)
    cloud.reset(prompt, luck)
    k = rules.k
    while not out.ended:
        before = (drafter.computed, cloud.computed, drafter.seconds, cloud.seconds, len(out.tokens))
        block = drafter.draft(out.tokens, min(k, out.room), ending.eos, out.elapsed_s)
        if rules.gate is oracle:
            for d, nats in zip(block, cloud.peek(out.tokens, block), strict=True):
                d.surprise_nats = nats
        unsure = [rules.gate(d, rules.threshold) for d in block]
        first = unsure.index(True) if True in unsure else len(block)
        kept = 0
        for d in block[:first]:  # on the edge's word, at the moment it was drafted
            if not out.ended:
                out.commit(d.token, "edge", d.at_s, d.entropy_nats)
                kept += 1
        count.drafted += len(block)
        count.skipped += kept
        sent, used, accepted, full = block[first:], kept, 0, True
        called = not out.ended and (bool(sent) or not block)
        if called:
            verdicts = cloud.judge(out.tokens, sent, unsure[first:], out.room)
            now = out.elapsed_s()
            for i, (token, source) in enumerate(verdicts):
                judged = i < len(sent)  # else it is the cloud's own
                out.commit(token, source, now, sent[i].entropy_nats if judged else None)
                used += judged
                if source == "edge":
                    count.skipped += 1
                elif source == "bonus":
                    count.bonus += 1
                else:
                    count.test(first + i, source == "accepted")
                    accepted += source == "accepted"
                    full = full and source == "accepted"
                if out.ended:
                    break
            count.accepted += accepted
            count.histogram[accepted] += 1
            count.rounds += 1
            if rules.heuristic:
                k = min(k + 2, rules.longest) if full else max(k - 1, 1)
        count.discarded += len(block) - used
        out.rounds.append(
            Round(
                drafted=len(block),
                sent=len(sent) if called else 0,
                called=called,
                committed=len(out.tokens) - before[4],
                kept=kept,
                full=full,
                edge_positions=drafter.computed - before[0],
                cloud_positions=cloud.computed - before[1],
                edge_s=drafter.seconds - before[2],
                cloud_s=cloud.seconds - before[3],
            )
        )
    count.seen = cloud.computed
    out.edge_s, out.cloud_s = drafter.seconds, cloud.seconds
    count.check(len(out.tokens))
    return out
