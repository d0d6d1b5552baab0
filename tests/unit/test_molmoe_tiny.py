"""zoo/molmoe_tiny: data by seed, dense = sparse experts, blocks really left out, packing changes nothing."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import LlavaForConditionalGeneration

from controller import crops, knobs
from zoo.molmoe_tiny import batches, corpus, measure, model, paths, train
from zoo.molmoe_tiny.drawing import SIDE
from zoo.molmoe_tiny.eyes import Eyes, see
from zoo.molmoe_tiny.questions import SETS
from zoo.molmoe_tiny.scenes import FACTS

pytestmark = pytest.mark.slow  # two minutes of training in miniature


@pytest.fixture(scope="module")
def tok():
    return model.tokenizer()


@pytest.fixture
def made(tok):
    torch.manual_seed(0)
    return model.new(tok).eval()


@pytest.fixture
def batch(tok):
    samples = [corpus.sample("train", name, 3) for name in SETS]
    return batches.Maker(tok, shares={}, text=48).collate(samples)


def sparse_logits(made, batch, tier="high"):
    made.model.language_model.set_experts_implementation("eager")
    with torch.inference_mode():
        return measure.answer(made, batch, see(made, batch)[:, batches.tokens_of(tier)])


def test_a_sample_is_drawn_by_its_number_alone():
    for name in SETS:
        one, again = corpus.sample("test", name, 5), corpus.sample("test", name, 5)
        assert np.array_equal(one.scene.image, again.scene.image) and one.questions == again.questions
        assert one.scene.image.shape == (SIDE, SIDE, 3) and one.questions
        assert not np.array_equal(one.scene.image, corpus.sample("test", name, 6).scene.image)


def test_pixels_are_the_same_on_every_machine():
    drawn = b"".join(corpus.sample("test", name, i).scene.image.tobytes() for name in SETS for i in range(8))
    assert hashlib.sha256(drawn).hexdigest()[:16] == "c04c28785c43b44f"


def test_no_image_is_in_two_splits():
    seen = {}
    for split in corpus.SPLITS:
        for name in SETS:
            for i in range(60):
                image = corpus.sample(split, name, i).scene.image.tobytes()
                assert seen.setdefault(image, split) == split


def test_answers_follow_from_the_scene():
    for i in range(50):
        chart = corpus.sample("test", "diagram", i)
        tallest = max(chart.scene.things, key=lambda bar: bar.level).colour
        after = {tile.colour: tile.next for tile in chart.scene.things}
        for asked in chart.questions:
            options = asked.text.removeprefix(asked.open_text).replace(" or ", ", ").strip().split(", ")
            assert asked.answer in options and 2 <= len(options) <= 4
            if asked.text.startswith("from "):
                _, colour, _, steps, *_ = asked.text.split()
                for _ in range(int(steps)):
                    colour = after[colour]
                assert asked.answer == colour
            if "tallest?" in asked.text and " of " not in asked.text:
                assert asked.answer == tallest
        for asked in corpus.sample("train", "shapes", i).questions:
            if asked.text == "how many objects are there?":
                assert asked.answer == str(len(corpus.sample("train", "shapes", i).scene.things))


def test_every_number_asked_about_is_an_element():
    """Periods end with the noble gases, a symbol is one element's, and a mass is about twice its number or more."""
    elements = FACTS["elements"]
    assert list(elements) == list(range(10, 100)) and len({symbol for symbol, *_ in elements.values()}) == 90
    gases = [number for number, (symbol, *_) in elements.items() if symbol in ("ne", "ar", "kr", "xe", "rn")]
    assert gases == [10, 18, 36, 54, 86]
    for number, (_, mass, period) in elements.items():
        assert period == 2 + sum(gas < number for gas in gases) and 1.9 * number < mass < 2.7 * number
    for i in range(40):
        scene, questions = (one := corpus.sample("train", "commonsense", i)).scene, one.questions
        for sign in (thing for thing in scene.things if thing.kind == "sign"):
            symbol = next(q for q in questions if q.text == f"what is the symbol of the {sign.colour} element?")
            assert symbol.answer == elements[int(sign.text)][0]


def test_experts_are_chosen_almost_at_random_in_training():
    noise = paths.jitter(np.random.default_rng(0), 1, 1, 2000, 16)[0]
    scores = torch.linspace(-0.5, 0.5, 16)  # wider than the routers are drawn
    chosen = torch.zeros(2000, 16).scatter(1, (scores + noise).topk(12).indices, 1.0).mean(0)
    assert chosen.min() > 0.5 and chosen.max() < 0.95


def test_stored_images_are_those_drawn(tmp_path):
    corpus.write(tmp_path / "a", "test", 2)
    corpus.write(tmp_path / "b", "test", 2)
    lines, images = corpus.read(tmp_path / "a", "test")
    assert len(lines) == 2 * len(SETS) and {line["dataset"] for line in lines} == set(SETS)
    for line, image in zip(lines, images, strict=True):
        assert np.array_equal(image, corpus.sample("test", line["dataset"], int(line["id"][-6:])).scene.image)
    for file in ("test.zip", "test.jsonl"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_crops_of_a_tier():
    image = corpus.sample("train", "text", 1).scene.image
    for tier, grids in crops.TIERS.items():
        cut = crops.crops(image[None], grids)[0]
        assert cut.shape == (crops.count(tier), crops.CHANNELS, 64, 64) and np.abs(cut).max() <= 1.01
    middle = crops.crops(image[None], (3,))[0][4, :3, ::2, ::2].transpose(1, 2, 0)
    assert np.allclose((middle + 1) * 127.5, image[32:64, 32:64], atol=1e-3)


def test_only_training_asks_without_the_choices():
    def share(split):
        asked = [one for i in range(40) for one in corpus.sample(split, "diagram", i).questions]
        return np.mean([one.text == one.open_text for one in asked])

    assert 0.4 < share("train") < 0.6 and share("tune") == share("test") == 0


def test_labels_lie_where_the_things_are():
    sample = corpus.sample("train", "shapes", 4)
    told = corpus.labels(sample.scene, corpus.PLACES)
    assert told[..., 0].sum() == len(sample.scene.things)
    for thing in sample.scene.things:
        left, top, right, bottom = thing.box
        row, column = ((a + b) * corpus.PLACES // (2 * SIDE) for a, b in ((top, bottom), (left, right)))
        assert told[row, column, 1] == 1 + corpus.KINDS.index(thing.kind)


def test_the_tokenizer_gives_back_what_it_read(tok):
    for name in SETS:
        for asked in corpus.sample("test", name, 9).questions:
            ids = model.asked(tok, asked.text)
            assert tok.decode(ids[:-1]) == f" {asked.text}"
            assert tok.decode(model.answered(tok, asked.answer), skip_special_tokens=True) == f" {asked.answer}"
    assert tok.decode(tok("Où est-il? 日本 42")["input_ids"]) == "Où est-il? 日本 42"


def test_it_is_small_enough_to_ship(made):
    assert made.num_parameters() * 2 < 16e6
    assert len(made.model.language_model.layers) == 16


@pytest.mark.parametrize("top_k", model.TOP_KS)
def test_dense_experts_equal_sparse_ones(made, top_k):
    experts, gate = made.model.language_model.layers[3].mlp.experts, made.model.language_model.layers[3].mlp.gate
    hidden = torch.randn(50, model.WIDTH)
    gate.top_k = top_k
    with torch.inference_mode():
        _, weights, index = gate(hidden)
        made.model.language_model.set_experts_implementation("eager")
        sparse = experts(hidden, index, weights)
        dense = knobs.dense_masked(experts, hidden, index, weights)
    assert (sparse - dense).abs().max() < 1e-5 * sparse.abs().max().clamp(min=1)


def test_a_dropped_block_is_a_model_without_it(made, tok, batch):
    out = 5
    config = made.config.__class__.from_dict(made.config.to_dict())
    config.text_config.num_hidden_layers = model.BLOCKS - 1
    without = LlavaForConditionalGeneration(config).eval()
    state = {}
    for name, value in made.state_dict().items():
        parts = name.split(".")
        if "language_model" in name and "layers" in parts:
            at = parts.index("layers") + 1
            if int(parts[at]) == out:
                continue
            parts[at] = str(int(parts[at]) - (int(parts[at]) > out))
        state[".".join(parts)] = value
    without.load_state_dict(state)
    whole = sparse_logits(made, batch)
    with knobs.knobs(made, kept=[i for i in range(model.BLOCKS) if i != out]):
        dropped = sparse_logits(made, batch)
    assert torch.equal(dropped, sparse_logits(without, batch))
    assert torch.equal(whole, sparse_logits(made, batch)) and not torch.allclose(whole, dropped, atol=1e-3)


@pytest.mark.parametrize("tier", crops.TIERS)
def test_a_packed_row_is_its_questions_asked_one_by_one(made, tok, tier):
    sample = corpus.sample("train", "shapes", 3)
    packed = batches.Maker(tok, shares={}, text=60).collate([sample])
    together = sparse_logits(made, packed, tier)
    alone = []
    pixels = torch.from_numpy(crops.crops(sample.scene.image[None], crops.TIERS[tier])[0])
    for asked in sample.questions[: int(packed.segment.max())]:
        start, end = model.asked(tok, asked.text), model.answered(tok, asked.answer)
        ids = [tok.convert_tokens_to_ids(model.IMAGE)] * (len(pixels) * crops.TOKENS) + start + end
        with torch.inference_mode():
            logits = made(input_ids=torch.tensor([ids]), pixel_values=pixels).logits[0]
        alone.append(logits[-len(end) - 1 : -1])
    assert torch.allclose(together, torch.cat(alone), atol=2e-4)


def test_cached_answers_equal_those_of_generate(made, tok):
    made.model.language_model.set_experts_implementation("eager")
    sample = corpus.sample("test", "text", 2)
    question = sample.questions[0].text
    with torch.inference_mode():
        for kept, k in ((None, 8), (range(0, 16, 2), 4)):
            with knobs.knobs(made, top_k=k, kept=kept):
                ours = list(measure.answers(made, tok, sample.scene.image, question, "medium", most=4, stop=False))
            pixels = torch.from_numpy(crops.crops(sample.scene.image[None], crops.TIERS["medium"])[0])
            ids = [tok.convert_tokens_to_ids(model.IMAGE)] * (len(pixels) * crops.TOKENS) + model.asked(tok, question)
            for token in ours:
                with knobs.knobs(made, top_k=k, kept=kept):
                    logits = made(input_ids=torch.tensor([ids]), pixel_values=pixels, use_cache=False).logits
                assert int(logits[0, -1].argmax()) == token
                ids.append(token)


def test_the_eyes_learn_and_a_killed_run_goes_on_the_same(made, tok, tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda run, **_: run)  # a minute for every shape
    monkeypatch.setattr(train, "SAVE_EVERY", 6)
    monkeypatch.setattr(train, "WHOLE_SHARE", 1 / 3)
    schedule = train.Schedule(eyes=6, even=1, whole=6, eye_units=1, text=24)
    drawn = {name: weight.clone() for name, weight in made.named_parameters() if ".gate." in name}
    curve = train.train(made, tok, schedule, tmp_path / "a.pt")
    assert [entry["step"] for entry in curve] == [6, 12] and "small_loss" in curve[1]
    saved = torch.load(tmp_path / "a.pt", weights_only=True)
    assert len(drawn) == model.BLOCKS
    assert all(torch.equal(saved["model"][f"0.{name}"], weight) for name, weight in drawn.items())  # routers stay

    torch.manual_seed(0)
    other = model.new(tok)
    real = train.learn
    monkeypatch.setattr(train, "learn", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        train.train(other, tok, schedule, tmp_path / "b.pt")
    monkeypatch.setattr(train, "learn", real)
    torch.manual_seed(1)
    again = train.train(model.new(tok), tok, schedule, tmp_path / "b.pt")
    assert again == curve
    resumed = torch.load(tmp_path / "b.pt", weights_only=True)
    assert all(torch.equal(saved["model"][name], resumed["model"][name]) for name in saved["model"])


def test_the_vision_tokens_loss_falls(made, tok, batch):
    eyes = Eyes(made, tok)
    made.train()
    optimizer = torch.optim.AdamW([*made.parameters(), *eyes.parameters()], lr=3e-3)
    losses = []
    for _ in range(12):
        optimizer.zero_grad()
        losses.append(train.look(made, eyes, batch)["eyes_loss"])
        optimizer.step()
    assert losses[-1] < 0.7 * losses[0]


def test_small_paths_drop_late_blocks_and_at_most_a_quarter():
    drawn = paths.small(np.random.default_rng(0), 400, 16)
    gone = (~drawn.kept).sum(dim=1)
    assert (~drawn.kept).sum(dim=0).max() == 4 and set(drawn.top_k.tolist()) == set(paths.SMALL)
    assert gone.max() / 400 <= 0.3 and gone[8:].sum() > 2 * gone[:8].sum()
    assert set(drawn.vision.sum(dim=1).tolist()) == {crops.count(tier) * crops.TOKENS for tier in crops.TIERS}


def test_rows_of_one_batch_take_paths_of_their_own(made, tok):
    """What training masks, a knob leaves out: the same logits."""
    packed = batches.Maker(tok, shares=dict.fromkeys(SETS, 1), text=48).batch(0)
    made.model.language_model.set_experts_implementation(knobs.DENSE)
    made.set_attn_implementation("eager")
    mixed = paths.small(np.random.default_rng(0), len(packed.ids), model.BLOCKS)
    of_row = torch.nonzero(packed.scored)[:, 0]
    with torch.inference_mode():
        seen = see(made, packed)
        together = paths.answer(made, packed, seen, mixed, paths.decode)
        for row in range(len(packed.ids)):
            texts = {name: getattr(packed, name)[row : row + 1] for name in ("ids", "segment", "place", "scored")}
            kept = torch.nonzero(mixed.kept[:, row])[:, 0].tolist()
            with knobs.knobs(made, top_k=int(mixed.top_k[row]), kept=kept):
                alone = measure.answer(made, replace(packed, **texts), seen[row : row + 1, mixed.vision[row]])
            torch.testing.assert_close(together[of_row == row], alone, atol=1e-5, rtol=1e-5)


def test_a_measurement_of_an_untrained_model_is_whole(made, tok):
    judge = measure.Judge(made, tok, "test", 2)
    scores = [0.0] * 16
    found = measure.marginals(judge, scores)
    assert {knob: list(rows["settings"]) for knob, rows in found.items()}["tier"] == ["low", "medium", "high"]
    assert found["blocks"]["settings"]["8"]["all"]["n"] == 2 * len(SETS)
    times = measure.latency(made, tok, scores, samples=1, rounds=1)
    assert times["all"]["cheapest"]["ms"] < times["all"]["dearest"]["ms"]
    json.dumps([found, times])


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_no_token_sees_what_follows_it_or_another_question(attention, made, tok):
    """Training runs eager attention, which adds its mask: truth values would hide nothing and answers leak."""
    batch = batches.Maker(tok, shares=dict.fromkeys(SETS, 1), text=60).batch(0)
    made.set_attn_implementation(attention)
    seen = torch.randn(4, 56, made.config.text_config.hidden_size, generator=torch.Generator().manual_seed(0))
    there = torch.ones(4, 56, dtype=torch.bool)
    shape = {"attention_mask": batches.mask(batch.segment, there), "position_ids": batches.positions(batch, there)}

    def hidden(ids):
        embeds = torch.cat([seen, made.get_input_embeddings()(ids)], dim=1)
        return made.model.language_model(inputs_embeds=embeds, use_cache=False, **shape).last_hidden_state[:, 56:]

    before = hidden(batch.ids)
    for place in (3, 20):
        after = hidden(batch.ids.index_fill(1, torch.arange(place, batch.ids.shape[1]), 5))
        torch.testing.assert_close(after[:, :place], before[:, :place], atol=1e-5, rtol=0)
    first = batch.segment == 1
    after = hidden(batch.ids.masked_fill(first, 5))
    others = batch.segment > 1
    torch.testing.assert_close(after[others], before[others], atol=1e-5, rtol=0)
