"""Draw the scenes of the four data sets: what is in an image, where, and how it looks.

Things keep to the nine cells of a 3x3 grid, so that the nine crops of the high tier cut few of them apart; flags and
bars are larger than a cell. Small print is 7 pixels high: a third of that in the low tier, where it cannot be read.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from zoo.molmoe_tiny import drawing
from zoo.molmoe_tiny.drawing import COLOURS, SHAPES, SIDE, WHITE, Box, Image

FACTS: dict[str, Any] = yaml.safe_load((Path(__file__).parent / "facts.yaml").read_text(encoding="utf-8"))
SIGNS: list[str] = FACTS["signs"]
COUNTRIES: list[str] = list(FACTS["countries"])
CELL = SIDE // 3
LEVELS = 8
"""Heights a bar can have."""
BARS = (3, 5)
"""Fewest and most bars of a chart."""
TILES = (6, 8)
"""Fewest and most tiles of a ring."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Thing:
    """One thing of a scene; what does not apply to its kind is empty."""

    kind: str
    """One of `SHAPES`, `sign`, `flag`, `bar` or `tile`."""
    box: Box
    colour: str = ""
    size: str = "large"
    """small or large."""
    text: str = ""
    """A sign's: a word, or a number."""
    country: str = ""
    level: int = 0
    """A bar's height, 1 to `LEVELS`."""
    next: str = ""
    """The colour of a tile's lower half, which is that of another tile's upper half."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """An image and what is in it, bars and cells in reading order."""

    image: Image
    things: list[Thing] = field(default_factory=list)


def objects(rng: np.random.Generator, count: int, tone: int, *, free: list[int] | None = None) -> Scene:
    """`count` coloured shapes in cells of their own; few colours and kinds, so that counts above one are common."""
    image = drawing.canvas(tone)
    cells = sorted(rng.permutation(range(9) if free is None else free)[:count].tolist())
    colours = rng.permutation(list(COLOURS))[: int(rng.integers(2, 6))]
    kinds = rng.permutation(SHAPES)[: int(rng.integers(2, 5))]
    things = []
    for cell in cells:
        size = "small" if rng.random() < 0.5 else "large"
        side = int(rng.integers(9, 13)) if size == "small" else int(rng.integers(20, 27))
        kind, colour = str(rng.choice(kinds)), str(rng.choice(colours))
        box = _placed(rng, cell, side, side)
        drawing.shape(image, kind, box, COLOURS[colour])
        things.append(Thing(kind=kind, box=box, colour=colour, size=size))
    return Scene(image=image, things=things)


def signs(rng: np.random.Generator, tone: int, *, numeric: float = 0.7) -> Scene:
    """Two to five plates of different colours, each with another word on it or, that often, another number."""
    image = drawing.canvas(tone)
    count = int(rng.integers(2, 6))
    words = rng.permutation(SIGNS)
    numbers = rng.permutation(90) + 10
    things = []
    for i, cell in enumerate(sorted(rng.permutation(9)[:count].tolist())):
        colour = str(rng.permutation([c for c in COLOURS if c not in [t.colour for t in things]])[0])
        number = rng.random() < numeric
        text = str(numbers[i]) if number else str(words[i])
        scale = 2 if number and rng.random() < 0.5 else 1
        ink = drawing.text_mask(text, scale)
        box = _placed(rng, cell, ink.shape[1] + 4, ink.shape[0] + 4)
        drawing.rectangle(image, box, COLOURS[colour])
        dark = colour in ("yellow", "orange", "pink")
        drawing.write(image, text, box[0] + 2, box[1] + 2, COLOURS["black"] if dark else WHITE, scale)
        things.append(Thing(kind="sign", box=box, colour=colour, size=("small", "large")[scale - 1], text=text))
    return Scene(image=image, things=things)


def flag(rng: np.random.Generator, tone: int) -> Scene:
    """One country's flag, a third to two thirds as wide as the image, and a shape or two beside it."""
    width = int(rng.integers(30, 62))
    high = width * 2 // 3
    size = "small" if width < 40 else "large"
    left, top = int(rng.integers(0, SIDE - width)), int(rng.integers(0, SIDE - high))
    box = (left, top, left + width, top + high)
    taken = {row * 3 + column for row in range(3) for column in range(3) if _overlaps(box, row, column)}
    free = [cell for cell in range(9) if cell not in taken]
    scene = objects(rng, min(len(free), int(rng.integers(0, 3))), tone, free=free)
    country = str(rng.choice(COUNTRIES))
    _draw_flag(scene.image, FACTS["countries"][country][0], box)
    return replace(scene, things=[Thing(kind="flag", box=box, size=size, country=country), *scene.things])


def bars(rng: np.random.Generator, tone: int) -> Scene:
    """Three to five bars of different colours and heights on a common line."""
    image = drawing.canvas(tone)
    count = int(rng.integers(BARS[0], BARS[1] + 1))
    colours = rng.permutation(list(COLOURS))[:count]
    levels = rng.permutation(LEVELS)[:count] + 1
    width, floor = int(rng.integers(10, 15)), int(rng.integers(88, 95))
    pitch = (SIDE - 8) // count
    things = []
    for i in range(count):
        left = 4 + i * pitch + (pitch - width) // 2
        level = int(levels[i])
        box = (left, floor - 10 * level, left + width, floor)
        drawing.rectangle(image, box, COLOURS[str(colours[i])])
        things.append(Thing(kind="bar", box=box, colour=str(colours[i]), level=level))
    drawing.rectangle(image, (2, floor, SIDE - 2, floor + 1), COLOURS["black"])
    return Scene(image=image, things=things)


def tiles(rng: np.random.Generator, tone: int) -> Scene:
    """Six to eight tiles in cells of their own, each pointing to the next by colour, in one ring."""
    image = drawing.canvas(tone)
    count = int(rng.integers(TILES[0], TILES[1] + 1))
    ring = [str(colour) for colour in rng.permutation(list(COLOURS))[:count]]
    after = dict(zip(ring, [*ring[1:], ring[0]], strict=True))
    things = []
    for cell, colour in zip(sorted(rng.permutation(9)[:count].tolist()), rng.permutation(ring), strict=True):
        box = left, top, right, bottom = _placed(rng, cell, 26, 26)
        drawing.rectangle(image, box, WHITE)
        drawing.rectangle(image, (left + 1, top + 1, right - 1, top + 13), COLOURS[str(colour)])
        drawing.rectangle(image, (left + 1, top + 13, right - 1, bottom - 1), COLOURS[after[str(colour)]])
        things.append(Thing(kind="tile", box=box, colour=str(colour), next=after[str(colour)]))
    return Scene(image=image, things=things)


def _placed(rng: np.random.Generator, cell: int, width: int, high: int) -> Box:
    """A box of this size anywhere inside a cell."""
    row, column = divmod(cell, 3)
    left = column * CELL + int(rng.integers(0, CELL - width + 1))
    top = row * CELL + int(rng.integers(0, CELL - high + 1))
    return left, top, left + width, top + high


def _overlaps(box: Box, row: int, column: int) -> bool:
    left, top, right, bottom = box
    return left < (column + 1) * CELL and right > column * CELL and top < (row + 1) * CELL and bottom > row * CELL


def _draw_flag(image: Image, design: list[str], box: Box) -> None:
    """Draw a flag; its outline keeps white stripes apart from a light ground."""
    left, top, right, bottom = box
    width, high = right - left, bottom - top
    kind, *names = design
    paint = [WHITE if name == "white" else COLOURS[name] for name in names]
    if kind in ("rows", "columns"):
        for i, colour in enumerate(paint):
            if kind == "rows":
                start, end = i * high // len(paint), (i + 1) * high // len(paint)
                drawing.rectangle(image, (left, top + start, right, top + end), colour)
            else:
                start, end = i * width // len(paint), (i + 1) * width // len(paint)
                drawing.rectangle(image, (left + start, top, left + end, bottom), colour)
    else:
        drawing.rectangle(image, box, paint[0])
    if kind == "disc":
        side = high * 3 // 5
        x, y = left + (width - side) // 2, top + (high - side) // 2
        drawing.shape(image, "circle", (x, y, x + side, y + side), paint[1])
    if kind == "cross":
        x, y = left + width * 3 // 8, top + high // 2
        for colour, half in zip(paint[1:], (max(3, high // 8), max(1, high // 16)), strict=True):
            drawing.rectangle(image, (left, y - half, right, y + half), colour)
            drawing.rectangle(image, (x - half, top, x + half, bottom), colour)
    for edge in (
        (left, top, right, top + 1),
        (left, bottom - 1, right, bottom),
        (left, top, left + 1, bottom),
        (right - 1, top, right, bottom),
    ):
        drawing.rectangle(image, edge, (90, 90, 90))
