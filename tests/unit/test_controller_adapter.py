"""controller/adapter.py: the stock model's answers at every setting, timed parts that add up, and bad input refused."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from PIL import Image

from controller import crops
from controller.adapter import open_adapter
from controller.knobs import knobs
from controller.table import PARTS
from suite.errors import ConfigError, UserError
from tests import tiny_vlm

QUESTION = "what is it?"
WHOLE = tuple(range(tiny_vlm.BLOCKS))


@pytest.fixture(scope="module")
def adapter():
    return open_adapter(tiny_vlm.embedded(), tiny_vlm.task())


@torch.inference_mode()
def uncached(adapter, image, question, tier, said):
    """What the stock model, as its knobs are now, finds likeliest at each place of an answer, with no cache."""
    inputs = tiny_vlm.stock_inputs(adapter, image, question, tier)
    prompt = inputs["input_ids"].shape[1]
    inputs["input_ids"] = torch.cat([inputs["input_ids"], torch.tensor([said[:-1]], dtype=torch.long)], dim=1)
    return adapter.model(**inputs, use_cache=False).logits[0, prompt - 1 :].argmax(-1).tolist()


@pytest.mark.parametrize("tier", crops.TIERS)
def test_the_full_configuration_is_the_stock_model(adapter, tier):
    image = tiny_vlm.picture(3)
    inputs = tiny_vlm.stock_inputs(adapter, image, QUESTION, tier)
    own = adapter.model.config.text_config.num_experts_per_tok
    run = adapter.run(image, QUESTION, tier=tier, top_k=own, kept=WHOLE, max_new_tokens=5)
    with torch.inference_mode():
        logits = adapter.model(**inputs).logits
        told = adapter.model.generate(**inputs, max_new_tokens=5, do_sample=False)[0, inputs["input_ids"].shape[1] :]
        embeds = adapter.embed(adapter.see(image, tier).tokens, adapter.text(QUESTION)[None])
        ours = adapter.model.lm_head(adapter.model.model.language_model(inputs_embeds=embeds).last_hidden_state)
    assert torch.equal(logits, ours)
    assert run.token_ids == tuple(told.tolist()) and run.answer == adapter.decode_text(told.tolist())


def test_cached_answers_equal_uncached_ones_for_every_setting(adapter):
    images = [tiny_vlm.picture(number) for number in range(3)]
    subsets = [kept for size in (1, 2, 3, 4) for kept in itertools.combinations(WHOLE, size)]
    answers = set()
    for number, (tier, top_k, kept) in enumerate(itertools.product(adapter.space.tiers, adapter.space.top_ks, subsets)):
        image = images[number % 3]
        run = adapter.run(image, QUESTION, tier=tier, top_k=top_k, kept=kept, max_new_tokens=4)
        with knobs(adapter.model, top_k=top_k, kept=kept):
            assert uncached(adapter, image, QUESTION, tier, run.token_ids) == list(run.token_ids)
        answers.add(run.token_ids)
    assert len(answers) > 30  # the settings really differ


def test_blocks_one_by_one_are_the_whole(adapter):
    with torch.inference_mode():
        embeds = adapter.embed(adapter.see(tiny_vlm.picture(1), "medium").tokens, adapter.text(QUESTION)[None])
        positions = torch.arange(embeds.shape[1])[None]
        rope, hidden = adapter.decoder.rope(embeds, positions), embeds
        for number in (0, 2, 3):
            hidden = adapter.decoder.block(number, hidden, rope=rope, mask=None)
        with adapter.knobs(3, (0, 2, 3)):
            whole = adapter.model.model.language_model(inputs_embeds=embeds).last_hidden_state
        assert torch.allclose(adapter.decoder.logits(hidden), adapter.model.lm_head(whole), atol=1e-5)


def test_an_answer_ends_at_its_end(adapter, monkeypatch):
    run = adapter.run(tiny_vlm.picture(1), QUESTION, tier="low", top_k=2, kept=WHOLE, max_new_tokens=5)
    assert run.output_tokens == 5
    monkeypatch.setattr(adapter, "end_ids", frozenset([run.token_ids[0]]))
    short = adapter.run(tiny_vlm.picture(1), QUESTION, tier="low", top_k=2, kept=WHOLE, max_new_tokens=5)
    assert short.token_ids == run.token_ids[:1] and short.parts["decode_ms"] < short.parts["prefill_ms"]


def test_parts_are_positive_and_sum_to_the_total(adapter):
    for tier, top_k in itertools.product(adapter.space.tiers, (2, 6)):
        run = adapter.run(tiny_vlm.picture(2), QUESTION, tier=tier, top_k=top_k, kept=WHOLE, max_new_tokens=3)
        assert tuple(run.parts) == PARTS and min(run.parts.values()) > 0
        assert sum(run.parts.values()) == pytest.approx(run.total_ms, rel=0.03)
        assert run.vision_tokens == 4 * crops.count(tier) and run.text_tokens == len(QUESTION) + 2


def test_both_halves_are_the_run(adapter):
    seen = adapter.see(tiny_vlm.picture(4), "medium")
    assert seen.tokens.shape == (1, 20, adapter.width) and set(seen.times.parts) == set(PARTS[:2])
    knob = {"top_k": 2, "kept": (0, 3), "max_new_tokens": 4}
    half = adapter.answer(seen, adapter.ask(QUESTION), **knob)
    assert half.token_ids == adapter.run(tiny_vlm.picture(4), QUESTION, tier="medium", **knob).token_ids
    assert half.parts["projector_ms"] == seen.times.parts["projector_ms"] and half.total_ms > seen.times.total_ms


def test_images_can_be_encoded_together(adapter):
    pixels = torch.stack([adapter.pixels(tiny_vlm.picture(number), "high") for number in range(3)])
    with torch.inference_mode():
        together = adapter.project(adapter.encode(pixels))
        alone = torch.cat([adapter.project(adapter.encode(one[None])) for one in pixels])
    assert together.shape == (3, 40, adapter.width) and torch.allclose(together, alone, atol=1e-5)


def test_the_prompt_is_the_image_a_space_the_question_and_the_mark(adapter):
    letters = [tiny_vlm.LETTERS[number] for number in adapter.text(" ab?\n").tolist()]
    assert letters == [" ", "a", "b", "?", "<|answer|>"] and not len(adapter.before)


def test_the_language_feature_is_the_mean_word(adapter):
    ids = adapter.text("ab")
    mean = adapter.model.get_input_embeddings().weight[ids[:-1]].mean(0)
    told = adapter.language("ab", ids)
    assert told.dtype == np.float32 and told.shape == (adapter.width,)
    np.testing.assert_allclose(told, mean.numpy(), rtol=0, atol=1e-6)
    np.testing.assert_array_equal(adapter.language(" ab\n", adapter.text(" ab\n")), told)


def test_a_question_is_tokenised_once_for_whoever_decides_and_the_model(adapter, monkeypatch):
    calls, ids = [], adapter._words._ids
    monkeypatch.setattr(adapter._words, "_ids", lambda text: calls.append(text) or ids(text))
    asked = adapter.ask(QUESTION)
    adapter.language(asked.question, asked.ids)
    run = adapter.answer(
        adapter.see(tiny_vlm.picture(1), "low"), asked, top_k=2, kept=range(4), max_new_tokens=2
    )  # fmt: skip
    assert len(calls) == 1 and run.parts["prefill_ms"] > asked.ms > 0
    assert sum(run.parts.values()) == pytest.approx(run.total_ms, rel=0.03)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1", "CMYK", "I;16", "F"])
@pytest.mark.parametrize("size", [(1, 1), (1, 300), (97, 40)])
def test_images_of_any_mode_and_size(adapter, mode, size):
    image = Image.new("I;16", size, 7) if mode == "I;16" else tiny_vlm.picture(5, size, mode)
    for tier in crops.TIERS:
        pixels = adapter.pixels(image, tier)
        assert pixels.shape == (crops.count(tier), 5, 64, 64) and pixels.abs().max() <= 1.01


def test_tiles_lie_in_reading_order():
    image = Image.new("RGB", (40, 20))
    for number in range(4):
        image.paste((60 * number, 0, 0), (20 * (number % 2), 10 * (number // 2), 20 + 20 * (number % 2), 20))
    tiles = crops.tiles(image, 2, 8)
    assert [tile.size for tile in tiles] == [(8, 8)] * 4
    assert [tile.getpixel((4, 4))[0] for tile in tiles] == [0, 60, 120, 180]


def test_a_large_image_and_a_clear_one(adapter):
    large = tiny_vlm.picture(6, (8000, 8000))
    assert (adapter.pixels(large, "high") - adapter.pixels(tiny_vlm.picture(6), "high")).abs().mean() < 0.1
    clear, white = Image.new("RGBA", (50, 50), (255, 0, 0, 0)), Image.new("RGB", (50, 50), "white")
    assert torch.equal(adapter.pixels(clear, "low"), adapter.pixels(white, "low"))
    exact = np.asarray(tiny_vlm.picture(7))
    assert torch.equal(
        adapter.pixels(tiny_vlm.picture(7), "high"), torch.from_numpy(crops.crops(exact[None], (1, 3))[0])
    )


@pytest.mark.parametrize(("question", "words"), [("", "empty"), (" \n", "empty"), ("why " * 40, "shorter")])
def test_questions_that_cannot_be_asked(adapter, question, words):
    for ask in (
        adapter.text,
        lambda q: adapter.run(tiny_vlm.picture(1), q, tier="low", top_k=2, kept=WHOLE, max_new_tokens=2),
    ):
        with pytest.raises(UserError, match=words):
            ask(question)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"blocks": [2, 5]}, "4 decoder blocks"),
        ({"top_ks": [2, 9]}, "8 experts"),
        ({"tiers": ["low", "hihg"]}, "Did you mean 'high'"),
        ({"tiers": ["high", "low"]}, "cheap to dear"),
        ({"max_new_tokens": 100}, "no room"),
    ],
)
def test_knobs_that_the_model_does_not_have(changes, words):
    with pytest.raises(ConfigError, match=words):
        open_adapter(tiny_vlm.embedded(), tiny_vlm.task(**changes))
