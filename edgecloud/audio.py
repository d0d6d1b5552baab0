"""A speech clip from a file, as the models hear it: mono float32 samples at 16 kHz.

Formats are libsndfile's: wav (8 to 64 bit, float), flac, ogg with Vorbis or Opus, mp3, aiff and more, at any rate.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from suite.errors import UserError

RATE = 16_000
"""Samples a second of what `read_clip` returns."""
MIN_S, MAX_S = 0.2, 60.0
SILENCE = 1e-4
"""-80 dBFS, three steps of 16-bit audio: a clip that never gets louder holds no voice."""


def read_clip(path: Path) -> npt.NDArray[np.float32]:
    """The clip (samples,), mono at 16 kHz, in [-1, 1]; stereo is averaged, louder float audio scaled down.

    Raises:
        UserError: no such file, not audio, empty, under 0.2 s, over 60 s (not decoded then), silent, or not numbers.
    """
    import soxr

    with _Opened(path) as file:
        _check_seconds(path, file.frames / file.samplerate)
        # a header may promise less than there is: never decode more than one sample too many
        frames = file.read(int(MAX_S * file.samplerate) + 1, dtype="float32", always_2d=True)
        rate = file.samplerate
    _check_seconds(path, len(frames) / rate)
    if not np.isfinite(frames).all():
        raise UserError(f"{path} holds samples that are not numbers (NaN or infinity); export the clip again.")
    wave = frames.mean(axis=1)
    if np.abs(wave).max() < SILENCE:
        raise UserError(f"{path} is silent (all of it under -80 dBFS); give a clip with a voice in it.")
    wave = soxr.resample(wave, rate, RATE)
    return np.asarray(wave / max(1.0, float(np.abs(wave).max())), dtype=np.float32)


def clip_seconds(path: Path) -> float:
    """Length as the file's header states it, in seconds; nothing is decoded.

    Raises:
        UserError: no such file, not audio, empty, under 0.2 s or over 60 s.
    """
    with _Opened(path) as file:
        seconds = file.frames / file.samplerate
    _check_seconds(path, seconds)
    return float(seconds)


class _Opened:
    """A sound file open for reading; what libsndfile refuses, now or while decoding, becomes a sentence."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> Any:
        import soundfile

        if not self.path.is_file():
            raise UserError(f"{self.path} does not exist; give the path of an audio file.")
        try:
            with self.path.open("rb") as stream:
                empty = not stream.read(1)
            if empty:
                raise UserError(f"{self.path} is an empty file; record or copy the clip again.")
            self.file = soundfile.SoundFile(self.path)
        except OSError as error:
            raise UserError(f"{self.path} cannot be read ({error.strerror}); check its permissions.") from error
        except (soundfile.LibsndfileError, TypeError) as error:  # TypeError: a .raw file, whose rate nothing tells
            raise self._refused() from error
        return self.file

    def __exit__(self, kind: Any, error: BaseException | None, _: Any) -> None:
        import soundfile

        self.file.close()
        if isinstance(error, soundfile.LibsndfileError):
            raise self._refused() from error

    def _refused(self) -> UserError:
        return UserError(f"{self.path} is not audio that can be decoded; convert it to wav, flac, ogg or mp3.")


def _check_seconds(path: Path, seconds: float) -> None:
    if seconds == 0:
        raise UserError(f"{path} holds no samples; record or copy the clip again.")
    if seconds < MIN_S:
        raise UserError(f"{path} lasts {seconds:.2f} s; a clip needs at least {MIN_S:g} s.")
    if seconds > MAX_S:
        raise UserError(f"{path} lasts {seconds:.0f} s; cut it into clips of at most {MAX_S:g} s.")
