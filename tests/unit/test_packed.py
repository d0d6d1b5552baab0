"""Packed weights: what a GGUF file held is held again, and narrow and wide inputs see the same matrix."""

from __future__ import annotations

import copy

import pytest
import torch
from gguf import GGMLQuantizationType
from gguf.quants import dequantize, quantize

from edgecloud import lean
from edgecloud.batch import BatchedLM
from edgecloud.lean import LeanLlama
from edgecloud.lm import CachedLM
from edgecloud.packed import NARROW, Packed, Reordered, linear
from suite.errors import UserError
from tests.tiny import fresh_logits, gpt2, llama, qwen2, short_head

WIDE = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 2, "num_key_value_heads": 1}
TOKENS = torch.randint(0, 40, (40,), generator=torch.Generator().manual_seed(0)).tolist()
FILE = {4: GGMLQuantizationType.Q4_1, 8: GGMLQuantizationType.Q8_0}


def matrix(rows: int, width: int) -> torch.Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(rows))


@pytest.mark.parametrize("bits", [4, 8])
def test_weights_out_of_a_file_are_packed_as_they_were(bits: int) -> None:
    held = torch.from_numpy(dequantize(quantize(matrix(24, 96).numpy(), FILE[bits]), FILE[bits]))
    packed = Packed(held.clone(), bits)
    torch.testing.assert_close(packed.weight, held, rtol=0.0, atol=2e-6)
    # unpacked to bfloat16, as the suite keeps them: off by what that rounding costs, and no step further
    rounded = Packed(held.bfloat16(), bits)
    assert float((rounded.weight.float() - held).abs().max()) < 0.02 * float(held.abs().max())


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("rows", [16, 40])
def test_narrow_and_wide_inputs_see_the_same_matrix(bits: int, rows: int) -> None:
    weight = matrix(rows, 96)
    weight[3, :32] = 0.25  # a block without spread
    weight[4] = 0.0
    packed, bias = Packed(weight, bits), torch.arange(rows) / 7
    for n in (1, 3, NARROW, NARROW + 1, 30):
        x = matrix(n, 96) / 9
        torch.testing.assert_close(linear(x, packed, bias), linear(x, packed.weight, bias), rtol=1e-5, atol=1e-5)
    assert float((packed.weight - matrix(rows, 96))[5:].abs().max()) < {4: 0.25, 8: 0.02}[bits]


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("make", [lambda: llama(1, **WIDE), lambda: qwen2(6, **WIDE), lambda: llama(2, **WIDE)])
@torch.inference_mode()
def test_the_engine_and_the_model_hold_the_same_weights(bits: int, make) -> None:  # type: ignore[no-untyped-def]
    with torch.inference_mode(False):
        model = make()
        before = copy.deepcopy(model)
    engine = LeanLlama(model, bits)
    expected = fresh_logits(model, TOKENS, keep=40)
    for i in range(20):
        torch.testing.assert_close(engine.feed([TOKENS[i]], keep=1), expected[i : i + 1], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(engine.feed(TOKENS[20:], keep=20), expected[20:], rtol=1e-4, atol=1e-4)
    assert 0.001 < float((expected - fresh_logits(before, TOKENS, keep=40)).abs().mean()) < 2.0
    weights = copy.deepcopy(model.state_dict())
    LeanLlama(model, bits)  # the next job of a sweep
    assert all(torch.equal(weight, weights[name]) for name, weight in model.state_dict().items())


@torch.inference_mode()
def test_a_batch_and_a_shortened_head_are_packed_too() -> None:
    head = list(range(1, 40, 3))
    with torch.inference_mode(False):
        model = short_head(9, head, **WIDE)
    alone = CachedLM(model, bits=4).logits(TOKENS[:9])
    together = BatchedLM(model, slots=2, bits=4).sequence().logits(TOKENS[:9])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(alone, fresh_logits(model, TOKENS[:9])[:, head], rtol=1e-4, atol=1e-4)


@pytest.mark.skipif(not Reordered.pays(torch.zeros(1, dtype=torch.bfloat16)), reason="no bfloat16 kernels here")
@pytest.mark.parametrize("make", [lambda: llama(1), lambda: qwen2(6), lambda: short_head(9, list(range(1, 40, 3)))])
@torch.inference_mode()
def test_weights_in_another_order_are_the_same_weights(make, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    with torch.inference_mode(False):
        model = make().bfloat16()
    with monkeypatch.context() as patch:
        patch.setattr(lean, "COPY_UP_TO", 0)  # the model is too large to be held twice
        plain = LeanLlama(model)
    engine = LeanLlama(model)
    assert isinstance(plain.head, torch.Tensor) and {type(engine.head), type(engine.layers[0].qkv)} == {Reordered}
    for one in (TOKENS[:17], *([token] for token in TOKENS[17:30]), TOKENS[30:]):  # a prompt, single tokens, a block
        torch.testing.assert_close(engine.feed(one, keep=1), plain.feed(one, keep=1), rtol=2e-2, atol=2e-2)
    wide = torch.randn(300, 64).bfloat16(), torch.randn(50, 64).bfloat16(), torch.arange(50).bfloat16()
    torch.testing.assert_close(linear(wide[0], Reordered(wide[1]), wide[2]), linear(*wide), rtol=2e-2, atol=2e-2)
    assert LeanLlama(model).layers is engine.layers  # the next job of a sweep makes no third copy


def test_what_cannot_be_packed_is_a_sentence() -> None:
    with pytest.raises(UserError, match="multiples of 32, and this model's are 16 and 24 on cpu; set it to none"):
        CachedLM(llama(1), bits=4)
    with pytest.raises(UserError, match="this is a gpt2 on engine lean; set it to none"):
        CachedLM(gpt2(1), bits=8)
    with pytest.raises(UserError, match="this is a llama on engine transformers"):
        CachedLM(llama(1), engine="transformers", bits=8)
