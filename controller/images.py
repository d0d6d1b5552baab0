"""Images of a data set, opened one at a time: files of a folder, or of a zip that is never unpacked."""

from __future__ import annotations

import io
import os
import warnings
import zipfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image, ImageOps

from suite.errors import UserError

MAX_SIDE = 2048
"""Pixels of an image's longer side at most; larger ones are scaled down as they are opened."""
MAX_BYTES = 2**28
"""Of a packed file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFile:
    """Where an image lies. Nothing is read before `open`."""

    home: Path
    """A folder or a zip."""
    name: str
    """Path below the folder; of a zip's member the last part of its path."""

    def __str__(self) -> str:
        return f"{self.name} in {self.home}"

    def problem(self) -> str:
        """Why it cannot be opened, as far as its name tells; empty if nothing speaks against it."""
        path = PurePosixPath(self.name)
        if path.is_absolute() or ".." in path.parts or "\\" in self.name:
            return f"the image {self.name} leads out of {self.home}; name a file inside it"
        found = path.name in _members(self.home)[1] if self.home.is_file() else os.path.isfile(self.home / path)
        return "" if found else f"there is no image {self.name} in {self.home}; add it or drop the row"

    def open(self) -> Image.Image:
        """The image, RGB, upright, 1 to `MAX_SIDE` pixels a side; what is transparent shows white.

        Raises:
            UserError: it cannot be read, or is a decompression bomb (more pixels than Pillow's `MAX_IMAGE_PIXELS`).
        """
        if problem := self.problem():
            raise UserError(f"{problem}.")
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", module="PIL")  # odd metadata; the pixels are what counts
                warnings.simplefilter("error", Image.DecompressionBombWarning)
                with Image.open(io.BytesIO(self._bytes())) as image:
                    return _plain(image)
        except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
            raise UserError(f"the image {self} has too many pixels ({error}); scale it down.") from error
        except Exception as error:  # decoders of broken files raise whatever they stumble over
            raise UserError(f"the image {self} does not open ({error}); replace it or drop the row.") from error

    def _bytes(self) -> bytes:
        if not self.home.is_file():
            return (self.home / self.name).read_bytes()
        archive, members = _members(self.home)
        member = members[PurePosixPath(self.name).name]
        if member.file_size > MAX_BYTES:
            raise ValueError(f"it unpacks to {member.file_size / 2**20:.0f} MB")
        return archive.read(member)


@lru_cache(maxsize=8)
def _members(path: Path) -> tuple[zipfile.ZipFile, dict[str, zipfile.ZipInfo]]:
    """An open archive and its files by their own names, whatever folder they lie in; a large one opens slowly.

    Raises:
        UserError: the file is no zip.
    """
    try:
        archive = zipfile.ZipFile(path)
    except (OSError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} is neither a folder of images nor a zip of them ({error}).") from error
    return archive, {
        PurePosixPath(member.filename).name: member for member in archive.infolist() if not member.is_dir()
    }


def _plain(image: Image.Image) -> Image.Image:
    image.draft(None, (MAX_SIDE, MAX_SIDE))  # a JPEG is decoded at a fraction of its size where that is enough
    ImageOps.exif_transpose(image, in_place=True)
    if image.mode.startswith("I"):  # 16 bits a pixel, which Pillow would clip, not scale
        grey = np.clip(np.asarray(image, dtype=np.int64), 0, 65_535) // 257
        image = Image.fromarray(grey.astype(np.uint8))
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    plain = image.convert("RGB")
    plain.thumbnail((MAX_SIDE, MAX_SIDE))
    return plain
