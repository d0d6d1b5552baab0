"""The two thinkers: the classes of Qwen2.5-Omni at a tiny scale, their tokenizer and their ears.

Frames of 50 ms every 20 ms instead of 25 every 10: half the work for the tower, and harmonics that a low voice needs
apart. What each pitfall is: `depth=0` keeps a vision tower without weights (None would bring the 7B's), and
`mrope_section` sums to half the head's width.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np

from edgecloud.instructions import CAPTION_TYPES, LANGUAGES, PROMPT_TYPES, instruction
from suite.rng import generator
from zoo.omni_tiny.captions import caption

MEL_BINS, HOP, WINDOW = 128, 320, 800
VOCABULARY = 1024
ASKED = list(itertools.product(CAPTION_TYPES, LANGUAGES, PROMPT_TYPES))  # every instruction there is
SPECIAL = {
    "audio_token": "<|AUDIO|>",
    "audio_bos_token": "<|audio_bos|>",
    "audio_eos_token": "<|audio_eos|>",
    "image_token": "<|IMAGE|>",
    "video_token": "<|VIDEO|>",
    "vision_bos_token": "<|vision_bos|>",
    "vision_eos_token": "<|vision_eos|>",
}
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'audio' %}<|audio_bos|><|AUDIO|><|audio_eos|>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SIZES: dict[str, dict[str, Any]] = {
    "edge": {"width": 128, "layers": 4, "heads": 4, "groups": 2, "mlp": 768, "tower": 64, "tower_layers": 2},
    "cloud": {"width": 256, "layers": 4, "heads": 4, "groups": 2, "mlp": 768, "tower": 256, "tower_layers": 6},
}


def feature_extractor() -> Any:
    """Log-mel features as Whisper defines them; 12.5 audio tokens a second reach the decoder."""
    from transformers import WhisperFeatureExtractor

    return WhisperFeatureExtractor(
        feature_size=MEL_BINS, sampling_rate=16_000, hop_length=HOP, n_fft=WINDOW, chunk_length=4,
        return_attention_mask=True,
    )  # fmt: skip


def tokenizer() -> Any:
    """Byte-level BPE over captions and instructions; Chinese characters stay apart, or whole clauses would merge."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    from zoo.omni_tiny import corpus

    texts = [instruction(*key) for key in ASKED]
    for number in range(4000):
        rng = generator(corpus.SEED, "words", number)
        labels = [int(rng.integers(n)) for n in corpus.LABELS.values()]
        labels[1] = 0 if labels[0] == 0 else max(labels[1], 1)
        told = corpus.told(np.array(labels))
        texts += [caption(told, *key, rng) for key in ASKED]
    bpe = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(r"[\u4e00-\u9fff]| ?[A-Za-z]+|[^\w\s]|\s"), behavior="isolated")
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    bpe.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *SPECIAL.values()]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=special, initial_alphabet=alphabet)
    )
    from transformers import PreTrainedTokenizerFast

    fast = PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token="<|im_end|>", pad_token="<|endoftext|>", extra_special_tokens=SPECIAL,
        clean_up_tokenization_spaces=False, model_max_length=2048,
    )  # fmt: skip
    fast.chat_template = CHAT_TEMPLATE
    return fast


def config(size: str, tok: Any) -> Any:
    """Configuration of the `edge` or the `cloud`."""
    from transformers import Qwen2_5OmniThinkerConfig

    s = SIZES[size]
    half = s["width"] // s["heads"] // 2
    third = half // 3
    token = tok.convert_tokens_to_ids
    return Qwen2_5OmniThinkerConfig(
        audio_config={
            "num_mel_bins": MEL_BINS, "d_model": s["tower"], "encoder_layers": s["tower_layers"],
            "encoder_attention_heads": 4, "encoder_ffn_dim": 3 * s["tower"], "output_dim": s["width"],
            "n_window": 100, "max_source_positions": 100,
        },
        vision_config={
            "depth": 0, "hidden_size": 16, "num_heads": 1, "intermediate_size": 16, "out_hidden_size": s["width"],
            "fullatt_block_indexes": [],
        },
        text_config={
            "vocab_size": len(tok), "hidden_size": s["width"], "intermediate_size": s["mlp"],
            "num_hidden_layers": s["layers"], "num_attention_heads": s["heads"], "num_key_value_heads": s["groups"],
            "max_position_embeddings": 2048, "tie_word_embeddings": True,
            "rope_parameters": {
                "rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [half - 2 * third, third, third],
            },
            "bos_token_id": None, "eos_token_id": tok.eos_token_id, "pad_token_id": tok.pad_token_id,
        },
        audio_token_index=token("<|AUDIO|>"), image_token_index=token("<|IMAGE|>"),
        video_token_index=token("<|VIDEO|>"),
        audio_start_token_id=token("<|audio_bos|>"), audio_end_token_id=token("<|audio_eos|>"),
        vision_start_token_id=token("<|vision_bos|>"), vision_end_token_id=token("<|vision_eos|>"),
        user_token_id=tok("user")["input_ids"][0], tie_word_embeddings=True, pad_token_id=tok.pad_token_id,
    )  # fmt: skip


def new(size: str, tok: Any) -> Any:
    """An untrained thinker, its first features as loud as the positions added to them (20 times softer by default)."""
    import torch
    from transformers import Qwen2_5OmniThinkerForConditionalGeneration

    thinker = Qwen2_5OmniThinkerForConditionalGeneration(config(size, tok))
    for layer in (thinker.model.audio_tower.conv1, thinker.model.audio_tower.conv2):
        torch.nn.init.kaiming_normal_(layer.weight)
    thinker.set_attn_implementation("eager")  # fused attention is several times slower backwards on a CPU
    return thinker


def save_processor(tok: Any, folder: Path) -> None:
    """Tokenizer, chat template and feature extractor, where `AutoTokenizer` and the processor look for them."""
    tok.save_pretrained(folder)
    feature_extractor().save_pretrained(folder)
