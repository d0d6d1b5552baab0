"""An image at a tier: the crops that the vision tower sees, and how many tokens they become.

A crop is 32 pixels of the image at a third of its size (one crop: all of it), at two thirds (2x2) or whole (3x3),
shown twice as large, with two more channels: where in the image each of its pixels lies. So every vision token knows
its place, which no position in the decoder's sequence would tell it. Smaller sizes keep every third pixel, or two of
three, and lose the others, as the cheapest resizing does: small print is not there any more.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image

CROP = 32
SIDE = 96
ENLARGED = 2
CHANNELS = 5
TIERS = {"low": (1,), "medium": (1, 2), "high": (1, 3)}
"""Name of a tier -> its grids of crops."""
GRIDS = (1, 2, 3)
ACROSS = 4
"""Vision tokens in a row of a crop, and rows of them."""
TOKENS = ACROSS * ACROSS
"""Vision tokens a crop, in reading order."""

Images = npt.NDArray[np.uint8]
Pixels = npt.NDArray[np.float32]


def count(tier: str) -> int:
    """Crops of a tier: 1, 5 or 10."""
    return sum(grid * grid for grid in TIERS[tier])


def crops(images: Images, grids: tuple[int, ...]) -> Pixels:
    """Crops of images (n, 96, 96, 3) at these grids, (n, crops, 5, 64, 64): colours and coordinates within -1 and 1."""
    return np.concatenate([_cut(images, grid) for grid in grids], axis=1)


def _cut(images: Images, grid: int) -> Pixels:
    """The grid x grid crops in reading order."""
    n, side = len(images), CROP * grid
    nearest = (2 * np.arange(side) + 1) * SIDE // (2 * side)
    small = images[:, nearest[:, None], nearest]
    ramp = (np.arange(side, dtype=np.float32) + 0.5) * (2 / side) - 1
    pixels = np.empty((n, side, side, CHANNELS), dtype=np.float32)
    pixels[..., :3] = small / np.float32(127.5) - 1
    pixels[..., 3], pixels[..., 4] = ramp[None, :], ramp[:, None]
    cut = pixels.reshape(n, grid, CROP, grid, CROP, CHANNELS).transpose(0, 1, 3, 5, 2, 4)
    cut = cut.reshape(n, grid * grid, CHANNELS, CROP, CROP)
    return cut.repeat(ENLARGED, axis=3).repeat(ENLARGED, axis=4)


def rgb(image: Image.Image) -> Image.Image:
    """An image of any mode in three colours; what is transparent lies on white."""
    if image.has_transparency_data:
        clear = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", clear.size, "white"), clear)
    return image.convert("RGB")


def tiles(image: Image.Image, grid: int, side: int) -> list[Image.Image]:
    """The grid x grid tiles of an image in reading order, each `side` pixels square; its ratio of sides is not kept."""
    large = image.resize((grid * side, grid * side), Image.Resampling.BICUBIC)
    corners = [(x * side, y * side) for y in range(grid) for x in range(grid)]
    return [large.crop((x, y, x + side, y + side)) for x, y in corners]
