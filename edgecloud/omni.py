"""From a clip and an instruction to a prompt for a Qwen2.5-Omni thinker, which hears and writes.

The arithmetic is that of `transformers.Qwen2_5OmniProcessor` for one clip, which cannot be used itself: it wants image
and video processors, hence torchvision, and pads every clip with silence to 300 s. What this does not know: reading and
resampling of files (edgecloud/audio.py), images, several clips in one prompt, and the system prompt that Omni wants
only where it is to speak.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from transformers import WhisperFeatureExtractor

from edgecloud.lm import Prompt
from suite.errors import UserError

SAMPLE_RATE_HZ = 16_000
MIN_FRAMES = 3  # fewer give no embedding at all


@dataclass(frozen=True, slots=True, kw_only=True)
class AudioProcessor:
    """What goes in front of a thinker."""

    features: WhisperFeatureExtractor
    tokenizer: Any

    @classmethod
    def load(cls, folder: Path, tokenizer: Any) -> AudioProcessor:
        """The feature extractor of a model folder, with the tokenizer that was loaded from it.

        Raises:
            UserError: the folder describes no feature extractor, one for another sampling rate, or a tokenizer
                without audio token or chat template.
        """
        try:
            # reads preprocessor_config.json, or its section of processor_config.json
            features = WhisperFeatureExtractor.from_pretrained(folder, local_files_only=True)
        except OSError as error:
            raise UserError(
                f"{folder} has no preprocessor_config.json, so nothing says how its model hears."
            ) from error
        if features.sampling_rate != SAMPLE_RATE_HZ:
            raise UserError(
                f"The model in {folder} hears {features.sampling_rate} Hz; choose one of {SAMPLE_RATE_HZ} Hz."
            )
        if getattr(tokenizer, "audio_token", None) is None or not tokenizer.chat_template:
            raise UserError(f"The tokenizer in {folder} has no audio_token or no chat template; choose another model.")
        return cls(features=features, tokenizer=tokenizer)


def embeddings(frames: int) -> int:
    """How many embeddings the audio tower makes of `frames` mel frames: a convolution and a pooling, each halving."""
    return ((frames - 1) // 2 + 1 - 2) // 2 + 1


def audio_prompt(processor: AudioProcessor, wave: np.ndarray, instruction: str) -> Prompt:
    """The prompt of one user turn: the clip, then the instruction.

    Args:
        processor: of the model that is asked.
        wave: float32 mono (samples,) at 16 kHz.
        instruction: what to do with the clip.

    Raises:
        UserError: the clip is too short to be heard, or the instruction contains an audio placeholder.
    """
    extract = processor.features
    frames = -(-len(wave) // extract.hop_length)
    if frames < MIN_FRAMES:
        shortest_ms = 1000 * ((MIN_FRAMES - 1) * extract.hop_length + 1) / SAMPLE_RATE_HZ
        raise UserError(
            f"The clip lasts {1000 * len(wave) / SAMPLE_RATE_HZ:.1f} ms; the shortest that can be heard is "
            f"{shortest_ms:.1f} ms."
        )
    # Enough silence that no window over the clip reaches its far end, where it would see the clip mirrored: then the
    # frames of the clip, and the loudest one by which all are scaled, are what any longer padding gives.
    padded = (frames + -(-extract.n_fft // extract.hop_length) + 1) * extract.hop_length
    found = extract(
        wave, sampling_rate=SAMPLE_RATE_HZ, max_length=padded, return_attention_mask=True, return_tensors="pt"
    )
    tokens = _turn(processor.tokenizer, instruction, embeddings(frames))
    return Prompt(
        tokens=tokens,
        audio={
            "input_features": found["input_features"][:, :, :frames],
            "feature_attention_mask": found["attention_mask"][:, :frames],
        },
    )


def _turn(tokenizer: Any, instruction: str, sounds: int) -> list[int]:
    """Token ids of the chat turn, its one audio placeholder repeated `sounds` times."""
    turn = [{"role": "user", "content": [{"type": "audio"}, {"type": "text", "text": instruction}]}]
    ids = list(tokenizer.apply_chat_template(turn, add_generation_prompt=True, return_dict=True)["input_ids"])
    if ids.count(tokenizer.audio_token_id) != 1:
        raise UserError(
            f"The chat turn of one clip has {ids.count(tokenizer.audio_token_id)} audio placeholders instead of one; "
            f"take {tokenizer.audio_token} out of the instruction, or use the model's own chat template."
        )
    at = ids.index(tokenizer.audio_token_id)
    return ids[:at] + [tokenizer.audio_token_id] * sounds + ids[at + 1 :]
