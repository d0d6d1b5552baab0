"""Counters: the identities hold for every decoded sample, and a count that is off by one is seen."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgecloud import gates, verify
from edgecloud.counters import SOURCES, Counters
from edgecloud.decode import Ending, Output, Rules, speculate
from edgecloud.lm import Prompt
from edgecloud.sampling import Luck, Sampling
from edgecloud.verify import Drafted, Verification, Verifier
from tests.tiny import FakeLM, Rule

WORDS = 9
TABLE = torch.randn(WORDS, WORDS, WORDS, generator=torch.Generator().manual_seed(0)) * 2.0
NEAR = TABLE + torch.randn(TABLE.shape, generator=torch.Generator().manual_seed(1))


def trigram(table: torch.Tensor) -> Rule:
    return lambda sequence: table[sequence[-2] if len(sequence) > 1 else 0, sequence[-1]]


class SpyLM(FakeLM):
    """Notes, per question, what stood in the cache and what was asked."""

    def reset(self, audio: dict[str, torch.Tensor] | None = None) -> None:
        super().reset(audio)
        self.asked: list[tuple[int, int, int]] = []
        """(positions kept, sequence length, rows wanted) of every call."""

    def logits(self, sequence: list[int], keep: int = 1) -> torch.Tensor:
        before = self.computed
        rows = super().logits(sequence, keep)
        self.asked.append((len(sequence) - (self.computed - before), len(sequence), keep))
        return rows


def fake_gate(entropy_nats: float, threshold: float) -> bool:
    """Sends a share `threshold` of the tokens, at random as far as decoding can tell."""
    return int(entropy_nats * 1e5) % 100 < 100 * threshold


def fake_verifier(share: float) -> Verifier:
    """Accepts a share of the tokens by luck, and corrects to any other word."""

    def verifier(d: Drafted, logits: torch.Tensor, how: Verification, luck: Luck, position: int) -> tuple[bool, int]:
        stands = luck.uniform("accept", position) < share
        other = (d.token + 1 + int(luck.uniform("replace", position) * (WORDS - 1))) % WORDS
        return stands, d.token if stands else other

    return verifier


rules = st.builds(
    Rules,
    k=st.integers(1, 8),
    gate=st.sampled_from([gates.always, gates.entropy, fake_gate]),
    threshold=st.sampled_from([0.0, 0.3, 0.7, 1.2, 1e9]),
    verifier=st.sampled_from([verify.lossless, verify.rank, fake_verifier(0.3), fake_verifier(0.9)]),
    rank_threshold=st.integers(1, WORDS),
)
samplings = st.sampled_from([Sampling(), Sampling(temperature=1.0), Sampling(temperature=0.7, top_p=0.8)])
endings = st.builds(
    Ending,
    max_new_tokens=st.integers(1, 25),
    eos=st.frozensets(st.integers(0, WORDS - 1), max_size=2),
    stop=st.sampled_from([None, lambda tokens: tokens[-2:] == [3, 4], lambda tokens: sum(tokens) > 60]),
)
prompts = st.lists(st.integers(0, WORDS - 1), min_size=1, max_size=6)


def decoded(
    prompt: list[int], how: Rules, ending: Ending, sampling: Sampling, luck: int
) -> tuple[Output, SpyLM, SpyLM]:
    edge, cloud = SpyLM(trigram(NEAR), WORDS), SpyLM(trigram(TABLE), WORDS)
    return speculate(edge, cloud, Prompt(tokens=prompt), how, ending, sampling, Luck(luck, "s")), edge, cloud


any_case = given(prompt=prompts, how=rules, ending=endings, sampling=samplings, luck=st.integers(0, 50))
many = settings(max_examples=150, deadline=None)


@any_case
@many
def test_counts_are_what_the_output_and_the_models_say(
    prompt: list[int], how: Rules, ending: Ending, sampling: Sampling, luck: int
) -> None:
    out, edge, cloud = decoded(prompt, how, ending, sampling, luck)
    count, emitted = out.counters, len(out.tokens)
    count.check(emitted)
    by_source = {source: out.sources.count(source) for source in SOURCES}
    assert by_source == {
        "edge": count.skipped,
        "accepted": count.accepted,
        "corrected": count.corrected,
        "bonus": count.bonus,
        "cloud": 0,
    }
    assert count.rounds == len(cloud.asked) == sum(count.histogram)
    assert count.drafted == len(edge.asked)
    assert count.seen == cloud.computed == sum(length - kept for kept, length, _ in cloud.asked)
    assert len(out.sources) == len(out.entropies) == len(out.times_s) == emitted <= ending.max_new_tokens
    assert [nats is None for nats in out.entropies] == [source == "bonus" for source in out.sources]
    assert out.times_s == sorted(out.times_s)
    assert all(accepted <= tested for accepted, tested in zip(count.accepted_at, count.tested_at, strict=True))
    assert len(count.histogram) == how.k + 1
    assert len(count.tested_at) == len(count.accepted_at) == how.k
    if how.gate is gates.always:
        assert count.skipped == 0
        assert count.tested_at[0] == count.rounds
        assert all(later <= earlier for earlier, later in zip(count.tested_at, count.tested_at[1:], strict=False))


@any_case
@many
def test_the_output_ends_where_it_must_and_nowhere_else(
    prompt: list[int], how: Rules, ending: Ending, sampling: Sampling, luck: int
) -> None:
    out, _, _ = decoded(prompt, how, ending, sampling, luck)
    over = [
        out.tokens[n - 1] in ending.eos
        or n == ending.max_new_tokens
        or (ending.stop is not None and ending.stop(out.tokens[:n]))
        for n in range(1, len(out.tokens) + 1)
    ]
    assert over == [False] * (len(over) - 1) + [True]


@any_case
@many
def test_after_a_round_the_caches_hold_all_but_what_they_could_not_know(
    prompt: list[int], how: Rules, ending: Ending, sampling: Sampling, luck: int
) -> None:
    """The cloud keeps committed - 1 tokens, and catches up on those it skipped; the edge repeats no token either."""
    out, edge, cloud = decoded(prompt, how, ending, sampling, luck)
    # every cloud round that did not end the output ended in a token of the cloud's own
    own = [i for i, source in enumerate(out.sources) if source in ("corrected", "bonus")]
    committed = [len(prompt) + i + 1 for i in own]
    kept, expected = [kept for kept, _, _ in cloud.asked], [0, *(n - 1 for n in committed)]
    if how.verifier is verify.rank and not sampling.greedy:  # may draw the very token it refused, which then is cached
        assert all(found >= least for found, least in zip(kept, expected, strict=False))
    else:
        assert kept == expected[: len(kept)]
    # a drafting step feeds one token; only after a bonus are there two it has not seen
    bonus = [i for i in own if out.sources[i] == "bonus" and i < len(out.tokens) - 1]
    assert edge.computed == len(prompt) - 1 + out.counters.drafted + len(bonus)


def valid() -> Counters:
    return Counters(
        rounds=3,
        drafted=9,
        tested=5,
        accepted=3,
        corrected=2,
        bonus=1,
        skipped=2,
        discarded=2,
        seen=12,
        histogram=[1, 1, 1],
        tested_at=[3, 2],
        accepted_at=[2, 1],
    )


def test_check_passes_what_is_right_and_fails_on_every_count_that_is_off_by_one() -> None:
    valid().check(8)
    for emitted in (7, 9):
        with pytest.raises(AssertionError):
            valid().check(emitted)
    for name in ("rounds", "drafted", "tested", "accepted", "corrected", "bonus", "skipped", "discarded"):
        for by in (-1, 1):
            wrong = valid()
            setattr(wrong, name, getattr(wrong, name) + by)
            with pytest.raises(AssertionError):
                wrong.check(8)
    for name in ("histogram", "tested_at", "accepted_at"):
        for i in range(len(getattr(valid(), name))):
            wrong = valid()
            getattr(wrong, name)[i] += 1
            with pytest.raises(AssertionError):
                wrong.check(8)


@pytest.mark.parametrize("name", ["rounds", "drafted", "tested", "accepted", "corrected", "bonus", "skipped"])
def test_speculate_checks_its_own_counts(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A count that starts one too high never leaves `speculate`."""
    broken = Counters.for_draft(3)
    setattr(broken, name, 1)
    monkeypatch.setattr(Counters, "for_draft", lambda k: copy.deepcopy(broken))
    how = Rules(k=3, gate=gates.always, threshold=0.0, verifier=verify.lossless)
    with pytest.raises(AssertionError):
        decoded([1, 2], how, Ending(max_new_tokens=10), Sampling(), 0)
