"""The clips: who says what in which mood, drawn by number; synthesised in child processes, kept as log-mel features.

Held out are sentences, voices and settings (rooms, noise, pitch and pace are drawn anew): no clip of the test or the
validation set shares a sentence or a voice with training. A clip depends only on (split, number).
"""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from suite.hardware.machine import allowed_cores
from suite.rng import generator
from zoo.omni_tiny import speech
from zoo.omni_tiny.captions import Scene, scene
from zoo.omni_tiny.speech import ACCENTS, EMOTIONS, HELD_OUT_VOICES, RATE_HZ, VOICES, Utterance, say

_SAID: dict[str, Any] = yaml.safe_load((Path(__file__).parent / "sentences.yaml").read_text("utf-8"))
TOPICS: list[dict[str, Any]] = _SAID["topics"]
FRAMES: dict[str, list[str]] = _SAID["frames"]
SEED = 20261121
SHARD = 1000
MOST_SECONDS = 6.0


def draw(split: str, number: int) -> tuple[Utterance, int]:
    """The utterance of a clip and the index of its topic; `split` is `train`, `validation` or `test`."""
    rng = generator(SEED, split, number)
    held_out = split != "train"
    language = ("chinese", "english")[int(rng.random() < 0.4)]
    gender = ("woman", "man")[int(rng.integers(2))]
    emotion = list(EMOTIONS)[number % len(EMOTIONS)]
    topic = int(rng.integers(len(TOPICS)))
    *known, unseen = TOPICS[topic][language]
    if not held_out and rng.random() < 0.5:
        short = {"chinese": "zh", "english": "en"}[language]
        known = [frame.format(TOPICS[topic][short]) for frame in FRAMES[language]]
    voices = (HELD_OUT_VOICES if held_out else VOICES)[gender]
    utterance = Utterance(
        text=unseen if held_out else known[int(rng.integers(len(known)))],
        language=language,
        gender=gender,
        voice=speech.DRAWN if not held_out and rng.random() < 0.8 else voices[int(rng.integers(len(voices)))],
        accent=ACCENTS[language][int(rng.integers(len(ACCENTS[language])))],
        emotion=emotion,
        intensity=0 if emotion == "neutral" else int(rng.integers(1, 4)),
    )
    return utterance, topic


def clip(split: str, number: int) -> tuple[np.ndarray, Utterance, Scene]:
    """The sound, float32 (samples,) at 16 kHz, the utterance, and what a caption can tell of it."""
    utterance, topic = draw(split, number)
    wave, heard = say(utterance, generator(SEED, split, number, "sound"))
    words = {"chinese": TOPICS[topic]["zh"], "english": TOPICS[topic]["en"]}
    told = scene(utterance.gender, utterance.emotion, utterance.intensity, heard, words)
    return wave[: int(MOST_SECONDS * RATE_HZ)], utterance, told


def write(folder: Path, split: str, clips: int, ears: Path) -> None:
    """Write the shards that are missing, on all cores: `<split>-<i>.npz` of log-mel features and labels.

    Args:
        folder: where the shards go.
        split: see `draw`.
        clips: how many.
        ears: folder with tokenizer and feature extractor, so that training hears what `edgecloud.omni` will.
    """
    folder.mkdir(parents=True, exist_ok=True)
    speech.install_drawn_voices(folder)
    starts = [i for i in range(0, clips, SHARD) if not _shard(folder, split, i).exists()]
    with ProcessPoolExecutor(allowed_cores(), mp_context=get_context("spawn")) as pool:
        for done in [pool.submit(_write_shard, folder, split, i, min(SHARD, clips - i), ears) for i in starts]:
            done.result()


def _shard(folder: Path, split: str, start: int) -> Path:
    return folder / f"{split}-{start:06d}.npz"


def _write_shard(folder: Path, split: str, start: int, count: int, ears: Path) -> None:
    import torch
    from transformers import AutoTokenizer

    from edgecloud.omni import AudioProcessor, audio_prompt

    torch.set_num_threads(1)
    processor = AudioProcessor.load(ears, AutoTokenizer.from_pretrained(ears))
    mels, labels = [], []
    for number in range(start, start + count):
        wave, utterance, told = clip(split, number)
        audio = audio_prompt(processor, wave, "").audio
        mels.append(audio["input_features"][0].numpy().astype(np.float16))
        labels.append(
            (
                list(EMOTIONS).index(told.emotion),
                told.intensity,
                told.pace + 1,
                told.loudness + 1,
                told.pitch + 1,
                int(told.gender == "man"),
                [topic["zh"] for topic in TOPICS].index(told.topic["chinese"]),
                int(utterance.language == "english"),
            )
        )
    lengths = np.array([mel.shape[1] for mel in mels])
    path = _shard(folder, split, start)
    partial = path.with_suffix(".partial.npz")
    np.savez(partial, mel=np.concatenate(mels, axis=1), lengths=lengths, labels=np.array(labels, dtype=np.int64))
    partial.replace(path)


LABELS = {"emotion": 8, "intensity": 4, "pace": 3, "loudness": 3, "pitch": 3, "gender": 2, "topic": 16, "language": 2}


def read(folder: Path, split: str, clips: int) -> tuple[list[np.ndarray], np.ndarray]:
    """Features, one (mel bins, frames) float16 array a clip, and labels (clips, len(LABELS))."""
    mels, labels = [], []
    for start in range(0, clips, SHARD):
        with np.load(_shard(folder, split, start)) as shard:
            mels += np.split(shard["mel"], np.cumsum(shard["lengths"])[:-1], axis=1)
            labels.append(shard["labels"])
    return mels, np.concatenate(labels)


def told(labels: np.ndarray) -> Scene:
    """The scene that a row of labels stands for."""
    emotion, intensity, pace, loudness, pitch, man, topic, _ = (int(x) for x in labels)
    return Scene(
        gender="man" if man else "woman",
        emotion=list(EMOTIONS)[emotion],
        intensity=intensity,
        pace=pace - 1,
        loudness=loudness - 1,
        pitch=pitch - 1,
        topic={"chinese": TOPICS[topic]["zh"], "english": TOPICS[topic]["en"]},
    )
