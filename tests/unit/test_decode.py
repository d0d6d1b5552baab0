"""The decoding loop on scripted models: each known bug by name, the ends of an output, and the reductions."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from edgecloud import gates, verify
from edgecloud.decode import Ending, Output, generate
from edgecloud.lm import CachedLM, Prompt
from edgecloud.sampling import Luck, Sampling
from edgecloud.schema import SENDS_ALL
from suite.errors import UserError
from tests.loop import Way, alone, together
from tests.tiny import VOCAB, FakeLM, llama, related, script, short_head

EOS = 2
PROMPT = [10, 11, 12]


def run(edge: CachedLM, cloud: CachedLM, *, luck: int = 0, **changes: Any) -> Output:
    """The two together; `changes` are of `Way` or of `Ending`."""
    end: dict[str, Any] = {"max_new_tokens": 12, "eos": frozenset({EOS}), "stop": None}
    end |= {name: changes.pop(name) for name in end if name in changes}
    return together(edge, cloud, Prompt(tokens=PROMPT), Way(**changes), Ending(**end), Luck(luck, "s"))


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


def test_a_stop_string_of_several_tokens_ends_the_output_across_rounds_and_sources() -> None:
    """onnxruntime-genai #2528: seen only within one block, or only in the tokens of one model."""
    text = list(range(20, 40))
    for k in (1, 2, 3, 4):
        out = scripted(text, [*text[:3], 30, *text[4:]], k=k, stop=lambda tokens: tokens[-3:] == [22, 30, 24])
        assert out.tokens == [20, 21, 22, 30, 24]


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


@pytest.mark.parametrize("drafter", ["lookup", "none"])
def test_a_round_with_zero_drafts_ingests_its_own_token(drafter: str) -> None:
    """vllm-metal #716: the token of such a round was emitted and never fed."""
    cloud, way, ending = CachedLM(llama(3)), Way(drafter=drafter, k=3), Ending(max_new_tokens=30)
    out = together(cloud, cloud, Prompt(tokens=PROMPT), way, ending, Luck(0, "s"))
    assert any(turn.called and not turn.drafted for turn in out.rounds)
    if drafter == "none":
        assert cloud.computed == len(PROMPT) + 29  # all but the last token, once each
    assert out.tokens == alone(cloud, Prompt(tokens=PROMPT), way, ending, Luck(0, "s")).tokens


def test_there_is_a_draft_even_with_room_for_one_token_or_an_edge_that_only_wants_to_end() -> None:
    out = scripted([5, 6, 7], [5, 6, 7], k=4, max_new_tokens=1)
    assert (out.counters.drafted, out.counters.rounds, out.tokens) == (1, 1, [5])
    assert scripted([EOS] * 9, [5, 6, 7, EOS], k=4).counters.drafted == 4


def test_models_are_reset_so_a_second_sample_owes_nothing_to_the_first() -> None:
    model = llama(3)
    edge, cloud = CachedLM(related(model, 1)), CachedLM(model)
    first = run(edge, cloud)
    second = run(edge, cloud)
    assert (first.tokens, first.counters) == (second.tokens, second.counters)
    assert second.cloud_s == cloud.seconds > 0.0
    assert second.edge_s == edge.seconds > 0.0


# --- how much is drafted -----------------------------------------------------------------------------------------


def drafts(edge: list[int], cloud: list[int], **changes: Any) -> list[int]:
    out = scripted(edge, cloud, heuristic=True, eos=frozenset(), **changes)
    return [turn.drafted for turn in out.rounds]


def test_heuristic_schedule_grows_by_two_after_a_draft_that_stood_up_to_its_limit() -> None:
    text = [5 + i % 30 for i in range(400)]
    assert drafts(text, text, k=1, max_new_tokens=200) == [1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 20, 20, 20, 20, 6]
    assert drafts(text, text, k=30, max_new_tokens=90) == [30, 30, 28]


def test_heuristic_schedule_shrinks_by_one_after_a_refusal_down_to_one() -> None:
    assert drafts([7] * 9, [8] * 9, k=4, max_new_tokens=6) == [4, 3, 2, 1, 1, 1]


def test_heuristic_schedule_begins_anew_with_each_sample() -> None:
    """As transformers' `heuristic_transient`: a sample's drafts must not depend on the sample before."""
    text = [5 + i % 30 for i in range(40)]
    edge, cloud = FakeLM(script(PROMPT, text)), FakeLM(script(PROMPT, text))
    lengths = [[turn.drafted for turn in run(edge, cloud, k=2, heuristic=True).rounds] for _ in range(2)]
    assert lengths == [[2, 4, 4], [2, 4, 4]]


def test_heuristic_schedule_ignores_drafts_that_no_one_judged() -> None:
    text = [5 + i % 30 for i in range(40)]
    assert drafts(text, text, k=3, gate=gates.entropy, threshold=1.0) == [3, 3, 3, 3]


def test_an_early_stop_sends_the_unsure_token_with_its_block() -> None:
    text, stop = list(range(20, 40)), {"draft_stop": gates.entropy, "draft_stop_threshold": 1.0}
    out = scripted(text, text, k=8, unsure=[1, 4], max_new_tokens=9, **stop)
    assert [(turn.drafted, turn.sent) for turn in out.rounds] == [(2, 2), (2, 2), (3, 3)]
    assert out.counters.skipped == 0


def test_a_right_guess_is_the_bonus_token() -> None:
    text = list(range(20, 40))
    out = scripted(text, [*text[:5], 9, *text[6:8], 9, *text[9:]], k=2, max_new_tokens=11, overlap=True)
    # 20 21 +22 | 23 24 +9, not 25 | 26 27 +9, not 28 | 29 30, and no room for more
    assert [turn.guess_right for turn in out.rounds] == [True, False, False, None]


# --- vocabularies ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(temperature=1.0)])
@pytest.mark.parametrize(("edge_words", "cloud_words"), [(48, 40), (40, 48)])
def test_vocab_size_mismatch_is_cut_to_the_shared_size(sampling: Sampling, edge_words: int, cloud_words: int) -> None:
    edge, cloud = llama(4, vocab_size=edge_words), llama(5, vocab_size=cloud_words)
    out = run(CachedLM(edge, vocab=40), CachedLM(cloud, vocab=40), sampling=sampling, max_new_tokens=60)
    assert max(out.tokens) < 40
    if sampling.greedy:
        ending = Ending(max_new_tokens=60, eos=frozenset({EOS}))
        lone = alone(CachedLM(cloud, vocab=40), Prompt(tokens=PROMPT), Way(), ending, Luck(0, "s"))
        assert out.tokens == lone.tokens


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
    lone = alone(cloud, Prompt(tokens=PROMPT), Way(), Ending(max_new_tokens=12), Luck(0, "s"))
    assert run(CachedLM(llama(5)), cloud, eos=frozenset()).tokens == lone.tokens


# --- reductions --------------------------------------------------------------------------------------------------

SAMPLINGS = [Sampling(), Sampling(temperature=1.0), Sampling(temperature=0.8, top_p=0.9)]


def pair(seed: int) -> tuple[CachedLM, CachedLM]:
    cloud = llama(seed)
    return CachedLM(related(cloud, seed)), CachedLM(cloud)


SENDS_NOTHING = {"entropy": math.inf, "confidence": 0.0, "adaedl": -1000.0, "uhlm": 1.0, "random": 0.0}


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("gate", SENDS_NOTHING)
def test_one_end_of_every_gate_is_the_edge_alone_without_a_cloud_call(gate: str, sampling: Sampling) -> None:
    for seed, k in enumerate((1, 3, 7)):
        edge, cloud = pair(seed)
        way = Way(k=k, sampling=sampling, gate=gates.GATES[gate], threshold=SENDS_NOTHING[gate])
        prompt, ending = Prompt(tokens=PROMPT), Ending(max_new_tokens=20, eos=frozenset({EOS}))
        out = together(edge, cloud, prompt, way, ending, Luck(0, "s"))
        lone = alone(edge, prompt, way, ending, Luck(0, "s"), "edge")
        assert (out.tokens, out.sources) == (lone.tokens, lone.sources)
        assert out.entropies == pytest.approx(lone.entropies, abs=1e-4)
        assert (out.counters.rounds, out.counters.seen, cloud.computed, out.cloud_s) == (0, 0, 0, 0.0)


def test_the_oracle_of_threshold_infinity_is_the_edge_alone_without_a_cloud_call() -> None:
    edge, cloud = pair(1)
    out = run(edge, cloud, gate=gates.oracle, threshold=math.inf)
    assert set(out.sources) == {"edge"}
    assert out.counters.rounds == 0
    assert cloud.computed > 0  # it has peeked


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("gate", SENDS_ALL)
def test_the_other_end_of_every_gate_is_always(gate: str, sampling: Sampling) -> None:
    for seed, verifier in enumerate((verify.lossless, verify.rank, verify.ensemble)):
        edge, cloud = pair(seed)
        way = {"sampling": sampling, "k": 3, "verifier": verifier, "max_new_tokens": 20}
        sent = run(edge, cloud, gate=gates.GATES[gate], threshold=SENDS_ALL[gate], **way)
        always = run(edge, cloud, gate=gates.always, **way)
        assert (sent.tokens, sent.sources) == (always.tokens, always.sources)
        if gate != "oracle":  # whose peeks let the cloud see more
            assert sent.counters == always.counters


def assert_lossless(**way: Any) -> None:
    accepted = tested = 0
    for seed in range(6):
        edge, cloud = pair(seed)
        one = run(edge, cloud, max_new_tokens=30, **way)
        plain = run(edge, cloud, max_new_tokens=30, sampling=way.get("sampling", Sampling()))
        assert (one.tokens, one.sources, one.counters) == (plain.tokens, plain.sources, plain.counters)
        accepted, tested = accepted + one.counters.accepted, tested + one.counters.tested
    assert 0.2 < accepted / tested < 0.95  # the pairs are neither equal nor unrelated


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_an_ensemble_of_the_cloud_alone_is_lossless(sampling: Sampling) -> None:
    assert_lossless(verifier=verify.ensemble, cloud_weight=1.0, sampling=sampling)


def test_bild_threshold_zero_greedy_is_lossless() -> None:
    assert_lossless(verifier=verify.bild, surprise_threshold_nats=0.0)


def test_rank_one_greedy_is_lossless() -> None:
    assert_lossless(verifier=verify.rank, rank_threshold=1)


ACCEPT_ALL: dict[str, dict[str, Any]] = {
    "rank of the whole vocabulary": {"verifier": verify.rank, "rank_threshold": VOCAB},
    "bild inf": {"verifier": verify.bild, "surprise_threshold_nats": math.inf},
    "ensemble of the edge alone": {"verifier": verify.ensemble, "cloud_weight": 0.0},
}


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("name", ACCEPT_ALL)
def test_the_other_end_of_every_verifier_accepts_everything(name: str, sampling: Sampling) -> None:
    for seed in range(3):
        edge, cloud = pair(seed)
        out = run(edge, cloud, sampling=sampling, k=4, eos=frozenset(), **ACCEPT_ALL[name])
        assert out.counters.corrected == 0
        assert out.sources == (["accepted"] * 4 + ["bonus"]) * 2 + ["accepted"] * 2


def test_threshold_zero_sends_even_a_token_of_entropy_exactly_zero() -> None:
    certain = FakeLM(lambda sequence: torch.eye(VOCAB)[7] * 500)
    out = run(certain, FakeLM(script(PROMPT, [5])), gate=gates.entropy, threshold=0.0, max_new_tokens=3)
    assert out.entropies[0] == 0.0
    assert out.sources == ["corrected"] * 3


def test_generate_greedy_follows_the_model_and_says_who() -> None:
    for source in ("edge", "cloud"):
        model = FakeLM(script(PROMPT, [5, 6, 7, EOS]))
        ending = Ending(max_new_tokens=9, eos=frozenset({EOS}))
        out = generate(model, Prompt(tokens=PROMPT), ending, Sampling(), Luck(0, "s"), source)
        assert (out.tokens, out.sources) == ([5, 6, 7, EOS], [source] * 4)
        assert [nats is None for nats in out.entropies] == [source == "cloud"] * 4
        assert model.computed == len(PROMPT) + 3
        assert out.counters.seen == (model.computed if source == "cloud" else 0)
