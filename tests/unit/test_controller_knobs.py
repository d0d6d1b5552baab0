"""controller/knobs.py: blocks really left out, experts really routed to, and the model put back as it was."""

from __future__ import annotations

import pytest
import torch
from transformers import LlavaForConditionalGeneration

from controller.knobs import FEW, dense_masked, gate_of, knobs, sparse_experts
from tests import tiny_vlm


@pytest.fixture(scope="module")
def model():
    made = tiny_vlm.embedded().model
    made.model.language_model.set_experts_implementation("eager")
    return made


IDS = torch.tensor([[5, 9, 4, 30, 17, 2]])


@torch.inference_mode()
def logits(model):
    return model(input_ids=IDS).logits


def state(model):
    stack = model.model.language_model
    gates = [gate_of(block) for block in stack.layers]
    return (
        [id(block) for block in stack.layers],
        [block.self_attn.layer_idx for block in stack.layers],
        [(gate.top_k, len(gate._forward_hooks)) for gate in gates],
    )


@pytest.mark.parametrize("mode", ["native", "renorm", "mass"])
def test_the_model_is_as_it_was_also_after_an_error(model, mode):
    before, whole = state(model), logits(model)
    with knobs(model, top_k=2, kept=(1, 3), mode=mode):
        assert state(model) != before
    assert state(model) == before and torch.equal(logits(model), whole)
    with pytest.raises(RuntimeError, match="midway"), knobs(model, top_k=2, kept=(1, 3), mode=mode):
        raise RuntimeError("midway")
    with pytest.raises(IndexError), knobs(model, top_k=2, kept=(0, 9), mode=mode):
        pass
    assert state(model) == before and torch.equal(logits(model), whole)


def test_a_block_left_out_is_not_run(model):
    ran = []
    hooks = [
        block.register_forward_hook(lambda *_, number=number: ran.append(number))
        for number, block in enumerate(model.model.language_model.layers)
    ]
    for kept in ((0, 2), (3,), (0, 1, 2, 3)):
        ran.clear()
        with knobs(model, kept=kept):
            logits(model)
        assert tuple(ran) == kept
    for hook in hooks:
        hook.remove()


def test_leaving_a_block_out_is_a_model_without_it(model):
    config = model.config.__class__.from_dict(model.config.to_dict())
    config.text_config.num_hidden_layers = tiny_vlm.BLOCKS - 1
    without = LlavaForConditionalGeneration(config).eval()
    without.load_state_dict(model.state_dict(), strict=False)
    stack, theirs = model.model.language_model, without.model.language_model
    for place, number in enumerate((0, 2, 3)):
        theirs.layers[place].load_state_dict(stack.layers[number].state_dict())
    theirs.set_experts_implementation("eager")
    with knobs(model, kept=(0, 2, 3)):
        assert torch.equal(logits(model), logits(without))
    assert not torch.allclose(logits(model), logits(without), atol=1e-2)


@pytest.mark.parametrize("top_k", [1, 2, 3, 6, 8])
def test_each_token_goes_to_top_k_experts_whose_weights_follow_the_mode(model, top_k):
    gate = gate_of(model.model.language_model.layers[2])
    hidden = torch.randn(40, tiny_vlm.WIDTH, generator=torch.Generator().manual_seed(1))
    own = gate.top_k
    of = {}
    with torch.inference_mode():
        for mode in ("native", "renorm", "mass"):
            with knobs(model, top_k=top_k, mode=mode):
                scores, weights, chosen = gate(hidden)
            of[mode] = weights
            assert chosen.shape == weights.shape == (40, top_k)
    probabilities = scores.softmax(-1)
    assert torch.allclose(of["native"], probabilities.topk(top_k).values)
    assert torch.allclose(of["renorm"].sum(-1), torch.ones(40))
    assert torch.allclose(of["mass"].sum(-1), probabilities.topk(own).values.sum(-1))
    if top_k == own:
        assert torch.allclose(of["mass"], of["native"])
    assert torch.allclose(of["renorm"] / of["renorm"][:, :1], of["native"] / of["native"][:, :1])


def test_mass_of_a_router_that_normalises_is_one(model, monkeypatch):
    gate = gate_of(model.model.language_model.layers[0])
    monkeypatch.setattr(gate, "norm_topk_prob", True)
    with torch.inference_mode(), knobs(model, top_k=6, mode="mass"):
        _, weights, _ = gate(torch.randn(7, tiny_vlm.WIDTH))
    assert torch.allclose(weights.sum(-1), torch.ones(7))


@pytest.mark.parametrize("run", [sparse_experts, dense_masked])
@pytest.mark.parametrize("tokens", [1, 3, FEW // 8, FEW // 2])
@pytest.mark.parametrize("top_k", [1, 2, 8])
def test_both_ways_to_run_the_experts_equal_the_loop_of_transformers(model, run, tokens, top_k):
    block = model.model.language_model.layers[1].mlp
    hidden = torch.randn(tokens, tiny_vlm.WIDTH, generator=torch.Generator().manual_seed(2))
    with torch.inference_mode(), knobs(model, top_k=top_k):
        _, weights, index = block.gate(hidden)
        loop = block.experts(hidden, index, weights)
        assert (loop - run(block.experts, hidden, index, weights)).abs().max() < 1e-5 * loop.abs().max().clamp(min=1)
