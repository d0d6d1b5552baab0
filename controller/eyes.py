"""What a vision-language model sees of an image at a tier: crops, features of the tower, vision tokens.

Knob 1 is one rule for every model: the whole image once, then the same image cut into a square grid of crops: low is
the whole alone, medium adds 2x2, high 3x3. The ratio of the sides is not kept, so all images of a tier have the same
shapes and can be computed together. (Molmo2 puts a grid after every whole image: at the low tier a grid of one.)
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from controller import crops
from suite.errors import UserError
from suite.models.quiet import quiet


class Eyes(Protocol):
    """The vision side of one family of models."""

    two_way: bool
    """Whether vision tokens also attend to those after them."""

    def pixels(self, image: Image.Image, tier: str) -> Tensor:
        """Crops of one image, (crops, ...), on the CPU."""
        ...

    def encode(self, pixels: Tensor) -> Tensor:
        """Features of the vision tower, (n, features, its width), from pixels (n, crops, ...)."""
        ...

    def project(self, features: Tensor) -> Tensor:
        """Vision tokens (n, tokens, width of the decoder)."""
        ...

    def tokens(self, tier: str) -> int:
        """Vision tokens of an image."""
        ...


class LlavaEyes:
    """A Llava's: tower and projector crop by crop, their tokens one after the other."""

    two_way = False

    def __init__(self, model: Any, folder: Path) -> None:
        """Of a model whose image processor lies in `folder`.

        Raises:
            UserError: there is none.
        """
        config = model.config
        self._tower, self._projector = model.model.vision_tower, model.model.multi_modal_projector
        layers = config.vision_feature_layer
        self._layers = [layers] if isinstance(layers, int) else list(layers)
        self._first = 1 if config.vision_feature_select_strategy == "default" else 0  # after the class token
        side, channels = config.vision_config.image_size, config.vision_config.num_channels
        self._cut = _embedded if channels == crops.CHANNELS else _processed(folder, side)
        # asked of the model, because a config's image_seq_length is often left at its default
        blank = torch.zeros(1, 1, channels, side, side, device=model.device, dtype=model.dtype)
        with torch.inference_mode():
            self._per_crop = self.project(self.encode(blank)).shape[1]

    def tokens(self, tier: str) -> int:
        """See `Eyes`."""
        return crops.count(tier) * self._per_crop

    def pixels(self, image: Image.Image, tier: str) -> Tensor:
        """See `Eyes`; (crops, channels, side, side)."""
        return self._cut(crops.rgb(image), tier)

    def encode(self, pixels: Tensor) -> Tensor:
        """See `Eyes`."""
        hidden = self._tower(pixels.flatten(0, 1), output_hidden_states=True).hidden_states
        features = torch.cat([hidden[layer][:, self._first :] for layer in self._layers], dim=-1)
        return features.reshape(len(pixels), -1, features.shape[-1])

    def project(self, features: Tensor) -> Tensor:
        """See `Eyes`."""
        tokens: Tensor = self._projector(features)
        return tokens


def _embedded(image: Image.Image, tier: str) -> Tensor:
    """The embedded model's crops, which tell where they lie, of an image resized to 96x96."""
    square = image.resize((crops.SIDE, crops.SIDE), Image.Resampling.BILINEAR)
    return torch.from_numpy(crops.crops(np.asarray(square)[None], crops.TIERS[tier])[0])


def _processed(folder: Path, side: int) -> Callable[[Image.Image, str], Tensor]:
    """Crops of the tower's own size, through the model's image processor."""
    from transformers import AutoImageProcessor

    try:
        with quiet():
            processor: Any = AutoImageProcessor.from_pretrained(folder, local_files_only=True)  # type: ignore[no-untyped-call]
    except (OSError, ValueError) as error:
        raise UserError(
            f"{folder} has no image processor that loads here (preprocessor_config.json); copy the one of the model."
        ) from error

    def cut(image: Image.Image, tier: str) -> Tensor:
        tiles = [tile for grid in crops.TIERS[tier] for tile in crops.tiles(image, grid, side)]
        seen: Tensor = processor(tiles, return_tensors="pt")["pixel_values"]
        return seen

    return cut
