"""Captions of a clip from a small varied grammar, in Chinese and English.

A caption says who speaks, how it sounds, and what the feeling is; `original` ones also say what it is about. Of the
words that mean the same, the first is the usual one, so that a good model has a best guess and still many choices.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from zoo.omni_tiny.speech import EMOTIONS, Heard


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """What a caption can tell.

    Attributes:
        gender: `woman` or `man`.
        emotion: key of emotions.yaml.
        intensity: 0 (neutral) to 3.
        pace: -1 slow, 0 moderate, 1 fast.
        loudness: -1 soft, 0 moderate, 1 loud.
        pitch: -1 low, 0 middle, 1 high.
        topic: what is spoken about, by language.
    """

    gender: str
    emotion: str
    intensity: int
    pace: int
    loudness: int
    pitch: int
    topic: dict[str, str]


def scene(gender: str, emotion: str, intensity: int, heard: Heard, topic: dict[str, str]) -> Scene:
    """The scene of an utterance; the borders lie between what listeners call slow, moderate and fast."""
    return Scene(
        gender=gender,
        emotion=emotion,
        intensity=intensity,
        pace=_level(heard.rate, 0.88, 1.13),
        loudness=_level(heard.loudness_db, -2.5, 2.5),
        pitch=_level(heard.pitch, -6.0, 9.0),
        topic=topic,
    )


def _level(value: float, low: float, high: float) -> int:
    return int(value > high) - int(value < low)


WORDS: dict[str, dict[str, Any]] = yaml.safe_load((Path(__file__).parent / "words.yaml").read_text("utf-8"))


def caption(scene: Scene, caption_type: str, language: str, prompt_type: str, rng: np.random.Generator) -> str:
    """One caption; the arguments after `scene` are those of `edgecloud.instructions.instruction`."""
    write = _chinese if language == "chinese" else _english
    return write(scene, caption_type == "original", prompt_type, rng)


def _pick(options: Sequence[str], rng: np.random.Generator) -> str:
    """The first option most often, each next one 0.4 times as often as the one before."""
    weights = 0.4 ** np.arange(len(options))
    return options[int(rng.choice(len(options), p=weights / weights.sum()))]


def _words(scene: Scene, language: str, rng: np.random.Generator) -> tuple[str, str, str, list[str]]:
    """Who, degree, emotion, and the three qualities of the voice, the telling ones first."""
    words, short = WORDS[language], {"chinese": "zh", "english": "en"}[language]
    levels = sorted([("pace", scene.pace), ("loudness", scene.loudness), ("pitch", scene.pitch)], key=_moderate)
    how = [_pick(words["how"][name][level], rng) for name, level in levels]
    degree = _pick(words["degree"][scene.intensity], rng)
    return _pick(words["who"][scene.gender], rng), degree, _pick(EMOTIONS[scene.emotion][short], rng), how


def _moderate(quality: tuple[str, int]) -> bool:
    return quality[1] == 0


def _chinese(scene: Scene, with_topic: bool, prompt_type: str, rng: np.random.Generator) -> str:
    who, degree, emotion, how = _words(scene, "chinese", rng)
    feeling = emotion if emotion.startswith("没有") else degree + emotion
    topic = scene.topic["chinese"]
    about = _pick([f"谈到{topic}", f"提到{topic}", f"说起{topic}"], rng) if with_topic else ""
    if prompt_type == "concise":
        return f"{who}{about}，{feeling}。" if about else f"{who}，{feeling}。"
    if prompt_type == "detailed":
        return f"{who}{about or '在说话'}，{how[0]}，{how[1]}，{how[2]}，语气{feeling}。"
    start = f"{who}{about}，" if about else who
    return _pick(
        [
            f"{start}{how[0]}，语气{feeling}。",
            f"{start}{how[0]}，{how[1]}，听起来{feeling}。",
            f"{start}听起来{feeling}，{how[0]}。",
            f"{start}情绪{feeling}，{how[0]}，{how[1]}。",
        ],
        rng,
    )


def _english(scene: Scene, with_topic: bool, prompt_type: str, rng: np.random.Generator) -> str:
    who, degree, emotion, how = _words(scene, "english", rng)
    feeling = emotion if emotion.startswith("without") else f"{degree} {emotion}"
    topic = scene.topic["english"]
    about = _pick([f" about {topic}", f" of {topic}"], rng) if with_topic else ""
    if prompt_type == "concise":
        return f"{who}{' speaks' + about if about else ''}, {feeling}."
    if prompt_type == "detailed":
        return f"{who} speaks{about} {how[0]}, {how[1]} and {how[2]}, and sounds {feeling}."
    return _pick(
        [
            f"{who} speaks{about} {how[0]} and sounds {feeling}.",
            f"{who} speaks{about} {how[0]}, {how[1]}, in a {feeling} tone."
            if not feeling.startswith("without")
            else f"{who} speaks{about} {how[0]}, {how[1]}, {feeling}.",
            f"{who} sounds {feeling}, speaking{about} {how[0]}.",
        ],
        rng,
    )
