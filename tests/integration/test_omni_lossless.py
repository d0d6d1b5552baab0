"""Thinkers that hear: greedy output is the cloud's own, token for token, on both engines and by transformers too."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from edgecloud import gates, verify
from edgecloud.decode import Ending
from edgecloud.lm import CachedLM, Prompt
from edgecloud.omni import embeddings
from edgecloud.sampling import Luck
from tests.loop import Way, alone, together
from tests.tiny import IDS, VOCAB, padded, related, sound, thinker

LUCK = Luck(0, "greedy")
ENGINES = [("lean", "lean"), ("transformers", "transformers"), ("lean", "transformers"), ("transformers", "lean")]
SEEDS = 4


@cache
def models(seed: int) -> tuple[Any, Any]:
    """(edge, cloud): the same tokenizer, other paddings of the vocabulary, from nearly equal to far apart."""
    cloud = thinker(seed)
    return padded(related(cloud, seed, noise=0.1 + 0.1 * seed), VOCAB + 3), padded(cloud, VOCAB + 8)


@cache
def pair(seed: int, engines: tuple[str, str]) -> tuple[CachedLM, CachedLM]:
    edge, cloud = models(seed)
    return CachedLM(edge, vocab=VOCAB, engine=engines[0]), CachedLM(cloud, vocab=VOCAB, engine=engines[1])


def cases(count: int) -> list[tuple[int, Prompt, Way, Ending]]:
    """`count` random (seed of the pair, clip with its question, way, ending); every fifth has no clip."""
    rng = np.random.default_rng(11)

    def some(most: int) -> list[int]:
        return rng.integers(0, VOCAB - len(IDS), size=rng.integers(1, most)).tolist()

    found = []
    for i in range(count):
        prompt = Prompt(tokens=some(20))
        if i % 5:
            frames = int(rng.integers(3, 80))
            heard = [IDS["audio_bos_token"], *[IDS["audio_token"]] * embeddings(frames), IDS["audio_eos_token"]]
            prompt = Prompt(tokens=some(6) + heard + some(6), audio=sound(i, frames))
        gate, verifier = [(gates.always, verify.lossless), (gates.entropy, verify.rank)][i % 2]
        way = Way(k=int(rng.integers(1, 9)), gate=gate, verifier=verifier)
        ending = Ending(max_new_tokens=int(rng.integers(1, 25)), eos=frozenset([IDS["eos_token"]]))
        found.append((i % SEEDS, prompt, way, ending))
    return found


def assert_equal_to_cloud_alone(count: int, engines: tuple[str, str]) -> None:
    accepted = tested = 0
    for seed, prompt, way, ending in cases(count):
        edge, cloud = pair(seed, engines)
        out = together(edge, cloud, prompt, way, ending, LUCK)
        assert out.tokens == alone(cloud, prompt, way, ending, LUCK).tokens, (seed, prompt, way)
        assert max(out.tokens) < VOCAB
        accepted, tested = accepted + out.counters.accepted, tested + out.counters.tested
    assert 0.2 < accepted / tested < 0.9  # neither a draft that is never nor one that is always right


@pytest.mark.parametrize("engines", ENGINES, ids=" edge, ".join)
def test_greedy_is_token_identical_to_the_cloud_alone_in_220_cases(engines: tuple[str, str]) -> None:
    assert_equal_to_cloud_alone(55, engines)


@pytest.mark.slow
@pytest.mark.parametrize("engines", ENGINES, ids=" edge, ".join)
def test_greedy_is_token_identical_in_8000_cases(engines: tuple[str, str]) -> None:
    assert_equal_to_cloud_alone(2000, engines)


def theirs(cloud: Any, prompt: Prompt, ending: Ending, edge: Any = None) -> list[int]:
    """New tokens of transformers' own greedy decoding, assisted by `edge` where given."""
    ids = torch.tensor([prompt.tokens])
    made = cloud.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        **(prompt.audio or {}),
        do_sample=False,
        max_new_tokens=ending.max_new_tokens,
        eos_token_id=sorted(ending.eos),
        pad_token_id=0,
        assistant_model=edge,
    )
    tokens: list[int] = made[0, len(prompt.tokens) :].tolist()
    return tokens


@cache
def unpadded(seed: int, engine: str) -> tuple[Any, Any, CachedLM, CachedLM]:
    """A pair that transformers' assisted generation can run: of equal size, and never writing an audio placeholder.

    In its first block, which holds the clip too, it would look for something to hear there, and crash.
    """
    cloud = thinker(seed)
    with torch.no_grad():
        cloud.lm_head.weight[IDS["audio_token"]] = 0.0
    edge = related(cloud, seed, noise=0.1 + 0.1 * seed)
    return edge, cloud, CachedLM(edge, engine=engine), CachedLM(cloud, engine=engine)


def assert_equal_to_transformers(count: int, engine: str) -> None:
    for seed, prompt, way, ending in cases(count):
        edge, cloud, our_edge, our_cloud = unpadded(seed, engine)
        out = together(our_edge, our_cloud, prompt, way, ending, LUCK)
        assert out.tokens == theirs(cloud, prompt, ending), (seed, prompt, way)
        assert out.tokens == theirs(cloud, prompt, ending, edge), (seed, prompt, way)


@pytest.mark.parametrize("engine", ["lean", "transformers"])
def test_greedy_is_what_transformers_generates_plain_and_assisted(engine: str) -> None:
    assert_equal_to_transformers(9, engine)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["lean", "transformers"])
def test_greedy_is_what_transformers_generates_in_300_cases(engine: str) -> None:
    assert_equal_to_transformers(150, engine)


@pytest.mark.parametrize("engine", ["lean", "transformers"])
def test_one_module_may_be_both_edge_and_cloud(engine: str) -> None:
    """Then every draft stands, whatever the other one did to the module meanwhile."""
    model = thinker(2)
    edge, cloud = CachedLM(model, engine=engine), CachedLM(model, engine=engine)
    for _, prompt, way, ending in cases(20):
        out = together(edge, cloud, prompt, way, ending, LUCK)
        assert out.tokens == theirs(model, prompt, ending)
        assert out.counters.accepted == out.counters.tested


def test_the_clip_matters() -> None:
    """Else all of the above would hold for models that hear nothing."""
    _, cloud = pair(1, ENGINES[0])
    heard = [prompt for _, prompt, _, _ in cases(40) if prompt.audio is not None]
    ending = Ending(max_new_tokens=8)
    changed = 0
    for prompt in heard:
        assert prompt.audio is not None
        other = sound(999, prompt.audio["input_features"].shape[2])
        answers = [
            alone(cloud, Prompt(tokens=prompt.tokens, audio=audio), Way(), ending, LUCK).tokens
            for audio in (prompt.audio, other)
        ]
        changed += answers[0] != answers[1]
    assert changed > len(heard) / 2
