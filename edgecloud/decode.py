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
from itertools import zip_longest

from edgecloud.counters import Counters
from edgecloud.draft import Drafted, Drafter
from edgecloud.gates import Gate, oracle
from edgecloud.lm import CachedLM, Prompt
from edgecloud.sampling import Luck, Sampling, draw, entropy
from edgecloud.verify import Cloud, Verdict

LONGEST = 20  # drafts grow no longer by the heuristic schedule; transformers starts there, and knows no limit

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
    """Draft length from call to call: 2 more when all verified tokens stood, 1 less when one fell (transformers'
    `heuristic_transient` schedule), from `k` on, between 1 and `LONGEST`; else always `k`."""
    overlap: bool = False
    """Ask the drafter, while the cloud judges, for the token it would go on with (`Round.guess_right`)."""

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
        full: whether every token sent stood; true where none was.
        edge_positions: positions the edge's model computed, prompt included.
        cloud_positions: positions the cloud's model computed, prompt included.
        edge_s: time in the drafter (measured).
        cloud_s: time in the cloud's model (measured).
        first_s: time until the first of the tokens was drafted (measured).
        loop_s: time outside both models (measured).
        guess_right: whether the token the drafter would have gone on with was the cloud's bonus; None without one.
            The time of that guess is in no other field.
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
    first_s: float = 0.0
    loop_s: float = 0.0
    guess_right: bool | None = None


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
    clock: Callable[[], float] = time.perf_counter
    started: float = field(init=False)

    def __post_init__(self) -> None:
        self.started = self.clock()

    def elapsed_s(self) -> float:
        """Seconds since decoding began, on the output's clock."""
        return self.clock() - self.started

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
            before = self.clock()
            self.on_token(token, source)
            self.started += self.clock() - before


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
    clock: Callable[[], float] = time.perf_counter,
) -> Output:
    """The drafter drafts, the cloud verifies; see the module's docstring. `clock` tells seconds.

    Raises:
        UserError: a text outgrows a model's window, or a model hears nothing.
    """
    count = Counters.for_draft(rules.longest)
    out = Output(ending, count, on_token, clock=clock)
    drafter.reset(prompt, luck)
    cloud.reset(prompt, luck)
    k = rules.k
    while not out.ended:
        begun, begun_s = len(out.tokens), out.elapsed_s()
        edge_positions, edge_s = drafter.computed, drafter.seconds
        cloud_positions, cloud_s = cloud.computed, cloud.seconds

        block = drafter.draft(out.tokens, min(k, out.room), ending.eos, out.elapsed_s)
        edge_positions, edge_s = drafter.computed - edge_positions, drafter.seconds - edge_s
        unsure = _unsure(rules, block, cloud, out.tokens)
        first = unsure.index(True) if True in unsure else len(block)
        for d in block[:first]:  # on the edge's word, at the moment it was drafted
            out.commit(d.token, "edge", d.at_s, d.entropy_nats)
            if out.ended:
                break
        kept, sent = len(out.tokens) - begun, block[first:]

        called = not out.ended and (bool(sent) or not block)  # with nothing drafted, for the cloud's own token
        right = None
        if called:
            guess = _guess(rules, drafter, out, sent)
            verdicts = cloud.judge(out.tokens, sent, unsure[first:], out.room)
            now_s = out.elapsed_s()
            right = None if guess is None else verdicts[-1] == Verdict(guess, "bonus")
            for d, (token, source) in zip_longest(sent[: len(verdicts)], verdicts):
                out.commit(token, source, now_s, d.entropy_nats if d else None)  # no one drafted a bonus token
                if out.ended:
                    break

        full = "corrected" not in out.sources[begun:]
        if called and rules.heuristic:
            k = min(k + 2, rules.longest) if full else max(k - 1, 1)
        count.turn(len(block), out.sources[begun:], called)
        cloud_positions, cloud_s = cloud.computed - cloud_positions, cloud.seconds - cloud_s
        out.rounds.append(
            Round(
                drafted=len(block),
                sent=len(sent) if called else 0,
                called=called,
                committed=len(out.tokens) - begun,
                kept=kept,
                full=full,
                edge_positions=edge_positions,
                cloud_positions=cloud_positions,
                edge_s=edge_s,
                cloud_s=cloud_s,
                first_s=block[0].at_s - begun_s if block else 0.0,
                loop_s=out.elapsed_s() - begun_s - edge_s - cloud_s,
                guess_right=right,
            )
        )
    count.seen = cloud.computed
    out.edge_s, out.cloud_s = sum(turn.edge_s for turn in out.rounds), cloud.seconds
    count.check(len(out.tokens))
    return out


def _unsure(rules: Rules, block: list[Drafted], cloud: Cloud, emitted: list[int]) -> list[bool]:
    """Which tokens of `block`, drafted after `emitted`, are to be verified."""
    if rules.gate is oracle and block:
        for d, nats in zip(block, cloud.peek(emitted, block), strict=True):
            d.surprise_nats = nats
    return [rules.gate(d, rules.threshold) for d in block]


def _guess(rules: Rules, drafter: Drafter, out: Output, sent: list[Drafted]) -> int | None:
    """What the drafter would go on with after `sent`; the output's clock stands still. None where no one asks."""
    if not rules.overlap or not sent or sent[-1].token in out.ending.eos or len(sent) == out.room:
        return None
    before_s = out.clock()
    guess = drafter.draft(out.tokens + [d.token for d in sent], 1, out.ending.eos, out.elapsed_s)
    out.started += out.clock() - before_s
    return guess[0].token if guess else None
