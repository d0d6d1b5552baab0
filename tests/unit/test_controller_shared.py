"""Shared evaluation and features: the same numbers as one run at a time, for less work."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from controller import features, knobs, shared
from controller.adapter import Adapter, Run, open_adapter
from controller.knobs import SPARSE, gate_of
from controller.shared import Chunk, answers, influence
from controller.space import kept_blocks
from suite.errors import ConfigError, UserError
from suite.models.loading import Loaded
from tests import tiny_vlm
from tests.tiny import randomise

IMPORTANCE = [0.3, 0.1, 0.4, 0.2]
QUESTIONS = ["what is it?", "red?", "how many boxes are left of the red one?", "which colour is it?", "is it 4?"]
IMAGES = [tiny_vlm.picture(number) for number in range(len(QUESTIONS))]
ODD = [(2,), (0, 1), (0, 3), (1, 2, 3), (0, 1, 2, 3), (0, 1, 3)]
"""Kept blocks of which few are nested, one list is part of others, and two share what lies between."""
MOST = 5


def opened(loaded: Loaded | None = None, **changes: Any) -> Adapter:
    """A random model in float64, where no two logits are as close as the order of a sum; every second token ends."""
    loaded = loaded or tiny_vlm.embedded()
    loaded.model.double()
    adapter = open_adapter(loaded, tiny_vlm.task(max_new_tokens=MOST, **changes))
    adapter.end_ids = frozenset(range(1, len(tiny_vlm.LETTERS), 2))
    return adapter


@pytest.fixture(scope="module")
def adapter() -> Adapter:
    """One for all tests that leave it as it was."""
    return opened()


@pytest.fixture(autouse=True)
def _several_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared, "ROWS", 3)
    monkeypatch.setattr(knobs, "SLICE", 7)


def alone(adapter: Adapter, sample: int, tier: str, top_k: int, kept: tuple[int, ...]) -> Run:
    """What the adapter says to one question by itself."""
    return adapter.run(IMAGES[sample], QUESTIONS[sample], tier=tier, top_k=top_k, kept=kept, max_new_tokens=MOST)


def check(adapter: Adapter, tier: str, top_k: int, lists: list[tuple[int, ...]], samples: range) -> set[int]:
    """Shared answers are those of each run by itself; returns how many tokens they have."""
    chunk = Chunk(adapter, IMAGES, QUESTIONS)
    found = answers(chunk, tier=tier, top_k=top_k, kept=lists, max_new_tokens=MOST)
    assert list(found) == sorted(lists)
    lengths = set()
    for kept, sample in product(lists, samples):
        one, run = found[kept][sample], alone(adapter, sample, tier, top_k, kept)
        assert (one.token_ids, one.text, one.output_tokens) == (run.token_ids, run.answer, run.output_tokens)
        assert chunk.vision(tier).shape[1] == run.vision_tokens
        assert len(chunk.ids[sample]) == run.text_tokens
        lengths.add(one.output_tokens)
    return lengths


def test_every_configuration_answers_as_by_itself(adapter: Adapter) -> None:
    space = adapter.space
    lists = [kept_blocks(IMPORTANCE, depth) for depth in space.depths]
    lengths: set[int] = set()
    for tier, top_k in product(space.tiers, space.top_ks):
        lengths |= check(adapter, tier, top_k, lists, range(0, 5, 2))
    assert lengths >= {2, 3, MOST}, "rows must leave at different steps, or their leaving is not tested"


def test_kept_blocks_need_not_be_nested(adapter: Adapter) -> None:
    check(adapter, "medium", 3, ODD, range(5))


@pytest.mark.parametrize("mode", ["renorm", "mass"])
def test_top_k_mode(mode: str) -> None:
    check(opened(top_k_mode=mode), "low", 6, [(0, 2, 3)], range(5))


def test_a_decoder_without_experts_and_with_fewer_key_heads() -> None:
    config = tiny_vlm.embedded().model.config
    dense = LlavaConfig(
        vision_config=config.vision_config, text_config=LlamaConfig(**tiny_vlm.TEXT | {"num_key_value_heads": 1}),
        image_token_index=3, image_seq_length=4, vision_feature_layer=-1, vision_feature_select_strategy="full",
    )  # fmt: skip
    model = randomise(LlavaForConditionalGeneration(dense), 0)
    adapter = opened(tiny_vlm.loaded(model, tiny_vlm.tokenizer()))
    check(adapter, "low", 0, [(0, 1, 3), (0, 2)], range(5))


def test_blocks_in_front_are_computed_once(adapter: Adapter) -> None:
    widths: list[int] = []
    layers = adapter.model.model.language_model.layers
    hooks = [layer.register_forward_hook(lambda layer, args, out: widths.append(args[0].shape[1])) for layer in layers]
    tower = adapter.model.model.vision_tower
    crops: list[int] = []
    hooks.append(tower.register_forward_hook(lambda tower, args, out: crops.append(len(args[0]))))
    chunk = Chunk(adapter, IMAGES, QUESTIONS)
    for top_k in (2, 6):
        answers(chunk, tier="medium", top_k=top_k, kept=ODD, max_new_tokens=1)
    for hook in hooks:
        hook.remove()
    nodes = {path[: i + 1] for path in ODD for i in range(len(path))}
    assert len(widths) == 2 * 2 * len(nodes) < 2 * 2 * sum(map(len, ODD)), "two top-ks, two batches"
    assert sum(crops) == 5 * len(IMAGES), "one whole image and 2x2 crops of each, for both top-ks"


def test_influence_is_that_of_the_stock_model(adapter: Adapter) -> None:
    found = influence(Chunk(adapter, IMAGES, QUESTIONS), tier="low", top_k=3)
    assert found.shape == (len(QUESTIONS), adapter.depth)
    seen: list[torch.Tensor] = []

    def note(layer: Any, args: Any, out: torch.Tensor) -> None:
        cosine = (args[0] * out).sum(-1) / (args[0].norm(dim=-1) * out.norm(dim=-1))
        seen.append(1 - cosine.mean())

    hooks = [layer.register_forward_hook(note) for layer in adapter.model.model.language_model.layers]
    with torch.inference_mode():
        for image, question in zip(IMAGES, QUESTIONS, strict=True):
            inputs = tiny_vlm.stock_inputs(adapter, image, question, "low")
            adapter.model(**inputs | {"pixel_values": inputs["pixel_values"].double()})
    for hook in hooks:
        hook.remove()
    torch.testing.assert_close(torch.from_numpy(found).flatten(), torch.stack(seen), rtol=1e-6, atol=1e-9)


def test_the_model_is_left_as_it_was(adapter: Adapter, monkeypatch: pytest.MonkeyPatch) -> None:
    stack = adapter.model.model.language_model
    hooked = stack.layers[1].mlp.forward  # as accelerate hooks a module: in the instance
    monkeypatch.setattr(stack.layers[1].mlp, "forward", hooked)
    chunk = Chunk(adapter, IMAGES, QUESTIONS)
    answers(chunk, tier="low", top_k=6, kept=[(0, 1)], max_new_tokens=2)
    with pytest.raises(IndexError):
        answers(chunk, tier="low", top_k=6, kept=[(0, 9)], max_new_tokens=2)
    assert stack.config._experts_implementation == SPARSE
    assert {gate_of(layer).top_k for layer in stack.layers} == {3}
    assert vars(stack.layers[1].mlp)["forward"] is hooked


def test_a_bad_question_is_told_at_once(adapter: Adapter) -> None:
    with pytest.raises(UserError, match="empty"):
        Chunk(adapter, IMAGES[:2], ["red?", " "])


def test_features(adapter: Adapter, tmp_path: Path) -> None:
    whole = features.look(Chunk(adapter, IMAGES, QUESTIONS))
    parts = [features.look(Chunk(adapter, IMAGES[part], QUESTIONS[part])) for part in (slice(2), slice(2, 5))]
    features.write(tmp_path / "features.safetensors", features.join(parts))
    stored = features.read(tmp_path / "features.safetensors")
    torch.testing.assert_close(stored.language, whole.language)
    torch.testing.assert_close(stored.vision, whole.vision)
    seen = adapter.see(IMAGES[3], "medium").tokens
    torch.testing.assert_close(stored.vision[3, 1], seen[0].float().mean(0))
    scale = float(stored.vision.abs().max())
    np.testing.assert_allclose(features.pool_one(seen) / scale, stored.vision[3, 1] / scale, rtol=0, atol=1e-6)
    asked = adapter.ask(QUESTIONS[3])
    np.testing.assert_array_equal(stored.language[3], adapter.language(asked.question, asked.ids))
    assert stored.vision.dtype == stored.language.dtype == torch.float32


def test_budget_features_tell_budgets_apart() -> None:
    encoded = torch.from_numpy(
        np.stack([features.budget_features(one, 10.0, 100.0, 16) for one in np.logspace(1, 2, 33)])
    )
    assert encoded.shape == (33, 16)
    assert encoded.abs().max() <= 1
    apart = torch.cdist(encoded, encoded)
    steps = apart.diagonal(1)
    torch.testing.assert_close(steps, steps[:1].expand(32))  # equal ratios are equally far apart
    others = apart + 9 * torch.eye(33, dtype=torch.float64)
    assert others.min() > 0.5 * steps.min(), "no two budgets of the range look alike"
    beyond = np.stack([features.budget_features(one, 10.0, 100.0, 16) for one in (1.0, -3.0, 10.0, 100.0, 1e6)])
    assert (beyond[:3] == beyond[2]).all() and (beyond[3] == beyond[4]).all()


@pytest.mark.parametrize("wrong", [(0.0, 5.0, 8), (5.0, 5.0, 8), (1.0, 5.0, 7), (1.0, 5.0, 0)])
def test_budget_features_that_cannot_be(wrong: tuple[float, float, int]) -> None:
    with pytest.raises(ConfigError, match="give"):
        features.budget_features(1.0, *wrong)
