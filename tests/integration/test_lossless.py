"""Lossless, end to end: greedy output is the cloud's token for token, sampled output has the cloud's distribution."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from torch import Tensor

from edgecloud import gates, verify
from edgecloud.codecs import Codec, Floats
from edgecloud.decode import Ending
from edgecloud.draft import Drafted
from edgecloud.lm import CachedLM, Prompt
from edgecloud.sampling import Luck, Sampling, draw
from edgecloud.schema import CODECS
from edgecloud.verify import Verification, View
from tests.loop import Way, alone, together
from tests.tiny import VOCAB, FakeLM, Rule, fresh_logits, gpt2, llama, mistral, qwen2, related, short_head

LUCK = Luck(0, "greedy")
# every part that keeps decoding lossless; any of them goes with any other, but for the drafters that no gate can ask
VERIFIERS: list[dict[str, Any]] = [
    {"verifier": verify.lossless},
    {"verifier": verify.rank, "rank_threshold": 1},  # when greedy
    {"verifier": verify.bild, "surprise_threshold_nats": 0.0},  # when greedy
    {"verifier": verify.ensemble, "cloud_weight": 1.0},
]
GATES: list[dict[str, Any]] = [
    {"gate": gates.always},
    {"gate": gates.entropy, "threshold": 0.0},
    {"gate": gates.confidence, "threshold": 1.0},
    {"gate": gates.adaedl, "threshold": 1.0},
    {"gate": gates.uhlm, "threshold": 0.0},
    {"gate": gates.random, "threshold": 1.0},
    {"gate": gates.oracle, "threshold": 0.0},
]
STOPS: list[dict[str, Any]] = [
    {},
    {"draft_stop": gates.entropy, "draft_stop_threshold": 1.0},
    {"draft_stop": gates.confidence, "draft_stop_threshold": 0.6},
    {"draft_stop": gates.adaedl, "draft_stop_threshold": 0.5},
    {"draft_stop": gates.uhlm, "draft_stop_threshold": 0.3},
]


def some_way(rng: np.random.Generator) -> Way:
    """A lossless way to decode greedily, any."""

    def one(options: list[dict[str, Any]]) -> dict[str, Any]:
        return options[int(rng.integers(len(options)))]

    drafter = ["edge", "edge", "edge", "lookup", "mixed", "none"][int(rng.integers(6))]
    common = {"k": int(rng.integers(1, 9)), "heuristic": bool(rng.integers(2)), "drafter": drafter}
    if drafter == "edge":
        return Way(**common, **one(VERIFIERS), **one(GATES), **one(STOPS))
    return Way(**common, **one(VERIFIERS[:3]))


def noisy(model: Any, seed: int) -> tuple[Any, Any]:
    return related(model, seed, noise=0.1 + 0.1 * (seed % 3)), model


# name -> (edge, cloud), from nearly equal to unrelated
PAIRS: dict[str, Callable[[int], tuple[Any, Any]]] = {
    "llama": lambda seed: noisy(llama(seed), seed),
    "llama, one group": lambda seed: noisy(llama(seed, num_key_value_heads=1), seed),
    "qwen2": lambda seed: noisy(qwen2(seed), seed),
    "qwen2 edge, llama cloud": lambda seed: (qwen2(seed), llama(seed)),
    "edge with more words": lambda seed: (llama(seed, vocab_size=VOCAB + 7), qwen2(seed)),
    "cloud with more words": lambda seed: (llama(seed), qwen2(seed, vocab_size=VOCAB + 7)),
    "short-headed edge": lambda seed: (short_head(seed, list(range(0, VOCAB, 3))), llama(seed)),
}
SLOW_PAIRS: dict[str, Callable[[int], tuple[Any, Any]]] = {  # on the transformers engine
    "gpt2": lambda seed: noisy(gpt2(seed), seed),
    "sliding mistral": lambda seed: noisy(mistral(seed, sliding_window=6), seed),
    "gpt2 edge, llama cloud": lambda seed: (gpt2(seed), llama(seed)),
}


@cache
def pair(name: str, seed: int) -> tuple[CachedLM, CachedLM]:
    edge, cloud = (PAIRS | SLOW_PAIRS)[name](seed)
    return CachedLM(edge, vocab=VOCAB), CachedLM(cloud, vocab=VOCAB)


def cases(names: list[str], count: int) -> list[tuple[str, int, Prompt, Way, Ending]]:
    """`count` random (pair, seed of its weights, prompt, way, ending)."""
    rng = np.random.default_rng(7)
    found = []
    for i in range(count):
        prompt = Prompt(tokens=rng.integers(0, VOCAB, size=rng.integers(1, 20)).tolist())
        way = some_way(rng)
        eos = frozenset(rng.integers(0, VOCAB, size=rng.integers(0, 3)).tolist())
        ending = Ending(max_new_tokens=int(rng.integers(1, 17)), eos=eos)
        found.append((names[i % len(names)], i % 5, prompt, way, ending))
    return found


def assert_equal_to_cloud_alone(names: list[str], count: int) -> None:
    accepted = tested = 0
    for name, seed, prompt, way, ending in cases(names, count):
        edge, cloud = pair(name, seed)
        out = together(edge, cloud, prompt, way, ending, LUCK)
        assert out.tokens == alone(cloud, prompt, way, ending, LUCK).tokens, (name, seed, prompt, way, ending)
        accepted, tested = accepted + out.counters.accepted, tested + out.counters.tested
    assert 0.2 < accepted / tested < 0.9  # neither a draft that is never nor one that is always right


def test_greedy_is_token_identical_to_the_cloud_alone_in_1050_cases() -> None:
    assert_equal_to_cloud_alone(list(PAIRS), 1050)


def test_greedy_is_token_identical_on_the_transformers_engine() -> None:
    assert_equal_to_cloud_alone(list(SLOW_PAIRS), 90)


@pytest.mark.slow
def test_greedy_is_token_identical_in_20000_cases() -> None:
    assert_equal_to_cloud_alone([*PAIRS, *SLOW_PAIRS], 20_000)


def theirs(cloud: Any, prompt: Prompt, ending: Ending, edge: Any = None) -> list[int]:
    """New tokens of transformers' own greedy decoding, assisted by `edge` where given."""
    ids = torch.tensor([prompt.tokens])
    made = cloud.generate(
        ids,
        attention_mask=torch.ones_like(ids),  # else prompt tokens equal to the pad token would be masked
        do_sample=False,
        max_new_tokens=ending.max_new_tokens,
        eos_token_id=sorted(ending.eos) or None,
        pad_token_id=0,
        assistant_model=edge,
    )
    tokens: list[int] = made[0, len(prompt.tokens) :].tolist()
    return tokens


@pytest.mark.parametrize("name", ["llama", "llama, one group", "qwen2", "qwen2 edge, llama cloud"])
def test_greedy_is_token_identical_to_transformers_plain_and_assisted_in_200_cases(name: str) -> None:
    models: dict[int, tuple[Any, Any]] = {}
    for _, seed, prompt, way, ending in cases([name], 50):
        edge, cloud = models.setdefault(seed, PAIRS[name](seed))
        edge.generation_config.num_assistant_tokens = 4  # of its default of 20 an unrelated edge has all thrown away
        out = together(*pair(name, seed), prompt, way, ending, LUCK)
        assert out.tokens == theirs(cloud, prompt, ending)
        assert out.tokens == theirs(cloud, prompt, ending, edge)


# --- sampling: whole outputs over a five-word vocabulary, against the cloud's exact distribution ---------------------

WORDS, LENGTH, PROMPT, EOS = 5, 3, [1, 4, 2], 0
SAMPLED = Sampling(temperature=1.0)


def remembered(model: Any) -> Rule:
    """The model's logits, each computed once."""

    @cache
    def rule(sequence: tuple[int, ...]) -> Tensor:
        return fresh_logits(model, list(sequence))[0]

    return rule


@cache
def five_words() -> tuple[FakeLM, FakeLM]:
    """An edge and a cloud that differ much: acceptance near a half."""
    shape = {"vocab_size": WORDS}
    edge, cloud = llama(21, **shape), llama(22, **shape)
    for model in (edge, cloud):
        model.lm_head.weight.data *= 0.2  # far from greedy
    return FakeLM(remembered(edge), WORDS), FakeLM(remembered(cloud), WORDS)


def exact(
    cloud: FakeLM, sampling: Sampling, edge: FakeLM | None = None, weight: float = 1.0
) -> dict[tuple[int, ...], float]:
    """Probability of every output of at most LENGTH tokens, by the cloud or by its mixture with `edge`."""
    done: dict[tuple[int, ...], float] = {}
    open_: dict[tuple[int, ...], float] = {(): 1.0}
    for _ in range(LENGTH):
        grown: dict[tuple[int, ...], float] = {}
        for tokens, mass in open_.items():
            p = sampling.probabilities(cloud.engine.rule((*PROMPT, *tokens)))
            if edge is not None:
                p = weight * p + (1 - weight) * sampling.probabilities(edge.engine.rule((*PROMPT, *tokens)))
            for word in range(WORDS):
                (done if word == EOS else grown)[*tokens, word] = mass * float(p[word])
        open_ = grown
    return done | open_


def p_value(make: Callable[[Luck], list[int]], expected: dict[tuple[int, ...], float], draws: int) -> float:
    """Chi-square of `draws` outputs, each with its own luck, against the exact probabilities; rare ones are pooled."""
    counts = dict.fromkeys(expected, 0)
    for i in range(draws):
        counts[tuple(make(Luck(5, f"sample {i}")))] += 1
    if any(counts[key] and not mass for key, mass in expected.items()):
        return 0.0
    common = [key for key, mass in expected.items() if mass * draws >= 5]
    seen, mass = [counts[key] for key in common], [expected[key] * draws for key in common]
    if draws - sum(mass) > 1:
        seen, mass = [*seen, draws - sum(seen)], [*mass, draws - sum(mass)]
    mass = [m * draws / sum(mass) for m in mass]
    return float(scipy.stats.chisquare(seen, mass).pvalue)


def speculated(way: Way, edge: FakeLM, cloud: FakeLM) -> Callable[[Luck], list[int]]:
    ending = Ending(max_new_tokens=LENGTH, eos=frozenset({EOS}))
    return lambda luck: together(edge, cloud, Prompt(tokens=PROMPT), way, ending, luck).tokens


SENT = [name for name in CODECS if Codec(name=name, vocab=WORDS).lossless(greedy=False)]
SAMPLED_WAYS = {
    **{f"k={k}": Way(k=k, sampling=SAMPLED) for k in (1, 2, 3)},
    "nucleus": Way(k=2, sampling=Sampling(temperature=0.6, top_p=0.85)),
    "heuristic": Way(k=1, heuristic=True, sampling=SAMPLED),
    **{f"stop {i}": Way(k=3, sampling=SAMPLED, **stop) for i, stop in enumerate(STOPS) if stop},
    "lookup": Way(k=2, drafter="lookup", sampling=SAMPLED),
    "mixed": Way(k=2, drafter="mixed", sampling=SAMPLED),
    "none": Way(drafter="none", sampling=SAMPLED),
    **{f"codec {name}": Way(k=2, codec=Codec(name=name, vocab=WORDS, top=2), sampling=SAMPLED) for name in SENT},
    "bild 0": Way(k=2, verifier=verify.bild, surprise_threshold_nats=0.0, sampling=SAMPLED),
    "random gate of rate 1": Way(k=2, gate=gates.random, threshold=1.0, sampling=SAMPLED),
    "ensemble of the cloud alone": Way(k=2, verifier=verify.ensemble, cloud_weight=1.0, sampling=SAMPLED),
}


@pytest.mark.parametrize("name", SAMPLED_WAYS)
def test_sampled_outputs_have_the_clouds_exact_distribution(name: str) -> None:
    edge, cloud = five_words()
    way = SAMPLED_WAYS[name]
    assert p_value(speculated(way, edge, cloud), exact(cloud, way.sampling), draws=3000) > 0.001 / len(SAMPLED_WAYS)


@pytest.mark.parametrize("weight", [0.0, 0.4])
def test_an_ensemble_has_the_exact_distribution_of_its_mixture(weight: float) -> None:
    """With drafts as long as the output, for a bonus token is the cloud's own."""
    edge, cloud = five_words()
    way = Way(k=LENGTH, verifier=verify.ensemble, cloud_weight=weight, sampling=SAMPLED)
    make = speculated(way, edge, cloud)
    assert p_value(make, exact(cloud, SAMPLED, edge, weight), draws=3000) > 0.001 / 2
    assert p_value(make, exact(cloud, SAMPLED), draws=1500) < 1e-6  # and it can be told from the cloud's


def test_the_cloud_alone_has_its_own_exact_distribution() -> None:
    _, cloud = five_words()
    ending, way = Ending(max_new_tokens=LENGTH, eos=frozenset({EOS})), Way(sampling=SAMPLED)

    def own(luck: Luck) -> list[int]:
        return alone(cloud, Prompt(tokens=PROMPT), way, ending, luck).tokens

    assert p_value(own, exact(cloud, SAMPLED), draws=4000) > 0.001


class BonusFromEdge(FakeLM):
    """Wrong: the row after a whole draft is the edge's."""

    def logits(self, sequence: list[int], keep: int = 1) -> Tensor:
        rows = super().logits(sequence, keep).clone()
        rows[-1] = five_words()[0].engine.rule(tuple(sequence))
        return rows


class RowsLate(FakeLM):
    """Wrong: every row is the one after the next token, off by one."""

    def logits(self, sequence: list[int], keep: int = 1) -> Tensor:
        return super().logits(sequence, keep).roll(-1, 0)


def argmax_bonus(view: View, sampling: Sampling, luck: Luck, position: int) -> int:
    """Wrong: the bonus token is greedy."""
    return view.best()


def redrawn_from_p(d: Drafted, view: View, how: Verification, luck: Luck, position: int) -> tuple[bool, int]:
    """Wrong: a refused token is replaced by a draw from p, not from the residual."""
    stands, token = verify.lossless(d, view, how, luck, position)
    return stands, token if stands else verify.choose(view, how.sampling, luck, position)


def q_of_temperature_one(d: Drafted, view: View, how: Verification, luck: Luck, position: int) -> tuple[bool, int]:
    """Wrong: q is not what the token was drawn from (transformers #32867)."""
    assert d.logits is not None
    wrong = replace(d, q=Sampling(temperature=1.0).probabilities(d.logits))
    return verify.lossless(wrong, view, how, luck, position)


def test_the_test_of_the_distribution_fails_on_the_q_of_another_temperature() -> None:
    edge, cloud = five_words()
    way = Way(k=2, sampling=Sampling(temperature=0.5), verifier=q_of_temperature_one)
    assert p_value(speculated(way, edge, cloud), exact(cloud, way.sampling), draws=1500) < 1e-6


def test_the_test_of_the_distribution_fails_on_a_draft_drawn_from_more_than_arrives() -> None:
    class HidingCodec(Codec):
        """Wrong: the token is drawn from q, and verified against what is left of q."""

        def draw(self, p: Floats, u: float) -> tuple[int, Floats]:
            return draw(torch.from_numpy(p), u), self.arrives(p)

    edge, cloud = five_words()
    way = Way(k=2, codec=HidingCodec(name="topk", vocab=WORDS, top=2), sampling=SAMPLED)
    assert p_value(speculated(way, edge, cloud), exact(cloud, SAMPLED), draws=1500) < 1e-6


@pytest.mark.parametrize("bug", ["bonus from q", "off by one", "greedy bonus", "redrawn residual", "one luck"])
def test_the_test_of_the_distribution_fails_on(bug: str, monkeypatch: pytest.MonkeyPatch) -> None:
    edge, cloud = five_words()
    expected, way = exact(cloud, SAMPLED), Way(k=2, sampling=SAMPLED)
    if bug == "bonus from q":
        cloud = BonusFromEdge(cloud.engine.rule, WORDS)
    elif bug == "off by one":
        cloud = RowsLate(cloud.engine.rule, WORDS)
    elif bug == "greedy bonus":
        monkeypatch.setattr(verify, "choose", argmax_bonus)
    elif bug == "one luck":  # one uniform for all purposes of a position
        own = Luck.uniform
        monkeypatch.setattr(Luck, "uniform", lambda self, _, position: own(self, "draft", position))
    else:
        way = replace(way, verifier=redrawn_from_p)
    assert p_value(speculated(way, edge, cloud), expected, draws=1500) < 1e-6
