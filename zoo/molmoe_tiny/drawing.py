"""Draw shapes and letters on an image with integer arithmetic: the same pixels on every machine, no font file.

An image is (96, 96, 3) uint8; a box is (left, top, right, bottom), the last two exclusive.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Image = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]
Box = tuple[int, int, int, int]

SIDE = 96
COLOURS = {
    "red": (215, 40, 40),
    "orange": (245, 135, 20),
    "yellow": (240, 220, 40),
    "green": (40, 155, 60),
    "blue": (40, 80, 220),
    "purple": (135, 50, 175),
    "pink": (245, 140, 195),
    "black": (25, 25, 25),
}
WHITE = (250, 250, 250)
SHAPES = ("circle", "square", "triangle", "diamond", "cross", "ring")
GLYPH_HIGH, GLYPH_WIDE = 7, 5

# The 5x7 dot matrix of character displays: five columns a letter, the lowest bit on top.
_FONT = {
    "0": "3e5149453e", "1": "00427f4000", "2": "4261514946", "3": "2141454b31", "4": "1814127f10",
    "5": "2745454539", "6": "3c4a494930", "7": "0171090503", "8": "3649494936", "9": "064949291e",
    "A": "7e1111117e", "B": "7f49494936", "C": "3e41414122", "D": "7f4141221c", "E": "7f49494941",
    "F": "7f09090901", "G": "3e4149497a", "H": "7f0808087f", "I": "00417f4100", "J": "2040413f01",
    "K": "7f08142241", "L": "7f40404040", "M": "7f020c027f", "N": "7f0408107f", "O": "3e4141413e",
    "P": "7f09090906", "Q": "3e4151215e", "R": "7f09192946", "S": "4649494931", "T": "01017f0101",
    "U": "3f4040403f", "V": "1f2040201f", "W": "3f4038403f", "X": "6314081463", "Y": "0708700807",
    "Z": "6151494543",
}  # fmt: skip


def canvas(tone: int) -> Image:
    """An empty image of one grey."""
    return np.full((SIDE, SIDE, 3), tone, dtype=np.uint8)


def rectangle(image: Image, box: Box, colour: tuple[int, int, int]) -> None:
    """Fill a box."""
    left, top, right, bottom = box
    image[top:bottom, left:right] = colour


def shape(image: Image, name: str, box: Box, colour: tuple[int, int, int]) -> None:
    """Draw one of `SHAPES` as large as its square box."""
    left, top, right, bottom = box
    image[top:bottom, left:right][_mask(name, right - left)] = colour


def text_mask(text: str, scale: int = 1) -> Mask:
    """Where the ink of a text is, (7 x scale, (6 n - 1) x scale)."""
    columns = [bytes.fromhex(_FONT[letter]) + b"\0" for letter in text.upper()]
    bits = np.frombuffer(b"".join(columns), dtype=np.uint8)[:-1]
    rows = (bits[None, :] >> np.arange(GLYPH_HIGH, dtype=np.uint8)[:, None]) & 1
    return np.kron(rows, np.ones((scale, scale), dtype=np.uint8)).astype(bool)


def write(image: Image, text: str, left: int, top: int, colour: tuple[int, int, int], scale: int = 1) -> None:
    """Print a text with its upper left corner there."""
    mask = text_mask(text, scale)
    image[top : top + mask.shape[0], left : left + mask.shape[1]][mask] = colour


def _mask(name: str, side: int) -> Mask:
    """A shape in a square of `side` pixels; twice the distances from its centre are whole numbers."""
    y, x = np.mgrid[0:side, 0:side] * 2 + 1 - side
    if name == "circle":
        return x * x + y * y <= side * side
    if name == "ring":
        square = x * x + y * y
        return (square <= side * side) & (4 * square >= side * side)
    if name == "triangle":
        return 2 * np.abs(x) <= y + side
    if name == "diamond":
        return np.abs(x) + np.abs(y) <= side
    if name == "cross":
        return (3 * np.abs(x) <= side) | (3 * np.abs(y) <= side)
    return np.ones((side, side), dtype=bool)
