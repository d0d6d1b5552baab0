"""The lean forward pass against transformers: the same logits to rounding, whatever was fed and dropped before."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from edgecloud import lean
from edgecloud.lean import LeanLlama, lean_supports
from tests.tiny import fresh_logits, gpt2, llama, mistral, qwen2, short_head, thinker

HEAD = list(range(1, 40, 3))
MODELS = {
    "llama": lambda: llama(1),
    "llama, one group": lambda: llama(2, num_key_value_heads=1),
    "llama, no groups": lambda: llama(3, num_key_value_heads=4),
    "llama, tied head, wide heads": lambda: llama(4, head_dim=12, tie_word_embeddings=True),
    "llama, other rope base": lambda: llama(5, rope_parameters={"rope_type": "default", "rope_theta": 100.0}),
    "qwen2": lambda: qwen2(6),
    "qwen2, one group": lambda: qwen2(7, num_key_value_heads=1),
    "thinker": lambda: thinker(11),
    "thinker, one group": lambda: thinker(12, num_key_value_heads=1),
}
TOKENS = torch.randint(0, 40, (720,), generator=torch.Generator().manual_seed(0)).tolist()


def same(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("name", MODELS)
@torch.inference_mode()
def test_equals_transformers_by_token_by_block_and_after_roll_backs(name: str) -> None:
    model = MODELS[name]()
    assert lean_supports(model)
    expected = fresh_logits(model, TOKENS[:40], keep=40)
    engine = LeanLlama(model)
    same(engine.feed(TOKENS[:7], keep=7), expected[:7])  # a prompt
    for i in range(7, 15):  # one token at a time
        same(engine.feed([TOKENS[i]], keep=1), expected[i : i + 1])
    same(engine.feed(TOKENS[15:25], keep=4), expected[21:25])  # a block, after what is cached
    engine.feed([3, 3, 3], keep=1)  # a refused draft
    engine.rollback(25)
    same(engine.feed(TOKENS[25:40], keep=15), expected[25:])
    engine.rollback(11)  # far back, past several blocks
    same(engine.feed([TOKENS[11]], keep=1), expected[11:12])
    engine.rollback(0)
    same(engine.feed(TOKENS[:40], keep=40), expected)


@pytest.mark.parametrize("first_length", [1, 4, lean.FIRST_LENGTH])
@torch.inference_mode()
def test_cache_grows_past_its_first_allocation(first_length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lean, "FIRST_LENGTH", first_length)
    model, end = qwen2(8), first_length + 150
    engine, expected = LeanLlama(model), fresh_logits(model, TOKENS[:end], keep=end)
    cuts = sorted({0, max(first_length - 2, 0), first_length, first_length + 1, first_length + 7, end})
    for start, stop in zip(cuts, cuts[1:], strict=False):
        same(engine.feed(TOKENS[start:stop], keep=stop - start), expected[start:stop])
    engine.rollback(first_length - 1)  # the longer cache still holds the first positions
    same(engine.feed(TOKENS[first_length - 1 : end], keep=1), expected[-1:])


@torch.inference_mode()
def test_short_head_computes_only_its_columns() -> None:
    model = short_head(9, HEAD)
    assert lean_supports(model)
    full = fresh_logits(model, TOKENS[:20], keep=20)
    engine = LeanLlama(model)
    same(engine.feed(TOKENS[:20], keep=20), full[:, HEAD])
    absent = sorted(set(range(40)) - set(HEAD))
    assert torch.isinf(full[:, absent]).all()


def test_weights_of_the_model_are_left_as_they_were() -> None:
    model = qwen2(10)
    before = fresh_logits(model, TOKENS[:9], keep=9)
    with torch.inference_mode():
        LeanLlama(model).feed(TOKENS[:9], keep=1)
    assert torch.equal(fresh_logits(model, TOKENS[:9], keep=9), before)


def with_odd_projection(model: Any, part: str, name: str) -> Any:
    """The model with one projection that is not a plain Linear, as adapters and quantisation make them."""

    class FakeAdapter(torch.nn.Linear):
        pass

    body = getattr(model.model, "language_model", model.model)
    block = model if part == "" else getattr(body.layers[1], part)
    old = getattr(block, name)
    setattr(block, name, FakeAdapter(old.in_features, old.out_features, bias=old.bias is not None))
    return model


SCALED = {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 512,
    "rope_theta": 1e4,
}
UNSUPPORTED = {
    "gpt2": lambda: gpt2(1),
    "mistral": lambda: mistral(1, sliding_window=4),
    "linear rope": lambda: llama(1, rope_parameters=SCALED),
    "llama3 rope": lambda: llama(1, rope_parameters=LLAMA3),
    "attention biases": lambda: llama(1, attention_bias=True),
    "mlp biases": lambda: llama(1, mlp_bias=True),
    "gelu": lambda: llama(1, hidden_act="gelu"),
    "sliding qwen2": lambda: qwen2(1, use_sliding_window=True, sliding_window=4, max_window_layers=0),
    "adapter on q": lambda: with_odd_projection(llama(1), "self_attn", "q_proj"),
    "adapter on v": lambda: with_odd_projection(llama(1), "self_attn", "v_proj"),
    "adapter on o": lambda: with_odd_projection(llama(1), "self_attn", "o_proj"),
    "adapter on down": lambda: with_odd_projection(llama(1), "mlp", "down_proj"),
    "adapter on the head": lambda: with_odd_projection(llama(1), "", "lm_head"),
    "linear rope of a thinker": lambda: thinker(1, rope_parameters=SCALED | {"mrope_section": [1, 1, 1]}),
    "gelu of a thinker": lambda: thinker(1, hidden_act="gelu"),
    "sliding thinker": lambda: thinker(1, use_sliding_window=True, sliding_window=4, max_window_layers=0),
    "adapter on q of a thinker": lambda: with_odd_projection(thinker(1), "self_attn", "q_proj"),
}


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_says_no_to_what_it_does_not_compute(name: str) -> None:
    assert not lean_supports(UNSUPPORTED[name]())
