"""Clips from files: every usual format becomes the same 16 kHz mono wave, every bad file one sentence."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import soundfile

from edgecloud.audio import RATE, clip_seconds, read_clip
from suite.errors import UserError

Wave = npt.NDArray[np.float64]


def tone(rate: int, seconds: float = 0.5, hz: float = 440.0, level: float = 0.5) -> Wave:
    """(samples,) a sine."""
    return level * np.sin(2 * np.pi * hz * np.arange(round(rate * seconds)) / rate)


def loudness(wave: npt.NDArray[np.floating]) -> float:
    return float(np.sqrt(np.mean(np.square(wave))))


def pitch_hz(wave: npt.NDArray[np.floating]) -> float:
    return float(np.abs(np.fft.rfft(wave)).argmax() * RATE / len(wave))


@pytest.mark.parametrize(
    ("name", "rate", "kind"),
    [
        ("a.wav", 24_000, {"subtype": "PCM_16"}),
        ("a.wav", 8_000, {"subtype": "PCM_U8"}),
        ("a.wav", 16_000, {"subtype": "PCM_24"}),
        ("a.wav", 44_100, {"subtype": "FLOAT"}),
        ("a.wav", 96_000, {"subtype": "DOUBLE"}),
        ("a.flac", 22_050, {}),
        ("a.mp3", 44_100, {}),
        ("a.ogg", 48_000, {}),
        ("a.opus", 48_000, {"format": "OGG", "subtype": "OPUS"}),
        ("no-ending", 16_000, {"format": "FLAC"}),
    ],
)
@pytest.mark.parametrize("channels", [1, 2])
def test_formats_rates_and_channels(tmp_path: Path, name: str, rate: int, kind: dict[str, str], channels: int) -> None:
    soundfile.write(tmp_path / name, np.stack([tone(rate)] * channels, axis=1), rate, **kind)
    wave = read_clip(tmp_path / name)
    assert (wave.dtype, wave.ndim) == (np.float32, 1)
    assert len(wave) == pytest.approx(RATE / 2, rel=0.15 if name == "a.mp3" else 0.001)  # mp3 pads whole frames
    assert pitch_hz(wave) == pytest.approx(440, abs=3)
    assert np.abs(wave).max() == pytest.approx(0.5, abs=0.05)
    assert clip_seconds(tmp_path / name) == pytest.approx(0.5, rel=0.15 if name == "a.mp3" else 0.001)


def test_stereo_is_averaged_not_one_side_taken(tmp_path: Path) -> None:
    left, right = tone(RATE, hz=400, level=0.4), tone(RATE, hz=900, level=0.2)
    soundfile.write(tmp_path / "a.wav", np.stack([left, right], axis=1), RATE, subtype="FLOAT")
    np.testing.assert_allclose(read_clip(tmp_path / "a.wav"), (left + right) / 2, atol=1e-6)


def test_what_16_khz_cannot_hold_is_filtered_not_folded(tmp_path: Path) -> None:
    """Taking every third sample would turn 15 kHz into a loud tone at 1 kHz."""
    soundfile.write(tmp_path / "a.wav", tone(48_000, hz=15_000) + tone(48_000, hz=300, level=0.1), 48_000)
    wave = read_clip(tmp_path / "a.wav")
    assert pitch_hz(wave) == pytest.approx(300, abs=3)
    assert loudness(wave) == pytest.approx(0.1 / np.sqrt(2), rel=0.05)


def test_float_audio_above_full_scale_keeps_its_shape(tmp_path: Path) -> None:
    """Clipping would make a square wave of it."""
    soundfile.write(tmp_path / "a.wav", tone(RATE, level=30_000.0), RATE, subtype="FLOAT")
    np.testing.assert_allclose(read_clip(tmp_path / "a.wav"), tone(RATE, level=1.0), atol=0.01)


# ---- bad files ----


def write(path: Path, wave: Wave, rate: int = RATE) -> Path:
    soundfile.write(path, wave, rate, subtype="FLOAT" if path.suffix == ".wav" else None)
    return path


def spoilt(value: float) -> Wave:
    wave = tone(RATE)
    wave[100] = value
    return wave


def text(path: Path) -> Path:
    path.write_text("no audio at all\n" * 50)
    return path


def cut_flac(path: Path) -> Path:
    write(path, np.random.default_rng(0).normal(0, 0.1, RATE))
    path.write_bytes(path.read_bytes()[:60])
    return path


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda at: at / "missing.wav", r"missing\.wav does not exist; give the path of an audio file"),
        (lambda at: at, "does not exist; give the path of an audio file"),  # a folder
        (lambda at: text(at / "a.wav"), "is not audio that can be decoded; convert it to wav"),
        (lambda at: text(at / "a.raw"), "is not audio that can be decoded; convert it to wav"),
        (lambda at: (at / "a.wav").write_bytes(b"") or at / "a.wav", "is an empty file"),
        (lambda at: write(at / "a.wav", np.zeros(0)), "holds no samples; record or copy the clip again"),
        (lambda at: write(at / "a.wav", tone(RATE, 0.1)), r"lasts 0\.10 s; a clip needs at least 0\.2 s"),
        (lambda at: write(at / "a.flac", tone(RATE, 61)), "lasts 61 s; cut it into clips of at most 60 s"),
        (lambda at: write(at / "a.wav", np.zeros(RATE)), r"is silent \(all of it under -80 dBFS\)"),
        (lambda at: write(at / "a.wav", tone(RATE, level=9e-5)), "is silent"),
        (lambda at: write(at / "a.wav", spoilt(np.nan)), "samples that are not numbers"),
        (lambda at: write(at / "a.wav", spoilt(-np.inf)), "samples that are not numbers"),
        (lambda at: cut_flac(at / "a.flac"), "is not audio that can be decoded|holds no samples"),
    ],
)
def test_a_bad_file_is_one_sentence(tmp_path: Path, make: Callable[[Path], Path], reason: str) -> None:
    with pytest.raises(UserError, match=reason) as error:
        read_clip(make(tmp_path))
    assert "\n" not in str(error.value)


def test_quiet_speech_is_no_silence(tmp_path: Path) -> None:
    assert loudness(read_clip(write(tmp_path / "a.wav", tone(RATE, level=2e-4)))) > 0


def test_ten_minutes_are_refused_without_decoding_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = write(tmp_path / "long.flac", np.tile(tone(RATE, 1.0), 600))
    monkeypatch.setattr(soundfile.SoundFile, "read", lambda *_, **__: pytest.fail("it was decoded"))
    with pytest.raises(UserError, match="lasts 600 s; cut it into clips of at most 60 s"):
        read_clip(long)
    with pytest.raises(UserError, match="lasts 600 s"):
        clip_seconds(long)


@pytest.mark.parametrize("seconds", [0.2, 60.0])
def test_the_limits_themselves_are_legal(tmp_path: Path, seconds: float) -> None:
    wave = read_clip(write(tmp_path / "a.wav", np.resize(tone(RATE, 0.2), round(RATE * seconds))))
    assert len(wave) == RATE * seconds
