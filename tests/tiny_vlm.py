"""Random vision-language models of four blocks for tests of the controller, as `suite.models.loading` gives them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tokenizers import Regex, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split
from transformers import LevitConfig, LlavaConfig, LlavaForConditionalGeneration, OlmoeConfig, PreTrainedTokenizerFast

from controller.schema import ControllerConfig
from suite.models.loading import Loaded
from suite.models.spec import ModelConfig
from tests.tiny import randomise

BLOCKS, EXPERTS, WIDTH, HEADS = 4, 8, 32, 2
SPECIAL = ["<|pad|>", "<|end|>", "<|answer|>", "<|image|>"]
LETTERS = [*SPECIAL, *" abcdefghijklmnopqrstuvwxyz?0123456789"]
TEXT: dict[str, Any] = {
    "vocab_size": len(LETTERS), "hidden_size": WIDTH, "intermediate_size": 16, "num_hidden_layers": BLOCKS,
    "num_attention_heads": HEADS, "num_key_value_heads": HEADS, "max_position_embeddings": 128, "pad_token_id": 0,
    "bos_token_id": None, "eos_token_id": 1,
}  # fmt: skip


def task(**changes: Any) -> ControllerConfig:
    """A task whose knobs the models below have."""
    return ControllerConfig(**{"top_ks": [2, 3, 6], "blocks": [2, 3, 4], "max_new_tokens": 5} | changes)


def tokenizer(special: list[str] = SPECIAL, **more: Any) -> PreTrainedTokenizerFast:
    """One token a letter; `special` are the padding, the end, the mark of an answer and that of an image."""
    letters = [*special, *LETTERS[len(special) :]]
    core = Tokenizer(WordLevel({letter: i for i, letter in enumerate(letters)}, unk_token="?"))
    core.pre_tokenizer = Split(Regex(r"[\s\S]"), "isolated")
    return PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token=special[0], eos_token=special[1],
        extra_special_tokens={"answer_token": special[2], "image_token": special[3]}, **more,
    )  # fmt: skip


def embedded(seed: int = 0) -> Loaded:
    """The embedded model's classes: a LeViT tower, Llava, an OLMoE decoder of eight experts."""
    tower = (16, 32)
    vision = LevitConfig(
        image_size=64, num_channels=5, hidden_sizes=tower, depths=(1, 1), num_attention_heads=(1, 2), key_dim=(8, 8),
        mlp_ratio=(2, 2), attention_ratio=(2, 2), down_ops=[["Subsample", 8, 2, 2, 2, 2]], hidden_size=tower[-1],
        output_hidden_states=True,
    )  # fmt: skip
    config = LlavaConfig(
        vision_config=vision,
        text_config=OlmoeConfig(**TEXT, num_experts=EXPERTS, num_experts_per_tok=3, tie_word_embeddings=False),
        image_token_index=3, image_seq_length=4, vision_feature_layer=-1, vision_feature_select_strategy="full",
        tie_word_embeddings=False,
    )  # fmt: skip
    return loaded(randomise(LlavaForConditionalGeneration(config), seed), tokenizer())


def loaded(model: Any, words: Any, folder: Path = Path()) -> Loaded:
    """A model as if `suite.models.loading` had loaded it."""
    model.generation_config.eos_token_id = words.eos_token_id
    model.generation_config.pad_token_id = words.pad_token_id
    return Loaded(
        model=model.eval().requires_grad_(False), tokenizer=words, spec=ModelConfig(source="path", id="random"),
        revision="0", dtype="float32", folder=folder, device="cpu", load_s=0.0, parameters=model.num_parameters(),
    )  # fmt: skip


def picture(number: int, size: tuple[int, int] = (96, 96), mode: str = "RGB") -> Image.Image:
    """Random colours in large patches, so that they survive resizing."""
    colours = np.random.default_rng(number).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(colours).resize(size, Image.Resampling.NEAREST).convert(mode)


def stock_inputs(adapter: Any, image: Image.Image, question: str, tier: str) -> dict[str, torch.Tensor]:
    """What transformers' own Llava wants for this prompt: placeholders and pixels."""
    pixels = adapter.pixels(image, tier)
    tokens = adapter.project(adapter.encode(pixels[None])).shape[1]
    ids = [*adapter.before.tolist(), *[adapter.model.config.image_token_id] * tokens, *adapter.text(question).tolist()]
    return {"input_ids": torch.tensor([ids]), "pixel_values": pixels}
