"""Speech with an emotion: espeak-ng says a sentence, and the voice, the room and the microphone are ours to set.

espeak-ng runs as a child process (GPL-3.0 program; its output is not covered). What makes the emotion is in
emotions.yaml; what makes it hard is here: each speaker has a pitch and a pace of his own, each clip a room, a noise
and a microphone gain that have nothing to do with the emotion.
"""

from __future__ import annotations

import io
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import numpy as np
import soundfile
import soxr
import yaml

RATE_HZ = 16_000
EMOTIONS: dict[str, dict[str, Any]] = yaml.safe_load((Path(__file__).parent / "emotions.yaml").read_text("utf-8"))
WORDS_PER_MINUTE = {"chinese": 265, "english": 175}
ACCENTS = {"chinese": ("cmn",), "english": ("en-us", "en-gb", "en-gb-scotland", "en-gb-x-rp", "en-029")}

# espeak-ng's own variants by the gender one hears
VOICES = {
    "woman": ["f1", "f2", "f3", "f5", "Andrea", "Annie", "belinda", "anika", "linda", "steph", "steph3", "grandma"],
    "man": ["m1", "m2", "m3", "m5", "m6", "m8", "adam", "Andy", "benjamin", "boris", "caleb", "david", "Denis", "Gene"]
    + ["Hugo", "john", "max", "Michael", "Mike", "norbert", "pablo", "paul", "rob", "travis", "victor", "Jacky"],
}
HELD_OUT_VOICES = {"woman": ["f4", "aunty", "steph2", "Alicia"], "man": ["m4", "m7", "Lee", "ed", "zac"]}
# A voice drawn for one clip. 38 named ones taught the ears those 38: of a voice it had never heard, a model named the
# emotion no better for being five times larger.
DRAWN = "drawn"


def install_drawn_voices(folder: Path) -> None:
    """Give espeak-ng a data folder of its own under `folder`, which `say` may write a drawn voice into."""
    data = folder / "espeak-ng-data"
    if not data.exists():
        about = subprocess.run(["espeak-ng", "--version"], capture_output=True, text=True, check=True).stdout
        partial = data.with_suffix(".partial")
        shutil.copytree(about.rsplit("Data at: ", 1)[1].strip(), partial, dirs_exist_ok=True)
        partial.replace(data)
    os.environ["ESPEAK_DATA_PATH"] = str(data)


def _draw_voice(gender: str, rng: np.random.Generator) -> str:
    """Write a voice of no one's; the name under which espeak-ng finds it.

    One file a process: espeak-ng refuses to start with more than 350 voices.
    """
    data = Path(os.environ["ESPEAK_DATA_PATH"])
    name = f"{DRAWN}{os.getpid()}"
    (data / "voices" / "!v" / name).write_text(_drawn_voice(gender, rng), encoding="ascii")
    return name


def _drawn_voice(gender: str, rng: np.random.Generator) -> str:
    """A variant in espeak-ng's format: pitch, size of the mouth, and, sometimes, a manner of its own."""
    low, mouth = (rng.uniform(135, 235), rng.uniform(103, 132))
    if gender == "man":
        low, mouth = rng.uniform(62, 118), rng.uniform(82, 107)
    lines = ["language variant", f"name {DRAWN}", f"pitch {low:.0f} {low * rng.uniform(1.1, 1.75):.0f}"]
    for i in range(9):
        frequency, height, width = mouth * np.exp(rng.normal(0, 0.07)), rng.uniform(50, 140), rng.uniform(75, 165)
        lines.append(f"formant {i} {frequency:.0f} {height:.0f} {width:.0f}")
    manners = [
        lambda: f"flutter {rng.integers(0, 13)}",
        lambda: f"roughness {rng.integers(0, 4)}",
        lambda: f"intonation {rng.integers(1, 5)}",
        lambda: f"voicing {rng.integers(45, 156)}",
        lambda: f"consonants {rng.integers(30, 126)} {rng.integers(30, 126)}",
        lambda: f"echo {rng.integers(20, 140)} {rng.integers(5, 31)}",
        lambda: f"tone 100 {rng.integers(120, 256)} 700 {rng.integers(60, 256)} 2500 {rng.integers(20, 200)}",
        lambda: "breath " + " ".join(str(rng.integers(0, 5)) for _ in range(8)),
        lambda: "stressAdd " + " ".join(str(rng.integers(-25, 100)) for _ in range(8)),
        lambda: "stressAmp " + " ".join(str(rng.integers(14, 26)) for _ in range(8)),
    ]
    lines += [manner() for manner in manners if rng.random() < 0.3]
    return "\n".join(lines) + "\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Utterance:
    """Who says what, and how.

    Attributes:
        text: one sentence.
        language: `chinese` or `english`.
        gender: `woman` or `man`.
        voice: espeak-ng variant, or `DRAWN`.
        accent: espeak-ng language code.
        emotion: key of emotions.yaml.
        intensity: 1 slight, 2 plain, 3 strong; 0 for `neutral`.
    """

    text: str
    language: str
    gender: str
    voice: str
    accent: str
    emotion: str
    intensity: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """What a listener can say about the voice.

    Attributes:
        rate: pace over the language's usual pace.
        pitch: espeak points over the middle, by intention and speaker together.
        loudness_db: over a normal voice.
    """

    rate: float
    pitch: float
    loudness_db: float


def say(utterance: Utterance, rng: np.random.Generator) -> tuple[np.ndarray, Heard]:
    """The clip, float32 (samples,) at 16 kHz, and how it sounds."""
    sound = EMOTIONS[utterance.emotion]["sound"]
    strength = {0: 0.0, 1: 0.45, 2: 0.75, 3: 1.1}[utterance.intensity]
    rate = sound.get("rate", 1.0) ** strength * np.exp(rng.normal(0, 0.05))
    pitch = sound.get("pitch", 0) * strength + rng.normal(0, 4)
    spread = sound.get("range", 1.0) ** strength
    loudness = sound.get("loudness_db", 0.0) * strength + rng.normal(0, 0.8)
    voice = _draw_voice(utterance.gender, rng) if utterance.voice == DRAWN else utterance.voice
    wave = _espeak(utterance, voice, rate, 42 + pitch, spread, round(sound.get("gap", 0) * strength))
    wave = _trim(wave)
    wave /= np.sqrt(np.mean(wave**2))
    wave = _color(wave, sound, strength, rng)
    wave = _room(wave, rng)
    # quiet enough that the loudest voice does not clip
    wave *= 0.045 * 10 ** (loudness / 20)
    wave += rng.normal(0, 0.045 * 10 ** (-rng.uniform(24, 40) / 20), len(wave))
    return np.clip(wave, -1, 1).astype(np.float32), Heard(rate=float(rate), pitch=float(pitch), loudness_db=loudness)


def _espeak(utterance: Utterance, voice: str, rate: float, pitch: float, spread: float, gap: int) -> np.ndarray:
    command = ["espeak-ng", "-m", "--stdout", "-v", f"{utterance.accent}+{voice}"]
    command += ["-p", f"{np.clip(pitch, 0, 99):.0f}", "-g", f"{gap}"]
    command += ["-s", f"{WORDS_PER_MINUTE[utterance.language] * rate:.0f}"]
    for attempt in range(
        12
    ):  # 1.51 crashes on some wide ranges, hence also a process of its own; a narrower one will do
        range_percent = 100 * spread * 0.93**attempt
        ssml = f'<speak><prosody range="{range_percent:.0f}%">{escape(utterance.text)}</prosody></speak>'
        done = subprocess.run([*command, ssml], capture_output=True)
        if done.returncode == 0:
            break
    else:
        raise RuntimeError(f"espeak-ng fails on {utterance} (status {done.returncode}).")
    wave, rate_hz = soundfile.read(io.BytesIO(done.stdout), dtype="float32")
    return soxr.resample(wave, rate_hz, RATE_HZ)


def _trim(wave: np.ndarray) -> np.ndarray:
    """Without the silence around it, but for 50 ms."""
    loud = np.flatnonzero(np.abs(wave) > 0.01)
    edge = RATE_HZ // 20
    return np.pad(wave[loud[0] : loud[-1] + 1], (edge, edge)).astype(np.float64)


def _color(wave: np.ndarray, sound: dict[str, float], strength: float, rng: np.random.Generator) -> np.ndarray:
    """The way the pitch goes, tremor, rasp and breath; root mean square 1 before and, nearly, after."""
    wave = _bend(wave, sound.get("glide", 0) * strength, sound.get("lilt", 0) * strength, rng)
    n = len(wave)
    if depth := sound.get("tremor", 0) * strength:
        wobble = np.sin(2 * np.pi * rng.uniform(5.5, 7.0) * np.arange(n) / RATE_HZ + rng.uniform(0, 6.3))
        wave = wave * (1 + min(depth, 0.8) * wobble)
    if rasp := sound.get("rasp", 0) * strength:
        wave = (1 - 0.6 * rasp) * wave + 0.6 * rasp * np.tanh(4 * wave)
    if breath := sound.get("breath", 0) * strength:
        envelope = np.sqrt(np.convolve(wave**2, np.ones(800) / 800, "same"))
        wave = wave + breath * envelope * np.diff(rng.normal(size=n + 1))
    return wave


def _bend(wave: np.ndarray, glide: float, lilt: float, rng: np.random.Generator) -> np.ndarray:
    """Pitch that glides over the last third of the clip and rocks all along it, by playing it faster and slower.

    Heard within one clip, so it tells the emotion whoever speaks; a voice that is high all along does not.
    """
    at = np.linspace(0, 1, len(wave))
    rocking = np.sin(2 * np.pi * rng.uniform(2.0, 3.0) * np.arange(len(wave)) / RATE_HZ + rng.uniform(0, 6.3))
    faster = np.exp(glide * np.clip((at - 0.6) / 0.4, 0, 1) + lilt * rocking)
    heard_at = np.cumsum(1 / faster)
    return np.interp(np.arange(0, heard_at[-1]), heard_at, wave)


def _room(wave: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A small room: the direct sound and a decaying noise tail, then the microphone's tilt."""
    seconds, wet = rng.uniform(0.05, 0.3), rng.uniform(0.0, 0.25)
    n = int(seconds * RATE_HZ)
    tail = rng.normal(size=n) * np.exp(-6.9 * np.arange(n) / n)
    tail *= wet / np.sqrt(np.sum(tail**2))
    tail[0] += 1.0
    size = 1 << (len(wave) + n).bit_length()
    spectrum = np.fft.rfft(wave, size) * np.fft.rfft(tail, size)
    tilt = (np.linspace(0, 1, len(spectrum)) + 0.02) ** rng.uniform(-0.12, 0.12)
    out = np.fft.irfft(spectrum * tilt, size)[: len(wave) + n // 4]
    return out / np.sqrt(np.mean(out**2))
