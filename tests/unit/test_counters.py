"""Counters and rounds: the identities hold for every way to decode, and a count that is off by one is seen."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgecloud import gates, verify
from edgecloud.counters import SOURCES, Counters
from edgecloud.decode import LONGEST, Ending, Output
from edgecloud.draft import Drafted
from edgecloud.lm import Prompt
from edgecloud.sampling import Luck, Sampling
from edgecloud.verify import Verification, Verifier, View
from tests.loop import Way, together
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


def fake_verifier(share: float) -> Verifier:
    """Accepts a share of the tokens by luck, and corrects to any other word."""

    def verifier(d: Drafted, view: View, how: Verification, luck: Luck, position: int) -> tuple[bool, int]:
        stands = luck.uniform("accept", position) < share
        other = (d.token + 1 + int(luck.uniform("replace", position) * (WORDS - 1))) % WORDS
        return stands, d.token if stands else other

    return verifier


# every gate with thresholds at both ends of its scale and between
GATES = [
    (gates.always, 0.0),
    *((gates.entropy, nats) for nats in (0.0, 0.3, 0.7, 1.2, 1e9)),
    *((gates.confidence, p) for p in (0.0, 0.4, 0.8, 1.0)),
    *((gates.adaedl, bound) for bound in (-1000.0, 0.5, 0.7, 1.0)),
    *((gates.uhlm, u) for u in (0.0, 0.2, 0.5, 1.0)),
    *((gates.random, rate) for rate in (0.0, 0.3, 0.7, 1.0)),
    *((gates.oracle, nats) for nats in (0.0, 0.5, 2.0, 1e9)),
]
STOPS = [(None, 0.0), (gates.entropy, 0.7), (gates.confidence, 0.5), (gates.adaedl, 0.6), (gates.uhlm, 0.3)]
samplings = st.sampled_from([Sampling(), Sampling(temperature=1.0), Sampling(temperature=0.7, top_p=0.8)])
anyone = {"k": st.integers(1, 8), "heuristic": st.booleans(), "sampling": samplings, "overlap": st.booleans()}
limits = {
    "rank_threshold": st.integers(1, WORDS),
    "surprise_threshold_nats": st.sampled_from([0.0, 0.5, 2.0, 1e9]),
    "cloud_weight": st.sampled_from([0.0, 0.5, 1.0]),
}
VERIFIERS = [verify.lossless, verify.rank, verify.bild, fake_verifier(0.3), fake_verifier(0.9)]
by_edge = st.builds(
    lambda gate, stop, **rest: Way(
        gate=gate[0], threshold=gate[1], draft_stop=stop[0], draft_stop_threshold=stop[1], **rest
    ),
    st.sampled_from(GATES),
    st.sampled_from(STOPS),
    verifier=st.sampled_from([*VERIFIERS, verify.ensemble]),
    **anyone,
    **limits,
)
by_others = st.builds(
    Way, drafter=st.sampled_from(["lookup", "mixed", "none"]), verifier=st.sampled_from(VERIFIERS), **anyone, **limits
)
ways = st.one_of(by_edge, by_edge, by_others)
endings = st.builds(
    Ending,
    max_new_tokens=st.integers(1, 25),
    eos=st.frozensets(st.integers(0, WORDS - 1), max_size=2),
    stop=st.sampled_from([None, lambda tokens: tokens[-2:] == [3, 4], lambda tokens: sum(tokens) > 60]),
)
prompts = st.lists(st.integers(0, WORDS - 1), min_size=1, max_size=6)


def decoded(prompt: list[int], way: Way, ending: Ending, luck: int) -> tuple[Output, SpyLM, SpyLM]:
    edge, cloud = SpyLM(trigram(NEAR), WORDS), SpyLM(trigram(TABLE), WORDS)
    return together(edge, cloud, Prompt(tokens=prompt), way, ending, Luck(luck, "s")), edge, cloud


any_case = given(prompt=prompts, way=ways, ending=endings, luck=st.integers(0, 50))
many = settings(max_examples=120, deadline=None)


@any_case
@many
def test_counts_are_what_the_output_and_the_models_say(prompt: list[int], way: Way, ending: Ending, luck: int) -> None:
    out, edge, cloud = decoded(prompt, way, ending, luck)
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
    assert count.rounds == sum(count.histogram)
    if way.gate is not gates.oracle:  # which peeks
        assert count.rounds == len(cloud.asked)
    if way.drafter == "edge" and not way.overlap:
        assert count.drafted == len(edge.asked)
    assert count.seen == cloud.computed == sum(length - kept for kept, length, _ in cloud.asked)
    assert len(out.sources) == len(out.entropies) == len(out.times_s) == emitted <= ending.max_new_tokens
    if way.drafter == "edge":
        assert [nats is None for nats in out.entropies] == [source == "bonus" for source in out.sources]
    else:
        told = [source for nats, source in zip(out.entropies, out.sources, strict=True) if nats is not None]
        assert "bonus" not in told if way.drafter == "mixed" else not told
        assert count.skipped == 0
    assert out.times_s == sorted(out.times_s)
    assert all(accepted <= tested for accepted, tested in zip(count.accepted_at, count.tested_at, strict=True))
    longest = max(LONGEST, way.k) if way.heuristic else way.k
    assert len(count.histogram) == longest + 1
    assert len(count.tested_at) == len(count.accepted_at) == longest
    if way.gate is gates.always:
        assert count.skipped == 0
        assert all(later <= earlier for earlier, later in zip(count.tested_at, count.tested_at[1:], strict=False))
        if way.drafter == "edge":
            assert count.tested_at[0] == count.rounds


@any_case
@many
def test_rounds_add_up_to_the_output_the_counters_and_the_models(
    prompt: list[int], way: Way, ending: Ending, luck: int
) -> None:
    out, edge, cloud = decoded(prompt, way, ending, luck)
    count, turns = out.counters, out.rounds
    assert sum(turn.committed for turn in turns) == len(out.tokens)
    assert sum(turn.drafted for turn in turns) == count.drafted
    assert sum(turn.called for turn in turns) == count.rounds
    assert sum(turn.cloud_positions for turn in turns) == cloud.computed
    assert sum(turn.cloud_s for turn in turns) == pytest.approx(out.cloud_s) == pytest.approx(cloud.seconds)
    if not way.overlap:  # a guess is in no round
        assert sum(turn.edge_positions for turn in turns) == edge.computed
        assert sum(turn.edge_s for turn in turns) == pytest.approx(out.edge_s) == pytest.approx(edge.seconds)
    at, k = 0, way.k
    for turn in turns:
        sources = out.sources[at : at + turn.committed]
        assert turn.committed > 0
        assert turn.drafted <= min(k, ending.max_new_tokens - at)
        assert turn.kept == len(sources) if not turn.called else turn.kept + turn.sent == turn.drafted
        assert sources[: turn.kept] == ["edge"] * turn.kept
        assert turn.called == any(source != "edge" for source in sources)
        assert turn.full == ("corrected" not in sources)
        assert turn.called or turn.sent == 0
        assert turn.guess_right is None or (way.overlap and turn.sent)
        # a text that stops at an accepted token leaves the cloud's bonus unsaid
        assert not turn.guess_right or sources[-1] == "bonus" or (turn is turns[-1] and ending.stop is not None)
        assert turn.first_s >= 0.0 and turn.loop_s > -1e-9
        at += turn.committed
        if way.heuristic and turn.called:
            k = min(k + 2, max(LONGEST, way.k)) if turn.full else max(k - 1, 1)


@any_case
@many
def test_a_guess_made_while_the_cloud_judges_changes_nothing_but_the_edges_work(
    prompt: list[int], way: Way, ending: Ending, luck: int
) -> None:
    one, other = (decoded(prompt, replace(way, overlap=overlap), ending, luck)[0] for overlap in (False, True))
    assert (one.tokens, one.sources, one.counters) == (other.tokens, other.sources, other.counters)


@any_case
@many
def test_the_output_ends_where_it_must_and_nowhere_else(prompt: list[int], way: Way, ending: Ending, luck: int) -> None:
    out, _, _ = decoded(prompt, way, ending, luck)
    over = [
        out.tokens[n - 1] in ending.eos
        or n == ending.max_new_tokens
        or (ending.stop is not None and ending.stop(out.tokens[:n]))
        for n in range(1, len(out.tokens) + 1)
    ]
    assert over == [False] * (len(over) - 1) + [True]


@given(
    prompt=prompts, way=ways.filter(lambda way: way.gate is not gates.oracle), ending=endings, luck=st.integers(0, 50)
)
@many
def test_after_a_round_the_caches_hold_all_but_what_they_could_not_know(
    prompt: list[int], way: Way, ending: Ending, luck: int
) -> None:
    """The cloud keeps committed - 1 tokens, and catches up on those it skipped; the edge repeats no token either."""
    out, edge, cloud = decoded(prompt, way, ending, luck)
    # every cloud round that did not end the output ended in a token of the cloud's own
    own = [i for i, source in enumerate(out.sources) if source in ("corrected", "bonus")]
    committed = [len(prompt) + i + 1 for i in own]
    kept, expected = [kept for kept, _, _ in cloud.asked], [0, *(n - 1 for n in committed)]
    if way.verifier is verify.rank and not way.sampling.greedy:  # may draw the token it refused, which then is cached
        assert all(found >= least for found, least in zip(kept, expected, strict=False))
    else:
        assert kept == expected[: len(kept)]
    if way.drafter == "edge" and not way.overlap:
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
    with pytest.raises(AssertionError):
        decoded([1, 2], Way(k=3), Ending(max_new_tokens=10), 0)
