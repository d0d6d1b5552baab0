"""Models of a few thousand weights, and a scripted one, for tests that must run real code in milliseconds."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split
from torch import Tensor
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2_5OmniThinkerConfig,
    Qwen2_5OmniThinkerForConditionalGeneration,
    Qwen2Config,
    Qwen2ForCausalLM,
    WhisperFeatureExtractor,
)

from edgecloud.lean import Sound
from edgecloud.lm import CachedLM
from suite.models.quiet import quiet
from suite.models.short_head import ShortHeadConfig, ShortHeadLlama

VOCAB = 40
SHAPE: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
    "pad_token_id": None,
    "bos_token_id": None,
    "eos_token_id": None,
}


def randomise(model: Any, seed: int, sharpness: float = 6.0) -> Any:
    """Weights that matter: every bias and norm away from its neutral start, logits spread by about `sharpness`."""
    luck = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            noise = torch.randn(weight.shape, generator=luck)
            if weight.dim() == 1:
                weight.copy_(0.3 * noise + (0.0 if "bias" in name else 1.0))
            else:
                weight.copy_(noise * (1.0 if "embed" in name or "wte" in name else weight.shape[-1] ** -0.5))
        head = model.get_output_embeddings().weight
        head.mul_(sharpness / (head.shape[-1] ** 0.5 * float(head.std())))
    return model.eval()


def llama(seed: int, **changes: Any) -> LlamaForCausalLM:
    """A random Llama: 2 layers, 4 heads in 2 groups, 40 words."""
    return randomise(LlamaForCausalLM(LlamaConfig(**SHAPE | changes)), seed)


def qwen2(seed: int, **changes: Any) -> Qwen2ForCausalLM:
    """A random Qwen2: a Llama with biases on q, k and v."""
    return randomise(Qwen2ForCausalLM(Qwen2Config(**SHAPE | changes)), seed)


def mistral(seed: int, sliding_window: int) -> MistralForCausalLM:
    """A random Mistral whose attention looks back `sliding_window` tokens."""
    return randomise(MistralForCausalLM(MistralConfig(**SHAPE, sliding_window=sliding_window)), seed)


def gpt2(seed: int, vocab_size: int = VOCAB) -> GPT2LMHeadModel:
    """A random GPT-2: not a Llama at all."""
    return randomise(
        GPT2LMHeadModel(
            GPT2Config(
                vocab_size=vocab_size,
                n_embd=16,
                n_layer=2,
                n_head=2,
                n_positions=256,
                bos_token_id=None,
                eos_token_id=None,
                tie_word_embeddings=False,
            )
        ),
        seed,
    )


AUDIO_SHAPE: dict[str, Any] = {
    "num_mel_bins": 8,
    "d_model": 12,
    "encoder_layers": 2,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 16,
    "n_window": 4,  # attention within blocks of 8 frames
    "max_source_positions": 4,
    "output_dim": 24,
}
SPECIAL = {
    "eos_token": "<|im_end|>",
    "im_start": "<|im_start|>",
    "audio_token": "<|AUDIO|>",
    "audio_bos_token": "<|audio_bos|>",
    "audio_eos_token": "<|audio_eos|>",
    "image_token": "<|IMAGE|>",
    "video_token": "<|VIDEO|>",
    "vision_bos_token": "<|vision_bos|>",
    "vision_eos_token": "<|vision_eos|>",
}
IDS = {name: VOCAB - len(SPECIAL) + i for i, name in enumerate(SPECIAL)}


def thinker(seed: int, **changes: Any) -> Qwen2_5OmniThinkerForConditionalGeneration:
    """A random Qwen2.5-Omni thinker: a Qwen2 that reads, an ear of two layers, no eyes."""
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 1]}
    config = Qwen2_5OmniThinkerConfig(
        audio_config=AUDIO_SHAPE,
        vision_config={"depth": 0, "hidden_size": 8, "num_heads": 2, "out_hidden_size": 24},
        text_config=SHAPE | {"hidden_size": 24, "rope_parameters": rope} | changes,
        audio_token_index=IDS["audio_token"],
        image_token_index=IDS["image_token"],
        video_token_index=IDS["video_token"],
        audio_start_token_id=IDS["audio_bos_token"],
        audio_end_token_id=IDS["audio_eos_token"],
        vision_start_token_id=IDS["vision_bos_token"],
    )
    return randomise(Qwen2_5OmniThinkerForConditionalGeneration(config), seed)


# as the real one writes it, without its system prompt and pictures
CHAT = """\
{% for m in messages %}<|im_start|>{{ m['role'] }}
{% if m['content'] is string %}{{ m['content'] }}{% else %}{% for part in m['content'] %}\
{% if part['type'] == 'audio' %}<|audio_bos|><|AUDIO|><|audio_eos|>{% else %}{{ part['text'] }}{% endif %}\
{% endfor %}{% endif %}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""


def tokenizer() -> PreTrainedTokenizerFast:
    """One token for each letter, and the special tokens of a thinker: `VOCAB` in all."""
    letters = "\n abcdefghijklmnopqrstuvwxyz.?!"[: VOCAB - len(SPECIAL)]
    core = Tokenizer(WordLevel({letter: i for i, letter in enumerate(letters)}, unk_token="?"))
    core.pre_tokenizer = Split(Regex(r"[\s\S]"), "isolated")
    made = PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token=SPECIAL["eos_token"],
        extra_special_tokens={name: token for name, token in SPECIAL.items() if name != "eos_token"},
        chat_template=CHAT,
    )
    assert {name: made.convert_tokens_to_ids(token) for name, token in SPECIAL.items()} == IDS
    return made


def save_thinker(folder: Path, model: Any, chunk_s: int = 2) -> Path:
    """A checkpoint as a hub would hold it: weights, tokenizer, and a feature extractor that pads to `chunk_s`."""
    extractor = WhisperFeatureExtractor(feature_size=AUDIO_SHAPE["num_mel_bins"], chunk_length=chunk_s)
    with quiet():
        for part in (model, tokenizer(), extractor):
            part.save_pretrained(folder)
    return folder


def padded(model: Any, vocab: int) -> Any:
    """A copy whose embedding and head have `vocab` rows, some of them of no token."""
    twin = copy.deepcopy(model)
    with quiet():
        twin.resize_token_embeddings(vocab, mean_resizing=False)
    return twin


def sound(seed: int, frames: int) -> dict[str, Tensor]:
    """Random features of a clip: `input_features` (1, 8, frames) and their mask."""
    luck = torch.Generator().manual_seed(seed)
    return {
        "input_features": torch.randn(1, AUDIO_SHAPE["num_mel_bins"], frames, generator=luck),
        "feature_attention_mask": torch.ones(1, frames, dtype=torch.long),
    }


def short_head(seed: int, head_ids: Sequence[int], **changes: Any) -> ShortHeadLlama:
    """A random draft whose head knows only `head_ids` (ascending) and whose embedding is a donor's, projected."""
    shape = SHAPE | {"num_head_tokens": len(head_ids), "donor_width": 12} | changes
    model = randomise(ShortHeadLlama(ShortHeadConfig(**shape)), seed)
    model.lm_head.head_ids.copy_(torch.tensor(head_ids))
    model.adopt(torch.randn(shape["vocab_size"], 12, generator=torch.Generator().manual_seed(seed)))
    return model


def related(model: Any, seed: int, noise: float = 0.25) -> Any:
    """A copy that mostly agrees: every weight off by `noise` of its tensor's spread."""
    twin, luck = copy.deepcopy(model), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in twin.parameters():
            weight.add_(torch.randn(weight.shape, generator=luck) * noise * weight.std())
    return twin


@torch.no_grad()
def fresh_logits(model: Any, sequence: list[int], keep: int = 1) -> Tensor:
    """Logits (keep, vocab) of `transformers` itself, with no cache at all."""
    logits: Tensor = model(input_ids=torch.tensor([sequence]), use_cache=False).logits[0, -keep:]
    return logits


Rule = Callable[[tuple[int, ...]], Tensor]


class FakeEngine:
    """Positions are a list; the logits after a sequence are whatever `rule` says."""

    def __init__(self, rule: Rule) -> None:
        self.rule, self.sequence = rule, list[int]()

    def feed(self, tokens: list[int], keep: int, sound: Sound | None = None) -> Tensor:
        rows = []
        for token in tokens:
            self.sequence.append(token)
            rows.append(self.rule(tuple(self.sequence)))
        return torch.stack(rows[-keep:])

    def rollback(self, length: int) -> None:
        assert length <= len(self.sequence)
        del self.sequence[length:]


class FakeLM(CachedLM):
    """The real bookkeeping over a scripted engine."""

    def __init__(self, rule: Rule, vocab: int = VOCAB) -> None:
        self.engine, self.window, self.columns, self.ears = FakeEngine(rule), 1 << 30, None, None
        self.vocab = self.width = vocab
        self.reset()


def script(prompt: list[int], text: list[int], *, unsure: Sequence[int] = (), vocab: int = VOCAB) -> Rule:
    """After `prompt` and i more tokens, whichever they are, `text[i]` is most likely (the last one from its end on).

    Entropy is about 0 nats, and above 1 at the indices `unsure`.
    """

    def rule(sequence: tuple[int, ...]) -> Tensor:
        i = len(sequence) - len(prompt)
        logits = torch.zeros(vocab)
        if i >= 0:
            logits[text[min(i, len(text) - 1)]] = 1.0 if i in unsure else 50.0
        return logits

    return rule
