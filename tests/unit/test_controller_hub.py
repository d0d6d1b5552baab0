"""The adapter over models of other makers: random Llavas and a Molmo2, saved as a hub would hold them, then loaded."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    Molmo2Config,
    Molmo2ForConditionalGeneration,
    OlmoeConfig,
    Qwen2Config,
    SiglipVisionConfig,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from controller import crops
from controller.adapter import open_adapter
from suite.errors import ConfigError, UserError
from suite.hardware.profile import HardwareConfig
from suite.models.loading import keep_only, load
from suite.models.plan import Placement
from suite.models.quiet import quiet
from suite.models.spec import ModelConfig
from tests import tiny_vlm
from tests.tiny import randomise

SIDE = 12
TOWER: dict[str, Any] = {
    "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "image_size": SIDE,
    "patch_size": 6,
}  # fmt: skip
LONG = tiny_vlm.TEXT | {"max_position_embeddings": 512}
CHAT = """{% for m in messages %}[{% for part in m['content'] %}{% if part['type'] == 'image' %}<|image|>\
{% else %}{{ part['text'] }}{% endif %}{% endfor %}]{% endfor %}{% if add_generation_prompt %}a {% endif %}"""
MARKS = ["<im_patch>", "<im_col>", "<im_start>", "<low_res_im_start>", "<im_end>"]


def llava(text: Any, vision: Any, strategy: str) -> Any:
    config = LlavaConfig(
        vision_config=vision, text_config=text, image_token_index=3, vision_feature_layer=-2,
        vision_feature_select_strategy=strategy, image_seq_length=4,
    )  # fmt: skip
    return randomise(LlavaForConditionalGeneration(config), 1)


def molmo2() -> Any:
    """Crops of 6x6 patches that overlap by one on each side; some blocks turn by another angle than others."""
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 8}
    config = Molmo2Config(
        vision_config={"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 3, "image_size": [SIDE, SIDE],
                       "patch_size": 2, **heads},
        adapter_config={"hidden_size": 16, "intermediate_size": 16, "text_hidden_size": tiny_vlm.WIDTH,
                        "vision_feature_layer": [2, 0], **heads},
        text_config={**LONG, **heads, "head_dim": 16, "additional_vocab_size": 8, "rope_scaling_layers": [1, 3],
                     "rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4}},
        image_patch_id=len(tiny_vlm.LETTERS),
    )  # fmt: skip
    return randomise(Molmo2ForConditionalGeneration(config), 1)


def words(*, chat: bool = False, marks: bool = False) -> Any:
    """The letters of `tiny_vlm`, but without the embedded model's mark of an answer."""
    letters = ["<pad>", "<end>", "<unused>", "<|image|>"]
    made = tiny_vlm.tokenizer(letters, chat_template=CHAT if chat else None)
    made.add_special_tokens({"additional_special_tokens": MARKS} if marks else {})
    return made


MODELS = {
    "llava-llama": lambda: (llava(LlamaConfig(**LONG), CLIPVisionConfig(**TOWER), "default"), words()),
    "llava-qwen2": lambda: (llava(Qwen2Config(**LONG), SiglipVisionConfig(**TOWER), "full"), words(chat=True)),
    "llava-olmoe": lambda: (
        llava(OlmoeConfig(**LONG, num_experts=8, num_experts_per_tok=3), CLIPVisionConfig(**TOWER), "default"),
        words(chat=True),
    ),
    "molmo2": lambda: (molmo2(), words(chat=True, marks=True)),
}


def save(folder: Path, model: Any, tokenizer: Any) -> Path:
    with quiet():
        model.generation_config.eos_token_id = 1
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        if model.config.model_type == "llava":
            size = {"height": SIDE, "width": SIDE}
            CLIPImageProcessorPil(size=size, crop_size=size, do_resize=False).save_pretrained(folder)
        else:
            (folder / "preprocessor_config.json").write_text(json.dumps({"overlap_margins": [1, 1]}))
    return folder


def opened(folder: Path, **changes: Any) -> Any:
    spec = ModelConfig(source="path", id=str(folder), dtype="float32")
    loaded = load(spec, placement=Placement(), hardware=HardwareConfig(name="local"))
    return open_adapter(loaded, tiny_vlm.task(**changes))


@pytest.fixture(scope="module", params=MODELS)
def adapter(request, tmp_path_factory):
    yield opened(save(tmp_path_factory.mktemp(request.param), *MODELS[request.param]()))
    keep_only()


def stock(adapter: Any, image: Any, tier: str) -> dict[str, torch.Tensor]:
    """What the model's own forward wants for the question `what?`."""
    if adapter.model.config.model_type == "llava":
        return tiny_vlm.stock_inputs(adapter, image, "what?", tier)
    pixels = adapter.pixels(image, tier)
    grid = crops.TIERS[tier][-1]
    marks, pooling = adapter._eyes.layout(grid)
    ids = [*adapter.before.tolist(), *marks.tolist(), *adapter.text("what?").tolist()]
    kind = [0] * len(adapter.before) + [1] * len(marks) + [0] * len(adapter.text("what?"))
    side = 3 + 2 * (grid - 1)
    return {
        "input_ids": torch.tensor([ids]),
        "mm_token_type_ids": torch.tensor([kind]),
        "pixel_values": pixels,
        "image_token_pooling": pooling,
        "image_grids": torch.tensor([[3, 3, side, side]]),
    }


@pytest.mark.parametrize("tier", crops.TIERS)
def test_the_full_configuration_is_the_stock_model(adapter, tier):
    image, top_k = tiny_vlm.picture(3, (40, 60)), 3 if adapter.space.top_ks[0] else 0
    inputs = stock(adapter, image, tier)
    run = adapter.run(image, "what?", tier=tier, top_k=top_k, kept=range(4), max_new_tokens=5)
    with torch.inference_mode():
        told = adapter.model.generate(**inputs, max_new_tokens=5, do_sample=False)[0, inputs["input_ids"].shape[1] :]
        theirs = adapter.model(**inputs).logits[0, -1]
        seen = adapter.see(image, tier).tokens
        embeds = adapter.embed(seen, adapter.text("what?")[None])
        mask = adapter.mask(embeds.shape[1], seen.shape[1])
        stack = adapter.model.model.language_model
        ours = adapter.model.lm_head(stack(inputs_embeds=embeds, attention_mask=mask).last_hidden_state)[0, -1]
    assert torch.allclose(theirs, ours, atol=1e-5) and run.token_ids == tuple(told.tolist())
    assert run.vision_tokens + run.text_tokens + len(adapter.before) == inputs["input_ids"].shape[1]
    assert run.vision_tokens == adapter._eyes.tokens(tier)


def test_cached_answers_equal_uncached_ones(adapter):
    image = tiny_vlm.picture(4)
    for tier, top_k, kept in itertools.product(("low", "high"), adapter.space.top_ks, ((1,), (0, 3), (0, 1, 2))):
        run = adapter.run(image, "what?", tier=tier, top_k=top_k, kept=kept, max_new_tokens=4)
        inputs = stock(adapter, image, tier)
        prompt = inputs["input_ids"].shape[1]
        later = torch.tensor([run.token_ids[:-1]], dtype=torch.long)
        inputs["input_ids"] = torch.cat([inputs["input_ids"], later], dim=1)
        if "mm_token_type_ids" in inputs:
            inputs["mm_token_type_ids"] = torch.cat([inputs["mm_token_type_ids"], later * 0], dim=1)
        with torch.inference_mode(), adapter.knobs(top_k, kept):
            logits = adapter.model(**inputs, use_cache=False).logits[0, prompt - 1 :]
        assert logits.argmax(-1).tolist() == list(run.token_ids)


def test_blocks_one_by_one_are_the_whole(adapter):
    with torch.inference_mode():
        seen = adapter.see(tiny_vlm.picture(1), "medium").tokens
        hidden = embeds = adapter.embed(seen, adapter.text("what?")[None])
        rope = adapter.decoder.rope(embeds, torch.arange(embeds.shape[1])[None])
        mask = adapter.mask(embeds.shape[1], seen.shape[1])
        for number in (1, 2):
            hidden = adapter.decoder.block(number, hidden, rope=rope, mask=mask)
        with adapter.knobs(0, (1, 2)):
            whole = adapter.model.model.language_model(inputs_embeds=embeds, attention_mask=mask).last_hidden_state
        assert torch.allclose(adapter.decoder.logits(hidden), adapter.model.lm_head(whole), atol=1e-5)


def test_images_can_be_encoded_together(adapter):
    pixels = torch.stack([adapter.pixels(tiny_vlm.picture(number), "medium") for number in range(3)])
    with torch.inference_mode():
        together = adapter.project(adapter.encode(pixels))
        alone = torch.cat([adapter.project(adapter.encode(one[None])) for one in pixels])
    assert torch.allclose(together, alone, atol=1e-5) and (together[0] - together[1]).abs().max() > 1e-2


def test_the_prompt_is_what_the_model_was_taught(adapter, request):
    name = request.node.callspec.params["adapter"]
    told = {"llava-llama": "USER: <|image|>\nwhat? ASSISTANT:", "molmo2": "<end>[<|image|>what?]a "}
    ids = words()(told.get(name, "[<|image|>what?]a "))["input_ids"]
    assert [*adapter.before.tolist(), 3, *adapter.text("what?").tolist()] == ids


def test_knobs_of_a_model_without_experts(adapter):
    dense = not hasattr(adapter.model.config.text_config, "num_experts")
    assert adapter.space.top_ks == ((0,) if dense else (2, 3, 6))


@pytest.mark.parametrize("mode", ["RGBA", "L", "P"])
def test_images_of_any_mode_and_size(adapter, mode):
    shapes = {adapter.pixels(tiny_vlm.picture(5, size, mode), "high").shape for size in ((1, 1), (97, 40), (300, 2))}
    assert len(shapes) == 1 and next(iter(shapes))[0] == 10


def test_molmo2_pools_the_patches_that_its_own_processor_pools(tmp_path):
    adapter = opened(save(tmp_path, *MODELS["molmo2"]()))
    marks, pooling = adapter._eyes.layout(2)
    first = len(tiny_vlm.LETTERS)
    patch, column, start, low, end = range(first, first + 5)
    row = [patch] * 3 + [column]
    assert marks.tolist() == [low, *row * 3, end, start, *([patch] * 5 + [column]) * 5, end]
    # what Molmo2ImageProcessor of transformers 5.23 gives for 20x20 pixels and four crops at most
    assert pooling[:2].tolist() == [[0, 1, 6, 7], [2, 3, 8, 9]]
    assert pooling[9:13].tolist() == [[36, 37, 42, 43], [38, 39, 44, 45], [40, 73, 46, 79], [74, 75, 80, 81]]
    assert pooling[20:24].tolist() == [[62, 63, 116, 117], [64, 97, 118, 151], [98, 99, 152, 153], [100, 101, 154, 155]]


def test_models_that_cannot_be_driven(tmp_path):
    mixed = Qwen2Config(**LONG, use_sliding_window=True, sliding_window=8, max_window_layers=2)
    folder = save(tmp_path / "mixed", llava(mixed, CLIPVisionConfig(**TOWER), "default"), words())
    with pytest.raises(UserError, match="mixes kinds of attention"):
        opened(folder)
    folder = save(tmp_path / "bare", *MODELS["llava-llama"]())
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(UserError, match="no image processor"):
        opened(folder)
    folder = save(tmp_path / "short", *MODELS["llava-olmoe"]())
    with pytest.raises(ConfigError, match="takes 40 of the model's 512 positions"):
        opened(folder, max_new_tokens=480)


def test_a_question_with_a_mark_of_an_image_is_refused(tmp_path):
    adapter = opened(save(tmp_path, *MODELS["llava-qwen2"]()))
    with pytest.raises(UserError, match="2 marks of an image"):
        adapter.text("what is <|image|>?")


def test_molmo_1_asks_for_its_own_code_and_is_refused(tmp_path):
    code = {"AutoConfig": "config_molmo.MolmoConfig", "AutoModelForCausalLM": "modeling_molmo.MolmoForCausalLM"}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "molmo", "auto_map": code}))
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match="trust_remote_code"):
        opened(tmp_path)
    allowed = tiny_vlm.embedded()
    allowed.model.config = SimpleNamespace(model_type="molmo")
    with pytest.raises(UserError, match="transformers 4.*choose a Llava"):
        open_adapter(allowed, tiny_vlm.task())
