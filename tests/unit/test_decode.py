"""The decoding loop on scripted models: each known bug by name, the ends of an output, and the reductions."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from edgecloud import gates, verify
from edgecloud.decode import Ending, Output, Rules, generate, speculate
from edgecloud.lm import CachedLM, Prompt
from edgecloud.sampling import Luck, Sampling
from suite.errors import UserError
from tests.tiny import VOCAB, FakeLM, llama, related, script, short_head

EOS = 2
PROMPT = [10, 11, 12]


def run(edge: CachedLM, cloud: CachedLM, *, sampling: Sampling | None = None, luck: int = 0, **changes: Any) -> Output:
    """`speculate` with k = 4, gate always, lossless and greedy, unless told otherwise."""
    how = {"k": 4, "gate": gates.always, "threshold": 0.0, "verifier": verify.lossless, "rank_threshold": 1}
    end: dict[str, Any] = {"max_new_tokens": 12, "eos": frozenset({EOS}), "stop": None}
    for name, value in changes.items():
        (how if name in how else end)[name] = value
    prompt = Prompt(tokens=PROMPT)
    return speculate(edge, cloud, prompt, Rules(**how), Ending(**end), sampling or Sampling(), Luck(luck, "s"))


def scripted(edge: list[int], cloud: list[int], **changes: Any) -> Output:
    """Two models that say fixed texts; the edge is unsure at the indices `unsure`."""
    unsure = changes.pop("unsure", ())
    return run(FakeLM(script(PROMPT, edge, unsure=unsure)), FakeLM(script(PROMPT, cloud)), **changes)


# --- the ends of an output ---------------------------------------------------------------------------------------


def test_end_of_sequence_inside_an_accepted_block_ends_the_output_there() -> None:
    out = scripted([5, 6, EOS, 7, 8], [5, 6, EOS, 7, 8], k=8)
    assert out.tokens == [5, 6, EOS]
    assert out.sources == ["accepted"] * 3  # and no bonus after it
    assert out.counters.histogram[3] == 1


def test_end_of_sequence_as_correction_ends_the_output_and_drops_what_was_drafted_after_it() -> None:
    out = scripted([5, 6, 7, 8], [5, EOS, 7, 8])
    assert (out.tokens, out.sources) == ([5, EOS], ["accepted", "corrected"])
    assert out.counters.discarded == 2


def test_end_of_sequence_as_bonus_ends_the_output() -> None:
    out = scripted([5, 6, 7, 8], [5, 6, EOS, 8], k=2)
    assert (out.tokens, out.sources) == ([5, 6, EOS], ["accepted", "accepted", "bonus"])


def test_the_edges_end_of_sequence_never_ends_the_output_unverified_when_lossless() -> None:
    out = scripted([5, EOS, EOS, EOS, 8], [5, 6, 7, 8, EOS])
    assert out.tokens == [5, 6, 7, 8, EOS]
    assert out.sources == ["accepted"] + ["corrected"] * 4


def test_a_gated_edge_may_end_the_output_and_only_where_it_is_sure() -> None:
    """Gated decoding is not lossless, end-of-sequence included."""
    gated = {"gate": gates.entropy, "threshold": 1.0}
    assert scripted([5, EOS], [5, 6, 7, EOS], **gated).tokens == [5, EOS]
    out = scripted([5, EOS, 7, EOS], [5, 6, 7, EOS], unsure=[1], **gated)
    assert (out.tokens, out.sources) == ([5, 6, 7, EOS], ["edge", "corrected", "edge", "edge"])


@pytest.mark.parametrize("limit", range(1, 12))
@pytest.mark.parametrize("k", [1, 3, 8])
def test_max_new_tokens_is_never_passed(limit: int, k: int) -> None:
    text = list(range(20, 40))
    out = scripted(text, text, k=k, max_new_tokens=limit)
    assert out.tokens == text[:limit]
    assert out.counters.drafted <= limit


def test_a_stop_string_inside_a_block_ends_the_output_there() -> None:
    text = list(range(20, 40))
    out = scripted(text, text, k=8, stop=lambda tokens: 23 in tokens)
    assert (out.tokens, out.sources) == ([20, 21, 22, 23], ["accepted"] * 4)
    assert out.counters.discarded == 4


def test_a_stop_string_on_the_edges_word_ends_the_output_without_a_cloud_call() -> None:
    text = list(range(20, 40))
    out = scripted(text, text, k=8, gate=gates.entropy, threshold=1.0, unsure=[5], stop=lambda tokens: 22 in tokens)
    assert (out.tokens, out.sources, out.counters.rounds) == ([20, 21, 22], ["edge"] * 3, 0)


def test_stop_sees_every_token_once_and_in_order() -> None:
    seen: list[list[int]] = []
    text = list(range(20, 40))
    out = scripted(text, [20, 21, 30, 23], max_new_tokens=9, stop=lambda tokens: bool(seen.append(list(tokens))))
    assert seen == [out.tokens[:n] for n in range(1, 10)]


# --- who decides -------------------------------------------------------------------------------------------------


def test_a_round_ends_at_the_first_refusal() -> None:
    """What follows a refused token was drafted on a wrong text, even where the cloud would have said the same."""
    out = scripted([5, 6, 7, 8, 9], [5, 30, 7, 8, 9], max_new_tokens=5)
    assert out.tokens == [5, 30, 7, 8, 9]
    assert out.counters.histogram == [0, 1, 0, 1, 0]
    assert out.counters.discarded == 2


def test_gate_commits_sure_tokens_on_the_edges_word_and_the_cloud_judges_the_rest() -> None:
    text, cloud = [20, 21, 22, 23, 24, 25], [30, 31, 22, 33, 34, 35]
    out = scripted(text, cloud, unsure=[2], gate=gates.entropy, threshold=1.0, max_new_tokens=6)
    assert out.tokens == [20, 21, 22, 23, 34, 25]
    assert out.sources == ["edge", "edge", "accepted", "edge", "bonus", "edge"]
    assert out.counters.tested_at == out.counters.accepted_at == [0, 0, 1, 0]


def test_sure_tokens_after_a_refusal_are_dropped_not_committed() -> None:
    out = scripted([20, 21, 22, 23], [30, 31], unsure=[1], gate=gates.entropy, threshold=1.0, max_new_tokens=4)
    assert out.tokens == [20, 31, 22, 23]
    assert out.sources == ["edge", "corrected", "edge", "edge"]


def test_entropy_of_each_token_is_the_edges() -> None:
    out = scripted([20, 21, 22], [20, 21, 22], unsure=[1], k=2, max_new_tokens=3)
    assert out.entropies[0] == pytest.approx(0.0, abs=1e-6)
    assert out.entropies[1] is not None
    assert out.entropies[1] > 3.0
    assert out.entropies[2] is None


# --- caches ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [1, 2, 5])
@pytest.mark.parametrize("engine", ["lean", "transformers"])
def test_draft_cache_is_not_trimmed_too_far_so_an_edge_equal_to_the_cloud_is_always_accepted(
    k: int, engine: str
) -> None:
    """Too short a draft cache leaves the output right and lets acceptance decay."""
    model = llama(3)
    edge, cloud = CachedLM(model, engine=engine), CachedLM(model, engine=engine)
    out = run(edge, cloud, k=k, max_new_tokens=40, eos=frozenset())
    assert out.counters.corrected == 0
    assert out.counters.accepted == out.counters.tested
    for lm in (edge, cloud):  # every position was computed once
        assert lm.computed <= len(PROMPT) + 40


@pytest.mark.parametrize("k", [1, 3])
def test_both_caches_ingest_the_bonus_token(k: int) -> None:
    """The edge has neither fed its last draft nor seen the bonus: the next draft must be made on both."""
    text = list(range(20, 40))
    edge, cloud = FakeLM(script(PROMPT, text)), FakeLM(script(PROMPT, text))
    out = run(edge, cloud, k=k, max_new_tokens=3 * (k + 1), eos=frozenset())
    assert out.counters.bonus == 3
    for lm in (edge, cloud):
        assert lm.engine.sequence == (PROMPT + out.tokens)[: len(lm.engine.sequence)]


def test_every_round_drafts_at_least_one_token() -> None:
    """So that no round has zero drafts, whose own token others forgot to ingest: even with room for one token."""
    out = scripted([5, 6, 7], [5, 6, 7], k=4, max_new_tokens=1)
    assert (out.counters.drafted, out.counters.rounds, out.tokens) == (1, 1, [5])
    assert scripted([EOS] * 9, [5, 6, 7, EOS], k=4).counters.drafted == 4  # an edge that only wants to end


def test_models_are_reset_so_a_second_sample_owes_nothing_to_the_first() -> None:
    model = llama(3)
    edge, cloud = CachedLM(related(model, 1)), CachedLM(model)
    first = run(edge, cloud)
    second = run(edge, cloud)
    assert (first.tokens, first.counters) == (second.tokens, second.counters)
    assert second.cloud_s == cloud.seconds > 0.0
    assert second.edge_s == edge.seconds > 0.0


# --- vocabularies ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(temperature=1.0)])
@pytest.mark.parametrize(("edge_words", "cloud_words"), [(48, 40), (40, 48)])
def test_vocab_size_mismatch_is_cut_to_the_shared_size(sampling: Sampling, edge_words: int, cloud_words: int) -> None:
    edge, cloud = llama(4, vocab_size=edge_words), llama(5, vocab_size=cloud_words)
    out = run(CachedLM(edge, vocab=40), CachedLM(cloud, vocab=40), sampling=sampling, max_new_tokens=60)
    assert max(out.tokens) < 40
    if sampling.greedy:
        alone = generate(
            CachedLM(cloud, vocab=40),
            Prompt(tokens=PROMPT),
            Ending(max_new_tokens=60, eos=frozenset({EOS})),
            sampling,
            Luck(0, "s"),
            "cloud",
        )
        assert out.tokens == alone.tokens


@pytest.mark.parametrize(("edge_words", "cloud_words"), [(48, 40), (40, 48)])
def test_vocab_size_mismatch_left_uncut_is_refused(edge_words: int, cloud_words: int) -> None:
    """Otherwise an index error, in some sample, at the first token that the other model does not have."""
    edge, cloud = CachedLM(llama(4, vocab_size=edge_words)), CachedLM(llama(5, vocab_size=cloud_words))
    with pytest.raises(UserError, match=f"edge has {edge_words}.*cloud {cloud_words}"):
        run(edge, cloud)


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(temperature=1.0)])
def test_a_short_headed_edge_speaks_in_token_ids(sampling: Sampling) -> None:
    head = [1, 4, 9, 16, 25, 36]
    edge, cloud = CachedLM(short_head(1, head), vocab=VOCAB), CachedLM(llama(5))
    out = run(
        edge,
        cloud,
        sampling=sampling,
        verifier=verify.rank,
        rank_threshold=VOCAB,
        k=5,
        max_new_tokens=60,
        eos=frozenset(),
    )
    drafted = {token for token, source in zip(out.tokens, out.sources, strict=True) if source == "accepted"}
    assert drafted <= set(head)
    assert len(drafted) > 1


def test_a_short_headed_cloud_is_refused_unless_it_answers_by_token_id() -> None:
    head = short_head(1, [1, 4, 9, 16, 25, 36])
    with pytest.raises(UserError, match="transformers"):
        run(CachedLM(llama(5)), CachedLM(head))
    cloud = CachedLM(head, engine="transformers")
    alone = generate(cloud, Prompt(tokens=PROMPT), Ending(max_new_tokens=12), Sampling(), Luck(0, "s"), "cloud")
    assert run(CachedLM(llama(5)), cloud, eos=frozenset()).tokens == alone.tokens


# --- reductions --------------------------------------------------------------------------------------------------

SAMPLINGS = [Sampling(), Sampling(temperature=1.0), Sampling(temperature=0.8, top_p=0.9)]


def pair(seed: int) -> tuple[CachedLM, CachedLM]:
    cloud = llama(seed)
    return CachedLM(related(cloud, seed)), CachedLM(cloud)


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("k", [1, 3, 7])
def test_threshold_infinity_is_the_edge_alone_without_a_cloud_call(sampling: Sampling, k: int) -> None:
    for seed in range(4):
        edge, cloud = pair(seed)
        out = run(edge, cloud, sampling=sampling, k=k, gate=gates.entropy, threshold=math.inf, max_new_tokens=20)
        ending = Ending(max_new_tokens=20, eos=frozenset({EOS}))
        alone = generate(edge, Prompt(tokens=PROMPT), ending, sampling, Luck(0, "s"), "edge")
        assert (out.tokens, out.sources) == (alone.tokens, alone.sources)
        assert out.entropies == pytest.approx(alone.entropies, abs=1e-4)
        assert (out.counters.rounds, out.counters.seen, cloud.computed, out.cloud_s) == (0, 0, 0, 0.0)


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("verifier", [verify.lossless, verify.rank])
def test_threshold_zero_is_always(sampling: Sampling, verifier: verify.Verifier) -> None:
    for seed in range(6):
        edge, cloud = pair(seed)
        zero, always = (
            run(edge, cloud, sampling=sampling, k=3, gate=gate, threshold=0.0, verifier=verifier, max_new_tokens=20)
            for gate in (gates.entropy, gates.always)
        )
        assert (zero.tokens, zero.sources, zero.counters) == (always.tokens, always.sources, always.counters)


def test_threshold_zero_sends_even_a_token_of_entropy_exactly_zero() -> None:
    certain = FakeLM(lambda sequence: torch.eye(VOCAB)[7] * 500)
    out = run(certain, FakeLM(script(PROMPT, [5])), gate=gates.entropy, threshold=0.0, max_new_tokens=3)
    assert out.entropies[0] == 0.0
    assert out.sources == ["corrected"] * 3


def test_rank_one_greedy_is_lossless() -> None:
    accepted = tested = 0
    for seed in range(8):
        edge, cloud = pair(seed)
        one, lossless = (
            run(edge, cloud, k=4, verifier=verifier, rank_threshold=1, max_new_tokens=30)
            for verifier in (verify.rank, verify.lossless)
        )
        assert (one.tokens, one.sources, one.counters) == (lossless.tokens, lossless.sources, lossless.counters)
        accepted, tested = accepted + one.counters.accepted, tested + one.counters.tested
    assert 0.2 < accepted / tested < 0.95  # the pairs are neither equal nor unrelated


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_rank_of_the_whole_vocabulary_accepts_everything(sampling: Sampling) -> None:
    for seed in range(4):
        edge, cloud = pair(seed)
        out = run(edge, cloud, sampling=sampling, k=4, verifier=verify.rank, rank_threshold=VOCAB, eos=frozenset())
        assert out.counters.corrected == 0
        assert out.sources == (["accepted"] * 4 + ["bonus"]) * 2 + ["accepted"] * 2


def test_generate_greedy_follows_the_model_and_says_who() -> None:
    for source in ("edge", "cloud"):
        model = FakeLM(script(PROMPT, [5, 6, 7, EOS]))
        ending = Ending(max_new_tokens=9, eos=frozenset({EOS}))
        out = generate(model, Prompt(tokens=PROMPT), ending, Sampling(), Luck(0, "s"), source)
        assert (out.tokens, out.sources) == ([5, 6, 7, EOS], [source] * 4)
        assert [nats is None for nats in out.entropies] == [source == "cloud"] * 4
        assert model.computed == len(PROMPT) + 3
        assert out.counters.seen == (model.computed if source == "cloud" else 0)
