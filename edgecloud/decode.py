"""The decoding loops: one model alone, and speculative decoding between an edge and a cloud.

Speculative decoding (Leviathan et al. 2023, arXiv:2211.17192): the edge drafts up to k tokens; the gate says which of
them need the cloud; if any does, the cloud computes the whole block in one forward pass and the verifier judges them
in order. The first token refused is replaced by the cloud's and ends the round; if all stand, the cloud adds its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from edgecloud.counters import Counters
from edgecloud.gates import Gate
from edgecloud.lm import CachedLM, Prompt
from edgecloud.sampling import Luck, Sampling, draw, entropy
from edgecloud.verify import Drafted, Verification, Verifier, choose
from suite.errors import UserError

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
    """How the edge and the cloud share the work."""

    k: int
    gate: Gate
    threshold: float
    verifier: Verifier
    rank_threshold: int = 1


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
        on_token: told each token and its source as it is emitted; the output's clock stands still meanwhile.
    """

    ending: Ending
    counters: Counters
    on_token: OnToken | None = None
    tokens: list[int] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)
    entropies: list[float | None] = field(default_factory=list)
    times_s: list[float] = field(default_factory=list)
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
    edge: CachedLM,
    cloud: CachedLM,
    prompt: Prompt,
    rules: Rules,
    ending: Ending,
    sampling: Sampling,
    luck: Luck,
    on_token: OnToken | None = None,
) -> Output:
    """The edge drafts, the cloud verifies; see the module's docstring.

    Raises:
        UserError: the two do not know the same token ids, a text outgrows a model's window, or a model hears nothing.
    """
    if cloud.columns is not None:
        raise UserError("The cloud model's head is shortened, so it cannot verify; set task.engine=transformers.")
    if edge.vocab != cloud.vocab:
        raise UserError(f"The edge has {edge.vocab} tokens, the cloud {cloud.vocab}; cut both to those they share.")
    count = Counters.for_draft(rules.k)
    out = Output(ending, count, on_token)
    how = Verification(sampling=sampling, rank_threshold=rules.rank_threshold)
    edge.reset(prompt.audio)
    cloud.reset(prompt.audio)
    while not out.ended:
        block = _draft(edge, prompt, out, rules.k, sampling, luck)
        count.drafted += len(block)
        flagged = [rules.gate(d.entropy_nats, rules.threshold) for d in block]
        unsure = flagged.index(True) if True in flagged else len(block)
        kept = 0
        for d in block[:unsure]:  # on the edge's word, at the moment it was drafted
            if not out.ended:
                out.commit(d.token, "edge", d.at_s, d.entropy_nats)
                kept += 1
        count.skipped += kept
        if out.ended or unsure == len(block) > 0:
            count.discarded += len(block) - kept
            continue

        rest = block[unsure:]
        fed = rest[: out.room - 1]  # the last token of a full output needs no successor
        logits = cloud.logits(prompt.tokens + out.tokens + [d.token for d in fed], keep=len(fed) + 1)
        now, accepted = out.elapsed_s(), 0
        for i, d in enumerate(rest, start=unsure):
            kept += 1
            if not flagged[i]:
                out.commit(d.token, "edge", now, d.entropy_nats)
                count.skipped += 1
            else:
                stands, token = rules.verifier(d, logits[i - unsure], how, luck, len(out.tokens))
                count.tested += 1
                count.tested_at[i] += 1
                if stands:
                    accepted += 1
                    count.accepted_at[i] += 1
                else:
                    count.corrected += 1
                out.commit(token, "accepted" if stands else "corrected", now, d.entropy_nats)
                if not stands:
                    break
            if out.ended:
                break
        else:
            out.commit(choose(logits[-1], sampling, luck, len(out.tokens)), "bonus", now)
            count.bonus += 1
        count.discarded += len(block) - kept
        count.accepted += accepted
        count.histogram[accepted] += 1
        count.rounds += 1
    count.seen = cloud.computed
    out.edge_s, out.cloud_s = edge.seconds, cloud.seconds
    count.check(len(out.tokens))
    return out


def _draft(edge: CachedLM, prompt: Prompt, out: Output, k: int, sampling: Sampling, luck: Luck) -> list[Drafted]:
    """Up to k tokens from the edge; an end-of-sequence token ends the draft, never the output."""
    block: list[Drafted] = []
    while len(block) < min(k, out.room):
        logits = edge.logits(prompt.tokens + out.tokens + [d.token for d in block])[0]
        if sampling.greedy:
            column, q = int(logits.argmax()), None
        else:
            p = sampling.probabilities(logits)
            column, q = draw(p, luck.uniform("draft", len(out.tokens) + len(block))), edge.spread(p)
        block.append(Drafted(edge.token(column), entropy(logits), q, out.elapsed_s()))
        if block[-1].token in out.ending.eos:
            break
    return block
