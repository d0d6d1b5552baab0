"""What a controller sees of a sample and of its budget, computed once.

Of the question the mean of its word embeddings (stage 1 sees no more); of the image at each tier the mean of its
projected vision tokens (stage 2 sees that of the tier that stage 1 chose).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from controller.shared import Chunk
from suite.errors import ConfigError


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
    language = [adapter.language(question) for question in chunk.questions]
    return Features(language=torch.stack(language).cpu(), vision=torch.stack(pooled, dim=1).cpu())


def pool(tokens: Tensor) -> Tensor:
    """Mean of vision tokens (n, tokens, width): (n, width), float32."""
    return tokens.float().mean(1)


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


def budget_features(budgets_ms: Tensor, low_ms: float, high_ms: float, size: int) -> Tensor:
    """Sinusoidal features of budgets, (m, size): sines, then cosines, of half a turn up to eight turns over the range.

    A budget's place between `low_ms` (0) and `high_ms` (1) is taken on a logarithmic scale, because what matters is
    relative: the reward divides the overrun by the budget, and configurations lie closer to each other at the cheap
    end. Budgets beyond the range count as its ends: under the cheapest configuration only the cheapest is left, over
    the dearest nothing more can be bought.

    Args:
        budgets_ms: (m,).
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
    place = (budgets_ms.float().clamp(low_ms, high_ms) / low_ms).log() / math.log(high_ms / low_ms)
    angles = place[:, None] * math.pi * torch.logspace(0, 4, size // 2, base=2.0, device=place.device)
    return torch.cat([angles.sin(), angles.cos()], dim=1)
