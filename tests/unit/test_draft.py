"""Drafters: what they propose, where they stop, and what they say of a token."""

from __future__ import annotations

import math
from itertools import count

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from edgecloud.decode import Ending
from edgecloud.draft import Drafted, EdgeDrafter, LookupDrafter, MixedDrafter, NoDrafter, continuation, spread_of
from edgecloud.lm import CachedLM, Prompt
from edgecloud.sampling import Luck, Sampling, draw, entropy
from tests.loop import Way, alone, together
from tests.tiny import VOCAB, FakeLM, llama, script, short_head

PROMPT = Prompt(tokens=[10, 11, 12])
LUCK, NO_END = Luck(0, "s"), frozenset[int]()


def edge(drafter: EdgeDrafter) -> EdgeDrafter:
    drafter.reset(PROMPT, LUCK)
    return drafter


def tokens(block: list[Drafted]) -> list[int]:
    return [d.token for d in block]


# --- the edge model -----------------------------------------------------------------------------------------------


def test_the_edge_drafts_on_from_what_was_emitted_and_no_more_than_asked() -> None:
    drafter = edge(EdgeDrafter(FakeLM(script(PROMPT.tokens, list(range(20, 40)))), Sampling()))
    seconds = count()
    block = drafter.draft([20, 21], 3, NO_END, lambda: float(next(seconds)))
    assert tokens(block) == [22, 23, 24]
    assert [d.at_s for d in block] == [0.0, 1.0, 2.0]
    assert drafter.computed == drafter.model.computed == len(PROMPT.tokens) + 2 + 2  # its last token is not fed


def test_an_end_of_sequence_is_the_last_token_of_a_draft() -> None:
    drafter = edge(EdgeDrafter(FakeLM(script(PROMPT.tokens, [20, 2, 22])), Sampling()))
    assert tokens(drafter.draft([], 8, frozenset({2}), lambda: 0.0)) == [20, 2]


def test_a_draft_stops_with_the_token_the_edge_is_unsure_of() -> None:
    model = FakeLM(script(PROMPT.tokens, list(range(20, 40)), unsure=[2, 4]))
    drafter = edge(EdgeDrafter(model, Sampling(), lambda d: d.entropy_nats is not None and d.entropy_nats > 1.0))
    assert tokens(drafter.draft([], 8, NO_END, lambda: 0.0)) == [20, 21, 22]
    assert tokens(drafter.draft([20, 21, 22], 8, NO_END, lambda: 0.0)) == [23, 24]
    assert tokens(drafter.draft([20, 21, 22], 1, NO_END, lambda: 0.0)) == [23]


def test_a_drawn_token_comes_with_the_distribution_it_was_drawn_from() -> None:
    """Not with the softmax at temperature 1, which others verified by: transformers #32867, #33534, #47932."""
    sampling = Sampling(temperature=0.6, top_p=0.8)
    model = CachedLM(llama(3))
    drafter = edge(EdgeDrafter(model, sampling))
    for position, d in enumerate(drafter.draft([], 6, NO_END, lambda: 0.0)):
        assert d.q is not None and d.logits is not None
        assert torch.equal(d.q, sampling.probabilities(d.logits))
        assert d.token == draw(d.q, LUCK.uniform("draft", position))
        assert d.chance == LUCK.uniform("gate", position)
        assert d.entropy_nats == pytest.approx(entropy(d.logits), abs=1e-6)  # of temperature 1, whatever is sampled
        assert d.confidence == pytest.approx(float(torch.softmax(d.logits, -1).max()))


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(temperature=1.0)])
def test_q_of_a_short_headed_edge_is_over_all_tokens(sampling: Sampling) -> None:
    head = [1, 4, 9, 16, 25, 36]
    drafter = edge(EdgeDrafter(CachedLM(short_head(1, head), vocab=VOCAB), sampling, keep_q=True))
    for d in drafter.draft([], 5, NO_END, lambda: 0.0):
        assert d.q is not None and d.logits is not None
        assert d.token == head[d.column]
        assert d.q.shape == (VOCAB,) and d.q.nonzero().flatten().tolist() == head
        assert float(d.q[d.token]) == pytest.approx(float(torch.softmax(d.logits.double(), -1)[d.column]))


def test_a_greedy_draft_has_no_q_unless_a_verifier_needs_it() -> None:
    for keep_q in (False, True):
        drafter = edge(EdgeDrafter(FakeLM(script(PROMPT.tokens, [20])), Sampling(), keep_q=keep_q))
        (d,) = drafter.draft([], 1, NO_END, lambda: 0.0)
        assert (d.q is not None) is keep_q


def test_spread_at_its_ends() -> None:
    assert spread_of(torch.zeros(8)) == pytest.approx((math.log(8), 1 / 8))
    assert spread_of(torch.tensor([0.0, -math.inf])) == (0.0, 1.0)


# --- prompt lookup ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sequence", "found"),
    [
        ([1, 2, 3, 4, 1, 2], [3, 4, 1]),  # two tokens match
        ([1, 2, 8, 7, 2, 9, 1, 2], [8, 7, 2]),  # two beat the later one
        ([5, 2, 6, 5, 2, 7, 5, 2], [7, 5, 2]),  # the latest of equals
        ([3, 4, 3], [4, 3]),  # one matches; no more than there is
        ([7, 7], [7]),  # next to itself
        ([7, 7, 7, 7], [7]),  # may overlap itself
        ([1, 2, 3], []),
        ([1], []),
    ],
)
def test_lookup_finds_what_followed_the_longest_tail_the_last_time(sequence: list[int], found: list[int]) -> None:
    assert continuation(sequence, 3, 3) == found


@given(
    sequence=st.lists(st.integers(0, 3), min_size=1, max_size=20),
    most=st.integers(1, 5),
    longest=st.integers(1, 4),
    shortest=st.integers(1, 3),
)
def test_lookup_is_its_definition(sequence: list[int], most: int, longest: int, shortest: int) -> None:
    """Its own tail, which ends the text, is no earlier occurrence: nothing follows it."""
    places = [
        (n, end)
        for n in range(shortest, longest + 1)
        for end in range(n, len(sequence))
        if n < len(sequence) and sequence[end - n : end] == sequence[-n:]
    ]
    end = max(places, default=None)
    assert continuation(sequence, most, longest, shortest) == (sequence[end[1] :][:most] if end else [])


def test_a_lookup_is_certain_and_ends_with_an_end_of_sequence() -> None:
    drafter = LookupDrafter(Sampling(temperature=1.0), VOCAB)
    drafter.reset(Prompt(tokens=[5, 6, 2, 7, 5]), LUCK)
    block = drafter.draft([6], 8, frozenset({2}), lambda: 1.5)
    assert [(d.token, d.at_s, d.entropy_nats, d.logits) for d in block] == [(2, 1.5, None, None)]
    assert block[0].q is not None and block[0].q.tolist() == [float(i == 2) for i in range(VOCAB)]
    drafter = LookupDrafter(Sampling(), VOCAB)
    drafter.reset(Prompt(tokens=[5, 6, 2, 7, 5]), LUCK)
    assert [(d.token, d.q) for d in drafter.draft([6], 2, NO_END, lambda: 0.0)] == [(2, None), (7, None)]


def test_lookup_saves_calls_where_a_text_repeats_itself() -> None:
    text = [20, 21, 22, 23] * 5
    cloud, ending = FakeLM(script(PROMPT.tokens, text)), Ending(max_new_tokens=20)
    out = together(cloud, cloud, PROMPT, Way(k=3, drafter="lookup"), ending, LUCK)
    assert out.tokens == text
    assert out.sources[:5] == ["bonus"] * 5  # no place to copy from until one token has come again
    assert out.counters.rounds == 5 + math.ceil(15 / 4)
    assert out.counters.corrected == 0


# --- the two together ---------------------------------------------------------------------------------------------


def test_the_edge_drafts_where_no_two_tokens_recur_and_reads_what_was_looked_up() -> None:
    text = [20, 21, 22, 23, 20, 21, 22, 23, 24, 25]
    model = FakeLM(script(PROMPT.tokens, text))
    drafter = MixedDrafter(EdgeDrafter(model, Sampling()))
    drafter.reset(PROMPT, LUCK)
    assert tokens(drafter.draft(text[:5], 2, NO_END, lambda: 0.0)) == [21, 22]  # one token recurs: the edge
    assert drafter.computed == len(PROMPT.tokens) + 5 + 1
    block = drafter.draft(text[:6], 2, NO_END, lambda: 0.0)  # two do
    assert tokens(block) == [22, 23] and block[0].entropy_nats is None
    assert drafter.computed == len(PROMPT.tokens) + 5 + 1
    assert tokens(drafter.draft(text[:9], 1, NO_END, lambda: 0.0)) == [25]
    assert drafter.computed == model.computed == len(PROMPT.tokens) + 9


# --- no one -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(temperature=1.0)])
def test_no_drafter_is_the_cloud_alone_a_call_a_token(sampling: Sampling) -> None:
    cloud, ending, way = CachedLM(llama(5)), Ending(max_new_tokens=15), Way(drafter="none", sampling=sampling)
    assert NoDrafter().draft([1], 5, NO_END, lambda: 0.0) == []
    out = together(cloud, cloud, PROMPT, way, ending, LUCK)
    assert out.tokens == alone(cloud, PROMPT, way, ending, LUCK).tokens
    assert out.sources == ["bonus"] * 15
    assert (out.counters.rounds, out.counters.drafted, out.edge_s) == (15, 0, 0.0)
