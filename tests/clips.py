"""Short tones standing in for speech, with a manifest beside them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

EMOTIONS = {"happy": ["happy", "高兴"], "sad": ["sad", "悲伤"]}


def write_clip(path: Path, hz: float = 300.0, seconds: float = 0.5) -> Path:
    """A 16 kHz wav that swells and fades, so that its frames differ."""
    path.parent.mkdir(parents=True, exist_ok=True)
    time_s = np.arange(int(16_000 * seconds)) / 16_000
    soundfile.write(path, 0.4 * np.sin(2 * np.pi * hz * time_s) * np.sin(np.pi * time_s / seconds), 16_000)
    return path


def captions(number: int) -> dict[str, Any]:
    """Captions of every kind, each telling which it is."""
    return {
        kind: {"chinese": [f"第{number}段很高兴，{kind}。"], "english": [f"clip {number} is happy, {kind}", "second"]}
        for kind in ("original", "audio_only")
    }


def write_clips(folder: Path, number: int, **top: Any) -> Path:
    """`number` good clips c0, c1, ...; the manifest's path. `top` goes beside the items."""
    items = []
    for i in range(number):
        write_clip(folder / "wav" / f"c{i}.wav", 200.0 + 70 * i)
        emotion = ("happy", "sad")[i % 2]
        items.append({"id": f"c{i}", "audio": f"wav/c{i}.wav", "emotion": emotion, "captions": captions(i)})
    return write_manifest(folder, items, **top)


def write_manifest(folder: Path, items: list[dict[str, Any]], **top: Any) -> Path:
    path = folder / "manifest.json"
    content = {"version": 1, "name": "tones", "emotions": EMOTIONS, "items": items, **top}
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    return path


def read_items(manifest: Path) -> list[dict[str, Any]]:
    return json.loads(manifest.read_text(encoding="utf-8"))["items"]
