"""The eyes of Molmo2: overlapping crops, a pooling projector, and marks around the vision tokens.

The crops, their patches and their pooling follow `Molmo2ImageProcessor` and `Molmo2Processor` of transformers, for a
canvas of grid x grid crops whatever the image's shape is. Here they need no torchvision.
"""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from controller import crops

DEFAULTS: dict[str, Any] = {
    "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "overlap_margins": [4, 4], "pooling_size": [2, 2],
    "image_use_col_tokens": True, "use_single_crop_col_tokens": None, "use_single_crop_start_token": True,
}  # fmt: skip
"""Of both processors of transformers; a model's own files override them."""
PATCH, COLUMN = "<im_patch>", "<im_col>"


class Molmo2Eyes:
    """Molmo2's: the whole image, then the grid; see `controller.eyes.Eyes`."""

    two_way = True

    def __init__(self, model: Any, tokenizer: Any, folder: Path) -> None:
        """Of a model whose preprocessor_config.json and processor_config.json, if any, lie in `folder`."""
        self._tower, self._projector = model.model.vision_tower, model.model.multi_modal_projector
        self._embedding, self._tok = model.get_input_embeddings(), tokenizer
        self._layers = [n + 1 if n >= 0 else n for n in model.config.adapter_config.vision_feature_layer]
        vision = model.config.vision_config
        self._side, self._patch = vision.image_size[0], vision.patch_size
        self._across = self._side // self._patch  # patches
        self._like = _settings(folder)
        self._left, right = self._like["overlap_margins"]
        self._margin = self._left + right
        self.layout = lru_cache(None)(self._layout)

    def tokens(self, tier: str) -> int:
        """See `Eyes`; the marks around the image included."""
        return len(self.layout(_grid(tier))[0])

    def pixels(self, image: Image.Image, tier: str) -> Tensor:
        """See `Eyes`; (crops, patches, colours of a patch), the whole image first."""
        grid, step = _grid(tier), (self._across - self._margin) * self._patch
        colours = torch.from_numpy(np.array(crops.rgb(image))).permute(2, 0, 1).float()
        canvas = self._normal(colours, grid * step + self._margin * self._patch)
        cut = canvas.unfold(1, self._side, step).unfold(2, self._side, step).flatten(1, 2)
        every = torch.cat([self._normal(colours, self._side)[:, None], cut], dim=1)
        patches = every.unfold(2, self._patch, self._patch).unfold(3, self._patch, self._patch)
        return patches.permute(1, 2, 3, 4, 5, 0).reshape(every.shape[1], self._across**2, -1)

    def encode(self, pixels: Tensor) -> Tensor:
        """See `Eyes`."""
        hidden = self._tower(pixels.flatten(0, 1), output_hidden_states=True).hidden_states
        features = torch.cat([hidden[layer] for layer in self._layers], dim=-1)
        return features.reshape(len(pixels), -1, features.shape[-1])

    def project(self, features: Tensor) -> Tensor:
        """See `Eyes`; the image is added to what its marks mean as words."""
        n, patches, width = features.shape
        ids, pooled = self.layout(round((patches // self._across**2 - 1) ** 0.5))
        ids, pooled = ids.to(features.device), pooled.to(features.device)
        first = torch.arange(n, device=features.device)[:, None, None] * patches
        pooled = torch.where(pooled >= 0, pooled + first, -1).flatten(0, 1)
        seen = self._projector(features.reshape(-1, self._across**2, width), pooled).last_hidden_state
        tokens: Tensor = self._embedding(ids).expand(n, -1, -1).clone()
        tokens[:, ids == self._id(PATCH)] += seen.reshape(n, -1, seen.shape[-1]).to(tokens.dtype)
        return tokens

    def _normal(self, colours: Tensor, side: int) -> Tensor:
        """Colours (3, height, width) of 0 to 255 as a square, normalised; not smoothed, as the model was trained."""
        square = F.interpolate(colours[None], (side, side), mode="bilinear", align_corners=False)[0].round()
        mean, std = (torch.tensor(self._like[name])[:, None, None] for name in ("image_mean", "image_std"))
        return (square.clamp(0, 255) / 255 - mean) / std

    def _id(self, token: str) -> int:
        return int(self._tok.convert_tokens_to_ids(token))

    def _layout(self, grid: int) -> tuple[Tensor, Tensor]:
        """Ids of an image's part of the prompt (tokens,), and the patches that each of its `PATCH` pools, -1 none."""
        like, side = self._like, self._across
        whole = np.arange(side * side).reshape(side, side)
        window = side - self._margin
        at = np.arange(grid * window + self._margin)
        tile = ((at - self._left) // window).clip(0, grid - 1)  # the crop that a row or column of patches is taken from
        inside = at - tile * window
        crop = tile[:, None] * grid + tile[None, :]
        large = (1 + crop) * side * side + inside[:, None] * side + inside[None, :]
        (low, low_grid), (high, high_grid) = (_pool(one, like["pooling_size"]) for one in (whole, large))
        single = like["use_single_crop_col_tokens"]
        start = "<low_res_im_start>" if like["use_single_crop_start_token"] else "<im_start>"
        marks = [
            *_marks(start, *low_grid, columns=like["image_use_col_tokens"] if single is None else single),
            *_marks("<im_start>", *high_grid, columns=like["image_use_col_tokens"]),
        ]
        ids = torch.tensor([self._id(mark) for mark in marks])
        return ids, torch.from_numpy(np.concatenate([low, high]))


def _grid(tier: str) -> int:
    return crops.TIERS[tier][-1]


def _marks(start: str, rows: int, across: int, *, columns: bool) -> list[str]:
    return [start, *([PATCH] * across + [COLUMN] * columns) * rows, "<im_end>"]


def _pool(index: npt.NDArray[np.int64], size: list[int]) -> tuple[npt.NDArray[np.int64], tuple[int, int]]:
    """Patches by pooling window (windows, patches of one), -1 where the last is not full, and rows and columns."""
    gaps = [-length % pool for length, pool in zip(index.shape, size, strict=True)]
    index = np.pad(index, [(gap // 2, (gap + 1) // 2) for gap in gaps], constant_values=-1)
    rows, across = index.shape[0] // size[0], index.shape[1] // size[1]
    windows = index.reshape(rows, size[0], across, size[1]).transpose(0, 2, 1, 3)
    return windows.reshape(rows * across, -1), (rows, across)


def _settings(folder: Path) -> dict[str, Any]:
    told = dict(DEFAULTS)
    for name in ("preprocessor_config.json", "processor_config.json"):
        if (path := folder / name).is_file():
            found = json.loads(path.read_text(encoding="utf-8"))
            found |= found.get("image_processor", {})
            told |= {key: found[key] for key in DEFAULTS if key in found}
    return told
