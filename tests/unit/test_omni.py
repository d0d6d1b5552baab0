"""From a clip to a prompt as the real processor does it, and from a prompt to logits as the real model does it."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import WhisperFeatureExtractor
from transformers.models.qwen2_5_omni.processing_qwen2_5_omni import (
    Qwen2_5OmniProcessor,
    _get_feat_extract_output_lengths,
)

from edgecloud.decode import Ending, generate
from edgecloud.lean import LeanLlama
from edgecloud.lm import CachedLM, Prompt
from edgecloud.omni import AudioProcessor, audio_prompt, embeddings
from edgecloud.sampling import Luck, Sampling
from suite.errors import UserError
from tests.tiny import AUDIO_SHAPE, IDS, VOCAB, fresh_logits, llama, padded, save_thinker, sound, thinker, tokenizer

AUDIO, FRAMES = IDS["audio_token"], 30
HEARD = embeddings(FRAMES)
CLIP = [1, 2, IDS["audio_bos_token"], *[AUDIO] * HEARD, IDS["audio_eos_token"], 5, 6]
ENGINES = ["lean", "transformers"]


def wave(samples: int, seed: int = 0) -> np.ndarray:
    """Noise, loudest at its very end: the frame that scales all others is the last."""
    made = 0.02 * np.random.default_rng(seed).standard_normal(samples)
    made[-40:] *= 20
    return made.astype(np.float32)


def same(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=2e-5, atol=2e-5)


@torch.no_grad()
def native(model: Any, sequence: list[int], audio: dict[str, torch.Tensor], keep: int = 1) -> torch.Tensor:
    """Logits (keep, vocab) of the model's own forward pass over a whole prompt, with no cache at all."""
    ids = torch.tensor([sequence])
    model.model.rope_deltas = None
    logits: torch.Tensor = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False, **audio).logits
    return logits[0, -keep:]


# --- from a clip to a prompt -------------------------------------------------------------------------------------


def real_audio(extractor: WhisperFeatureExtractor, clip: np.ndarray) -> dict[str, Any]:
    """What transformers' own processor makes of a clip; its other parts need torchvision."""
    real = object.__new__(Qwen2_5OmniProcessor)
    real.feature_extractor, real.audio_token = extractor, "<|AUDIO|>"
    made, text = real._process_audio([clip], sampling_rate=16_000, return_attention_mask=True, return_tensors="pt")
    return {**made, "text": text[0]}


@pytest.mark.parametrize("samples", [321, 480, 481, 1000, 5000, 16_000, 16_001, 30_000])
@pytest.mark.parametrize(("mel_bins", "chunk_s"), [(8, 2), (128, 30)])
def test_prompt_is_what_the_real_processor_makes_less_the_padding(samples: int, mel_bins: int, chunk_s: int) -> None:
    extractor = WhisperFeatureExtractor(feature_size=mel_bins, chunk_length=chunk_s)
    real = real_audio(extractor, wave(samples))
    prompt = audio_prompt(AudioProcessor(features=extractor, tokenizer=tokenizer()), wave(samples), "hi")
    frames = int(real["feature_attention_mask"].sum())
    assert prompt.audio is not None
    assert torch.equal(prompt.audio["feature_attention_mask"], real["feature_attention_mask"][:, :frames])
    torch.testing.assert_close(prompt.audio["input_features"], real["input_features"][:, :, :frames], rtol=0, atol=1e-5)
    words = tokenizer()
    turn = f"<|im_start|>user\n<|audio_bos|>{real['text']}<|audio_eos|>hi<|im_end|>\n<|im_start|>assistant\n"
    assert prompt.tokens == words(turn, add_special_tokens=False)["input_ids"]


@given(frames=st.integers(3, 6000))
def test_embeddings_are_counted_as_the_real_processor_counts(frames: int) -> None:
    assert embeddings(frames) == _get_feat_extract_output_lengths(frames)


def test_clips_longer_than_the_chunk_are_heard_whole() -> None:
    extractor = WhisperFeatureExtractor(feature_size=8, chunk_length=2)
    prompt = audio_prompt(AudioProcessor(features=extractor, tokenizer=tokenizer()), wave(60 * 16_000), "hi")
    longer = real_audio(WhisperFeatureExtractor(feature_size=8, chunk_length=61), wave(60 * 16_000))
    assert prompt.audio is not None
    assert prompt.audio["input_features"].shape == (1, 8, 6000)
    assert prompt.tokens.count(AUDIO) == 1500
    torch.testing.assert_close(prompt.audio["input_features"], longer["input_features"][:, :, :6000], rtol=0, atol=1e-5)


def test_clip_too_short_or_a_placeholder_in_the_instruction_is_one_sentence() -> None:
    processor = AudioProcessor(features=WhisperFeatureExtractor(feature_size=8), tokenizer=tokenizer())
    for samples in (0, 320):
        with pytest.raises(UserError, match=r"lasts .* ms; the shortest .* 20\.1 ms"):
            audio_prompt(processor, wave(samples), "hi")
    assert audio_prompt(processor, wave(321), "hi").tokens.count(AUDIO) == 1
    with pytest.raises(UserError, match=r"2 audio placeholders instead of one; take <\|AUDIO\|> out"):
        audio_prompt(processor, wave(1000), "what is <|AUDIO|>?")


def test_processor_reads_either_file_of_a_checkpoint(tmp_path: Path) -> None:
    folder = save_thinker(tmp_path / "tiny", thinker(1), chunk_s=3)
    assert AudioProcessor.load(folder, tokenizer()).features.n_samples == 48_000
    old = folder / "preprocessor_config.json"
    settings_ = json.loads(old.read_text())
    old.unlink()
    # as transformers 5 saves a whole processor
    nested = {"feature_extractor": settings_, "image_processor": {}, "processor_class": "Qwen2_5OmniProcessor"}
    (folder / "processor_config.json").write_text(json.dumps(nested))
    assert AudioProcessor.load(folder, tokenizer()).features.to_dict() == WhisperFeatureExtractor(**settings_).to_dict()


def test_processor_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    folder = save_thinker(tmp_path / "tiny", thinker(1))
    deaf = tokenizer()
    deaf.chat_template = None
    with pytest.raises(UserError, match="no audio_token or no chat template"):
        AudioProcessor.load(folder, deaf)
    config = folder / "preprocessor_config.json"
    config.write_text(config.read_text().replace('"sampling_rate": 16000', '"sampling_rate": 44100'))
    with pytest.raises(UserError, match="hears 44100 Hz"):
        AudioProcessor.load(folder, tokenizer())
    config.unlink()
    with pytest.raises(UserError, match=r"no preprocessor_config\.json"):
        AudioProcessor.load(folder, tokenizer())


# --- from a prompt to logits -------------------------------------------------------------------------------------


@cache
def wrapped(engine: str) -> tuple[Any, CachedLM]:
    model = thinker(1)
    return model, CachedLM(model, engine=engine)


words = st.integers(0, VOCAB - 1).filter(lambda token: token != AUDIO)
steps = st.lists(
    st.tuples(st.integers(0, len(CLIP) + 3), st.lists(words, min_size=1, max_size=5), st.integers(1, 6)), max_size=5
)


@pytest.mark.parametrize("engine", ENGINES)
@given(seed=st.integers(0, 3), walk=steps)
@settings(max_examples=30, deadline=None)
def test_any_walk_over_a_clip_gives_the_logits_of_a_fresh_forward(
    engine: str, seed: int, walk: list[tuple[int, list[int], int]]
) -> None:
    """Roll-backs end before the clip, inside it and after it."""
    model, lm = wrapped(engine)
    audio = sound(seed, FRAMES)
    lm.reset(audio)
    sequence, keep = CLIP, len(CLIP)
    same(lm.logits(list(sequence), keep), native(model, sequence, audio, keep))
    for drop, more, keep in walk:
        sequence = sequence[: max(1, len(sequence) - drop)] + more
        keep = min(keep, len(sequence))
        same(lm.logits(list(sequence), keep), native(model, sequence, audio, keep))


@pytest.mark.parametrize("engine", ENGINES)
def test_a_placeholder_that_the_model_writes_is_a_word(engine: str) -> None:
    model, audio = thinker(1), sound(0, FRAMES)
    ids, mask = torch.tensor([CLIP]), torch.ones(1, len(CLIP), dtype=torch.long)
    with torch.no_grad():
        cache_ = model(input_ids=ids, attention_mask=mask, use_cache=True, **audio).past_key_values
        expected = model(input_ids=torch.tensor([[AUDIO, 4]]), past_key_values=cache_).logits[0]
    for calls in ([CLIP, [*CLIP, AUDIO, 4]], [[*CLIP, AUDIO, 4]]):  # after the prompt, and in one block with it
        lm = CachedLM(model, engine=engine)
        lm.reset(audio)
        same([lm.logits(sequence, keep=2) for sequence in calls][-1], expected)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_clip_is_heard_once_and_not_before_the_first_question(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the time to the first token contains it."""
    model = thinker(1)
    heard: list[int] = []
    listen = model.get_audio_features

    def spy(**audio: torch.Tensor) -> Any:
        heard.append(audio["input_features"].shape[2])
        return listen(**audio)

    monkeypatch.setattr(model, "get_audio_features", spy)
    lm = CachedLM(model, engine=engine)
    lm.reset(sound(0, FRAMES))
    assert heard == []
    lm.logits(CLIP)
    lm.logits([*CLIP[:6], 3])  # back into the clip
    lm.logits(CLIP)
    assert heard == [FRAMES]
    lm.reset(sound(0, 2 * FRAMES))
    lm.logits([*CLIP, *[AUDIO] * 40])
    assert heard == [FRAMES, 2 * FRAMES]


@pytest.mark.parametrize("engine", ENGINES)
def test_text_alone_is_answered_as_by_the_model_itself(engine: str) -> None:
    model, lm = wrapped(engine)
    model.model.rope_deltas = None
    lm.reset(sound(0, FRAMES))
    lm.logits(CLIP)
    lm.reset()  # the clip is forgotten
    for text in ([4, 9, 2], [4, 9, 2, AUDIO, 7]):
        same(lm.logits(text, keep=3), fresh_logits(model, text, keep=3))


@pytest.mark.parametrize("engine", ENGINES)
def test_two_may_share_a_module_and_what_it_remembers(engine: str) -> None:
    model = thinker(1)
    clips = [sound(0, FRAMES), sound(1, FRAMES)]
    expected = [native(model, [*CLIP, 7, 8, 9], clip, keep=3) for clip in clips]
    two = [CachedLM(model, engine=engine), CachedLM(model, engine=engine)]
    for lm, clip in zip(two, clips, strict=True):
        lm.reset(clip)
    for end in range(len(CLIP), len(CLIP) + 3):  # in turns
        model.model.rope_deltas = torch.tensor([[5 * end]])  # as after somebody's question about a picture
        for lm in two:
            lm.logits([*CLIP, 7, 8, 9][:end])
    for lm, logits in zip(two, expected, strict=True):
        same(lm.logits([*CLIP, 7, 8, 9], keep=3), logits)


def test_positions_of_text_and_audio_are_equal_in_all_three_rows() -> None:
    """What both engines rest on: the multimodal rotary embedding is then the plain one."""
    ids = torch.tensor([CLIP])
    positions, deltas = thinker(1).get_rope_index(ids, attention_mask=torch.ones_like(ids), audio_seqlens=[FRAMES])
    assert torch.equal(positions, torch.arange(len(CLIP)).expand(3, 1, -1))
    assert int(deltas) == 0


def test_a_thinker_that_lean_does_not_know_falls_back_to_its_own_forward_pass() -> None:
    assert isinstance(CachedLM(thinker(1)).engine, LeanLlama)
    model = thinker(1, hidden_act="gelu")
    lm = CachedLM(model)
    assert lm.engine_name == "transformers"
    lm.reset(sound(0, FRAMES))
    same(lm.logits(CLIP, keep=4), native(model, CLIP, sound(0, FRAMES), keep=4))


@pytest.mark.parametrize("engine", ENGINES)
def test_padded_vocabulary_and_window_are_those_of_the_text_part(engine: str) -> None:
    model = padded(thinker(1, max_position_embeddings=len(CLIP)), VOCAB + 8)
    lm = CachedLM(model, vocab=VOCAB, engine=engine)
    assert (lm.vocab, CachedLM(model).vocab, lm.window) == (VOCAB, VOCAB + 8, len(CLIP))
    lm.reset(sound(0, FRAMES))
    same(lm.logits(CLIP), native(model, CLIP, sound(0, FRAMES))[:, :VOCAB])
    with pytest.raises(UserError, match=f"{len(CLIP) + 1} tokens.*window {len(CLIP)}"):
        lm.logits([*CLIP, 1])


@pytest.mark.parametrize("engine", ENGINES)
def test_bfloat16_hears_float32_features(engine: str) -> None:
    lm = CachedLM(thinker(1).bfloat16(), engine=engine)
    lm.reset(sound(0, FRAMES))
    logits = lm.logits(CLIP, keep=2)
    assert (logits.dtype, logits.shape) == (torch.float32, (2, VOCAB))
    exact = wrapped(engine)[1]
    exact.reset(sound(0, FRAMES))
    assert float((logits - exact.logits(CLIP, keep=2)).abs().mean()) < 0.5  # of a spread of 6


def ask(model: Any, audio: dict[str, torch.Tensor], tokens: list[int]) -> None:
    prompt = Prompt(tokens=tokens, audio=audio)
    generate(CachedLM(model), prompt, Ending(max_new_tokens=1), Sampling(), Luck(0, "s"), "cloud")


def test_a_model_that_cannot_hear_the_clip_says_so_in_one_sentence() -> None:
    with pytest.raises(UserError, match=r"hears no audio; choose a Qwen2\.5-Omni model, or a data set of texts"):
        ask(llama(1), sound(0, FRAMES), CLIP)
    other = {**sound(0, FRAMES), "input_features": torch.zeros(1, 128, FRAMES)}
    with pytest.raises(UserError, match=f"hears {AUDIO_SHAPE['num_mel_bins']} mel bins and the prompt has 128"):
        ask(thinker(1), other, CLIP)
    with pytest.raises(UserError, match=f"{HEARD - 1} audio placeholders for {HEARD} embeddings"):
        ask(thinker(1), sound(0, FRAMES), [*CLIP[:3], *CLIP[4:]])
