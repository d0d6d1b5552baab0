"""Batches for training: every image once, followed by several questions that do not see each other.

A row is [vision tokens][question answer][question answer]...; each pair attends to the image and to itself, and its
positions go on where the image ends. So a row's numbers are those of its questions asked one by one, at a fraction of
the work: most tokens are the image's.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from controller import crops
from suite.rng import generator
from zoo.molmoe_tiny import corpus, model
from zoo.molmoe_tiny.corpus import SEED, Sample


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Images and questions as tensors."""

    pixels: Tensor
    """(images x 14, 5, 64, 64): the crops of all three grids."""
    labels: Tensor
    """(images, 224, n): what each vision token shows."""
    ids: Tensor
    """(images, text): questions and answers, padded."""
    segment: Tensor
    """(images, text): number of the question from 1; 0 is padding."""
    place: Tensor
    """(images, text): position within the question."""
    scored: Tensor
    """(images, text): whether the next token is part of an answer."""


HIDDEN = -1e9
"""Added to the score of a token that is not to be seen."""
ALL_CROPS = sum(grid * grid for grid in crops.GRIDS)


ALL_TOKENS = ALL_CROPS * crops.TOKENS


def tokens_of(tier: str) -> Tensor:
    """Which of the vision tokens of all grids a tier has, (224,)."""
    of_grid = np.repeat(crops.GRIDS, [grid * grid * crops.TOKENS for grid in crops.GRIDS])
    return torch.from_numpy(np.isin(of_grid, crops.TIERS[tier]))


class Maker:
    """Draws samples and turns them into batches; a question is tokenised once."""

    def __init__(self, tok: Any, *, shares: dict[str, int], text: int) -> None:
        """`shares` are the images of each data set in a batch, `text` the most tokens that follow an image."""
        self.shares, self.text = shares, text
        self.pad = tok.pad_token_id
        self.asked = lru_cache(100_000)(lambda text: model.asked(tok, text))
        self.answered = lru_cache(10_000)(lambda text: model.answered(tok, text))

    def batch(self, step: int) -> Batch:
        """The batch of one step; no image of it is in another batch of these shares."""
        samples = [
            corpus.sample("train", name, step * share + number)
            for name, share in self.shares.items()
            for number in range(share)
        ]
        order = generator(SEED, "order", step).permutation(len(samples))
        return self.collate([samples[i] for i in order])

    def collate(self, samples: list[Sample]) -> Batch:
        """Samples as tensors, of each the questions that fit into `text` tokens, at least one."""
        labels, rows = [], []
        for one in samples:
            by_grid = {grid: corpus.labels(one.scene, crops.ACROSS * grid) for grid in crops.GRIDS}
            labels.append(token_labels(by_grid, crops.GRIDS))
            rows.append(self._row(one))
        longest = max(self.text, max(len(row[0]) for row in rows))  # one shape, batch after batch
        text = np.zeros((4, len(rows), longest), dtype=np.int64)
        text[0] = self.pad
        for i, row in enumerate(rows):
            text[:, i, : len(row[0])] = row
        ids, segment, place, scored = torch.from_numpy(text)
        pixels = crops.crops(np.stack([one.scene.image for one in samples]), crops.GRIDS)
        return Batch(
            pixels=torch.from_numpy(pixels).flatten(0, 1), labels=torch.from_numpy(np.stack(labels)),
            ids=ids, segment=segment, place=place, scored=scored.bool(),
        )  # fmt: skip

    def _row(self, one: Sample) -> tuple[list[int], list[int], list[int], list[int]]:
        ids: list[int] = []
        segment: list[int] = []
        place: list[int] = []
        scored: list[int] = []
        for number, question in enumerate(one.questions, start=1):
            start, end = self.asked(question.text), self.answered(question.answer)
            length = len(start) + len(end)
            if ids and len(ids) + length > self.text:
                break
            ids += [*start, *end]
            segment += [number] * length
            place += range(length)
            scored += [0] * (len(start) - 1) + [1] * len(end) + [0]
        return ids, segment, place, scored


def token_labels(by_grid: dict[int, npt.NDArray[np.int64]], grids: tuple[int, ...]) -> npt.NDArray[np.int64]:
    """Labels of regions, (4 grid, 4 grid, n) for each grid, in the order of the tokens, (tokens, n)."""
    told, across = [], crops.ACROSS
    for grid in grids:
        regions = by_grid[grid]
        cut = regions.reshape(grid, across, grid, across, -1).transpose(0, 2, 1, 3, 4)
        told.append(cut.reshape(grid * grid * crops.TOKENS, -1))
    return np.concatenate(told)


def mask(segment: Tensor, vision: Tensor) -> Tensor:
    """Who attends to whom in rows of vision tokens, of which `vision` (images, tokens) are there, and then text.

    (images, 1, length, length), to be added to the attention's scores, 0 or very low: eager attention would add a mask
    of truth values as 0 and 1, and hide nothing.
    """
    rows, tokens = vision.shape
    whole = torch.cat([segment.new_zeros(rows, tokens), segment], dim=1)
    image = torch.cat([vision, torch.zeros_like(segment, dtype=torch.bool)], dim=1)
    text = torch.arange(whole.shape[1]) >= tokens
    seen = image[:, None, :] | ((whole[:, :, None] == whole[:, None, :]) & text)
    seen &= torch.ones(whole.shape[1], whole.shape[1], dtype=torch.bool).tril()
    return torch.where(seen, 0.0, HIDDEN)[:, None]


def positions(batch: Batch, vision: Tensor) -> Tensor:
    """Positions (images, vision + text), each question's after the vision tokens that are there."""
    image = (vision.cumsum(1) - 1).clamp(min=0)
    return torch.cat([image, batch.place + vision.sum(1, keepdim=True)], dim=1)
