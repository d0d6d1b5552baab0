"""CachedLM: whatever sequence comes next, its logits are those of a fresh forward pass, and no position is wasted."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgecloud.lean import LeanLlama
from edgecloud.lm import CachedLM, TransformersEngine
from suite.errors import UserError
from tests.tiny import FakeLM, fresh_logits, gpt2, llama, mistral, qwen2, script, short_head, thinker

MODELS = {
    "llama": lambda: llama(1),
    "qwen2": lambda: qwen2(2),
    "gpt2": lambda: gpt2(3),
    "sliding mistral": lambda: mistral(4, sliding_window=5),
    "thinker": lambda: thinker(5),  # on text; tests/unit/test_omni.py lets it hear
}
CASES = [("llama", "lean"), ("qwen2", "lean"), ("thinker", "lean"), *((name, "transformers") for name in MODELS)]
tokens = st.integers(0, 39)
# one step of a walk: drop so many from the end, append these, ask for the logits after so many of the last
steps = st.lists(
    st.tuples(st.integers(0, 12), st.lists(tokens, min_size=1, max_size=6), st.integers(1, 6)), min_size=1, max_size=6
)


@cache
def wrapped(name: str, engine: str) -> tuple[Any, CachedLM]:
    model = MODELS[name]()
    return model, CachedLM(model, engine=engine)


def same(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize(("name", "engine"), CASES)
@given(start=st.lists(tokens, min_size=1, max_size=14), walk=steps)
@settings(max_examples=30, deadline=None)
def test_any_walk_of_sequences_gives_the_logits_of_a_fresh_forward(
    name: str, engine: str, start: list[int], walk: list[tuple[int, list[int], int]]
) -> None:
    model, lm = wrapped(name, engine)
    lm.reset()
    sequence, held = start, list[int]()
    for drop, more, keep in [(0, [7], 1), *walk]:
        sequence = sequence[: max(1, len(sequence) - drop)] + more
        keep = min(keep, len(sequence))
        common = next((i for i, (a, b) in enumerate(zip(held, sequence, strict=False)) if a != b), None)
        common = min(len(held), len(sequence)) if common is None else common
        before = lm.computed
        same(lm.logits(list(sequence), keep), fresh_logits(model, sequence, keep))
        # nothing that stands in the cache is computed again, save where its logits are asked for
        assert lm.computed - before == len(sequence) - min(common, len(sequence) - keep)
        held = list(sequence)


def test_engine_is_lean_where_it_knows_the_architecture() -> None:
    assert isinstance(CachedLM(llama(1)).engine, LeanLlama)
    assert isinstance(CachedLM(llama(1), engine="transformers").engine, TransformersEngine)
    fallen = CachedLM(gpt2(1))
    assert isinstance(fallen.engine, TransformersEngine)
    assert fallen.engine_name == "transformers"


@pytest.mark.parametrize("engine", ["lean", "transformers"])
def test_reset_forgets_sequence_and_meters(engine: str) -> None:
    model = llama(1)
    lm = CachedLM(model, engine=engine)
    lm.logits([1, 2, 3])
    assert lm.computed == 3
    assert lm.seconds > 0.0
    lm.reset()
    assert (lm.computed, lm.seconds, lm.cached) == (0, 0.0, [])
    same(lm.logits([1, 2, 3]), fresh_logits(model, [1, 2, 3]))
    assert lm.computed == 3


@pytest.mark.parametrize("engine", ["lean", "transformers"])
def test_window_is_full_at_its_last_token_and_an_error_after(engine: str) -> None:
    lm = CachedLM(llama(1, max_position_embeddings=6), engine=engine)
    lm.logits([1] * 6)
    with pytest.raises(UserError, match=r"7 tokens.*window 6"):
        lm.logits([1] * 7)
    lm.logits([1] * 6)  # the refused question spoilt nothing


@pytest.mark.parametrize("engine", ["lean", "transformers"])
def test_vocab_mismatch_columns_past_the_shared_vocabulary_are_cut(engine: str) -> None:
    model = llama(1)
    lm = CachedLM(model, vocab=33, engine=engine)
    assert lm.vocab == 33
    same(lm.logits([1, 2], keep=2), fresh_logits(model, [1, 2], keep=2)[:, :33])
    assert CachedLM(model, vocab=10**6).vocab == 40


@pytest.mark.parametrize(("vocab", "kept"), [(40, [2, 3, 17, 38]), (38, [2, 3, 17])])
def test_short_head_has_its_own_columns(vocab: int, kept: list[int]) -> None:
    model = short_head(5, [2, 3, 17, 38])
    lm = CachedLM(model, vocab=vocab)
    logits = lm.logits([1, 2, 3])[0]
    same(logits, fresh_logits(model, [1, 2, 3])[0, kept])
    assert (lm.vocab, lm.width) == (vocab, len(kept))
    assert [lm.token(column) for column in range(len(logits))] == kept
    assert [lm.column(token) for token in kept] == list(range(len(logits)))
    p = torch.softmax(logits, -1)
    spread = lm.spread(p)
    assert spread.shape == (vocab,)
    assert torch.equal(spread[kept], p)
    assert float(spread.sum()) == pytest.approx(1.0, abs=1e-6)


def test_short_head_on_the_transformers_engine_answers_by_token_id() -> None:
    model = short_head(5, [2, 3, 17, 38])
    lm = CachedLM(model, engine="transformers")
    same(lm.logits([1, 2, 3]), fresh_logits(model, [1, 2, 3]))
    assert lm.columns is None
    assert lm.token(17) == 17


def test_sliding_window_model_can_be_rolled_back_past_its_window() -> None:
    """transformers' own sliding cache has dropped what a roll-back needs; ours keeps every position."""
    model = mistral(4, sliding_window=5)
    lm, sequence = CachedLM(model), [(7 * i) % 40 for i in range(24)]
    lm.logits(sequence)
    assert not torch.allclose(fresh_logits(model, sequence), fresh_logits(mistral(4, 100), sequence), atol=1e-2)
    for length in (20, 9, 3):  # back by less and by more than the window
        other = [*sequence[:length], 39, 1]
        same(lm.logits(other, keep=2), fresh_logits(model, other, keep=2))


def test_bfloat16_logits_come_as_float32() -> None:
    logits = CachedLM(llama(1).bfloat16()).logits([1, 2, 3], keep=2)
    assert logits.dtype == torch.float32
    assert logits.shape == (2, 40)


def test_the_cache_of_a_scripted_model_never_holds_what_was_not_named() -> None:
    lm = FakeLM(script([1], [5]))
    for sequence in ([1, 2, 3, 4], [1, 2, 9], [1, 2, 9, 9, 9], [1]):
        lm.logits(sequence)
        assert lm.engine.sequence == sequence == lm.cached
