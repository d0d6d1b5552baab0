"""What a controller sees of a sample and of its budget, computed once.

Of the question the mean of its word embeddings (stage 1 sees no more); of the image at each tier the mean of its
projected vision tokens (stage 2 sees that of the tier that stage 1 chose).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from controller.shared import Chunk
from suite.errors import ConfigError

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Features:
    """Of n samples, float32 on the CPU."""

    language: Tensor
    """(n, width)."""
    vision: Tensor
    """(n, tiers, width), in the order of `Space.tiers`."""


def look(chunk: Chunk) -> Features:
    """Features of a chunk; its vision tokens are computed where they were not yet."""
    adapter = chunk.adapter
    pooled = [pool(chunk.vision(tier)) for tier in adapter.space.tiers]
    language = [adapter.language(*asked) for asked in zip(chunk.questions, chunk.ids, strict=True)]
    return Features(language=torch.from_numpy(np.stack(language)), vision=torch.stack(pooled, dim=1).cpu())


def pool(tokens: Tensor) -> Tensor:
    """Mean of vision tokens (n, tokens, width): (n, width), float32."""
    return tokens.float().mean(1)


def pool_one(tokens: Tensor) -> npt.NDArray[np.float32]:
    """The same of one image (1, tokens, width): (width,). Numpy, which has it before torch has begun."""
    rows = tokens[0].float().cpu().numpy()
    mean: npt.NDArray[np.float32] = np.add.reduce(rows, axis=0) / np.float32(len(rows))
    return mean


def join(parts: Sequence[Features]) -> Features:
    """Features of all chunks, one after the other."""
    return Features(
        language=torch.cat([part.language for part in parts]), vision=torch.cat([part.vision for part in parts])
    )


def write(path: Path, features: Features) -> None:
    """Store as safetensors."""
    save_file({"language": features.language, "vision": features.vision}, path)


def read(path: Path) -> Features:
    """The stored features."""
    stored = load_file(path)
    return Features(language=stored["language"], vision=stored["vision"])


@cache
def budget_features(budget_ms: float, low_ms: float, high_ms: float, size: int) -> Floats:
    """Sinusoidal features of a budget, (size,): sines, then cosines, of half a turn up to eight turns over the range.

    A budget's place between `low_ms` (0) and `high_ms` (1) is taken on a logarithmic scale, because what matters is
    relative: the reward divides the overrun by the budget, and configurations lie closer to each other at the cheap
    end. Budgets beyond the range count as its ends: under the cheapest configuration only the cheapest is left, over
    the dearest nothing more can be bought. Kept once computed: a budget is set once and asked of many samples.

    Args:
        budget_ms: one.
        low_ms: for example what the cheapest configuration takes.
        high_ms: for example what the dearest takes.
        size: number of features, even.

    Raises:
        ConfigError: the range is empty, or the size is not even.
    """
    if not 0 < low_ms < high_ms:
        raise ConfigError(f"budgets from {low_ms:g} to {high_ms:g} ms are no range; give 0 < low < high.")
    if size < 2 or size % 2:
        raise ConfigError(f"{size} budget features cannot be half sines, half cosines; give an even number.")
    place = math.log(min(max(budget_ms, low_ms), high_ms) / low_ms) / math.log(high_ms / low_ms)
    angles = [place * turns for turns in _turns(size // 2)]  # for so few numbers numpy is slower
    encoded = np.array([*map(math.sin, angles), *map(math.cos, angles)])
    encoded.flags.writeable = False
    return encoded


@cache
def _turns(count: int) -> list[float]:
    """Angles over the whole range of budgets."""
    turns: list[float] = (math.pi * np.logspace(0, 4, count, base=2.0)).tolist()
    return turns
