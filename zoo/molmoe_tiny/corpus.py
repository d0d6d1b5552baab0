"""Samples by (split, data set, number) alone, the labels of their vision tokens, and the held-out files.

Three splits that share no image: `train` is the model's, `tune` is for controllers and estimators, `test` for figures.
Images are drawn again from the seed in training; what is held out is shipped as JSONL with PNG files in a zip.
"""

from __future__ import annotations

import io
import json
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image as Pillow

from controller.crops import ACROSS, GRIDS
from suite.rng import generator
from zoo.molmoe_tiny.drawing import COLOURS, SHAPES, Image
from zoo.molmoe_tiny.questions import SETS, Question
from zoo.molmoe_tiny.scenes import COUNTRIES, LEVELS, SIGNS, Scene

SEED = 20_261
SPLITS = ("train", "tune", "test")
PLACES = ACROSS * max(GRIDS)
"""Rows and columns of the finest grid of vision tokens."""
KINDS = (*SHAPES, "sign", "flag", "bar", "tile")
LABELS = {
    "centre": 2, "kind": 1 + len(KINDS), "colour": 1 + len(COLOURS), "size": 3, "word": 1 + len(SIGNS),
    "tens": 11, "ones": 11, "country": 1 + len(COUNTRIES), "level": 1 + LEVELS,
    "next": 1 + len(COLOURS), "row": 1 + PLACES, "column": 1 + PLACES,
}  # fmt: skip
"""What is asked of every vision token, and the number of answers; 0 is "nothing there"."""
WORDS = {
    "kind": [f" {kind}" for kind in KINDS], "colour": [f" {colour}" for colour in COLOURS],
    "word": [f" {word}" for word in SIGNS], "tens": [f" {digit}" for digit in range(10)],
    "ones": [str(digit) for digit in range(10)], "country": [f" {country}" for country in COUNTRIES],
    "next": [f" {colour}" for colour in COLOURS],
}  # fmt: skip
"""What a label from 1 on is called in questions and answers; a digit that follows another has no space before it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """An image with all its questions, in a random order."""

    id: str
    scene: Scene
    questions: list[Question]


def sample(split: str, name: str, number: int) -> Sample:
    """One image of a data set. Its grey tells the splits apart, so no two of them share an image.

    In training half of the multiple choices are asked without their choices.
    """
    rng = generator(SEED, split, name, number)
    tone = 190 + 3 * int(rng.integers(20)) + SPLITS.index(split)
    draw, ask = SETS[name]
    scene = draw(rng, tone)
    asked = ask(scene, rng)
    order = rng.permutation(len(asked))
    if split == "train":
        asked = [replace(one, text=one.open_text) if one.open_text and rng.random() < 0.5 else one for one in asked]
    return Sample(id=f"{name}-{split}-{number:06d}", scene=scene, questions=[asked[i] for i in order])


def labels(scene: Scene, grid: int) -> npt.NDArray[np.int64]:
    """What each of grid x grid regions of the image shows, (grid, grid, len(LABELS)); of several things the largest."""
    told = np.zeros((grid, grid, len(LABELS)), dtype=np.int64)
    place = 1 + np.arange(grid) * PLACES // grid
    told[..., -2], told[..., -1] = place[:, None], place
    most = np.zeros((grid, grid))
    edges = np.arange(grid + 1) * (scene.image.shape[0] / grid)
    for thing in scene.things:
        left, top, right, bottom = thing.box
        wide = np.clip(np.minimum(edges[1:], right) - np.maximum(edges[:-1], left), 0, None)
        high = np.clip(np.minimum(edges[1:], bottom) - np.maximum(edges[:-1], top), 0, None)
        # share of the thing or of the region, whichever is more: a sliver of either is not worth naming
        area = np.outer(high, wide)
        share = np.maximum(area / ((right - left) * (bottom - top)), area / (edges[1] ** 2))
        here = (share > 0.2) & (area > most)
        most[here] = area[here]
        word = thing.text and not thing.text.isdigit()
        number = thing.text if thing.text.isdigit() else ""
        told[here, :-2] = (
            0,
            1 + KINDS.index(thing.kind),
            1 + list(COLOURS).index(thing.colour) if thing.colour else 0,
            1 + ("small", "large").index(thing.size),
            1 + SIGNS.index(thing.text) if word else 0,
            1 + int(number[0]) if number else 0,
            1 + int(number[1]) if number else 0,
            1 + COUNTRIES.index(thing.country) if thing.country else 0,
            thing.level,
            1 + list(COLOURS).index(thing.next) if thing.next else 0,
        )
    for thing in scene.things:
        left, top, right, bottom = thing.box
        row, column = ((a + b) * grid // (2 * scene.image.shape[0]) for a, b in ((top, bottom), (left, right)))
        told[row, column, 0] = 1
    return told


def write(folder: Path, split: str, count: int) -> None:
    """Store the first `count` images of every data set of a split, each with one question.

    `<split>.jsonl` has one line a question; `<split>.zip` holds the images.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    with zipfile.ZipFile(folder / f"{split}.zip", "w", zipfile.ZIP_STORED) as archive:
        for name in SETS:
            for number in range(count):
                one = sample(split, name, number)
                packed = io.BytesIO()
                Pillow.fromarray(one.scene.image).save(packed, format="PNG", optimize=True)
                file = zipfile.ZipInfo(f"{one.id}.png")  # its date is fixed: the archive is the same every time
                archive.writestr(file, packed.getvalue())
                asked = one.questions[0]
                line = {"id": one.id, "dataset": name, "image": file.filename, "hops": asked.hops}
                lines.append(line | {"question": asked.text, "answer": asked.answer})
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    (folder / f"{split}.jsonl").write_text(text, encoding="utf-8")


def read(folder: Path, split: str) -> tuple[list[dict[str, str]], list[Image]]:
    """The stored questions of a split and, in the same order, their images."""
    lines = [json.loads(line) for line in (folder / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()]
    with zipfile.ZipFile(folder / f"{split}.zip") as archive:
        images = [np.asarray(Pillow.open(io.BytesIO(archive.read(line["image"]))).convert("RGB")) for line in lines]
    return lines, images
