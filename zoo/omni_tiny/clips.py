"""Held-out clips as a data set of the suite: Opus files and a unified manifest (edgecloud/manifest.py)."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import soundfile

from edgecloud.instructions import CAPTION_TYPES, LANGUAGES
from suite.rng import generator
from zoo.omni_tiny import corpus
from zoo.omni_tiny.captions import caption
from zoo.omni_tiny.speech import EMOTIONS, RATE_HZ

REFERENCES = 3


def write(folder: Path, count: int) -> Path:
    """Store the first `count` test clips in `folder`; returns the manifest."""
    (folder / "audio").mkdir(parents=True, exist_ok=True)
    items = [_item(folder, number) for number in range(count)]
    manifest = {
        "version": 1,
        "name": "omni_tiny voices, held out",
        "license": "Apache-2.0",
        "emotions": {name: [*emotion["zh"], *emotion["en"]] for name, emotion in EMOTIONS.items()},
        "items": items,
    }
    path = folder / "manifest.json"
    path.write_text(json.dumps(manifest, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    return path


def _item(folder: Path, number: int) -> dict[str, Any]:
    wave, utterance, told = corpus.clip("test", number)
    name = f"audio/{number:04d}.opus"
    soundfile.write(folder / name, wave, RATE_HZ, format="OGG", subtype="OPUS")
    captions: dict[str, dict[str, list[str]]] = {}
    for kind in CAPTION_TYPES:
        for language in LANGUAGES:
            rngs = [generator(corpus.SEED, "reference", number, kind, language, i) for i in range(REFERENCES)]
            captions.setdefault(kind, {})[language] = [caption(told, kind, language, "default", rng) for rng in rngs]
    return {
        "id": f"{number:04d}-{told.emotion}",
        "audio": name,
        "seconds": round(len(wave) / RATE_HZ, 3),
        "sha256": hashlib.sha256((folder / name).read_bytes()).hexdigest(),
        "transcript": utterance.text,
        "emotion": told.emotion,
        "speaker": f"{utterance.accent}+{utterance.voice}",
        "captions": captions,
    }
