"""The knobs: image tier, experts a token, decoder blocks; and all settings of them in one fixed order."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True, kw_only=True)
class Knobs:
    """One configuration of the model."""

    tier: str
    """How many crops of the image: low, medium or high."""
    top_k: int
    """Experts a token; 0 for a model that has none."""
    blocks: int
    """Decoder blocks that run, the most important ones."""

    def __str__(self) -> str:
        return f"{self.tier}/k{self.top_k}/b{self.blocks}"


@dataclass(frozen=True, kw_only=True)
class Space:
    """Settings of each knob from cheap to dear, and their product: tier slowest, blocks fastest."""

    tiers: tuple[str, ...]
    top_ks: tuple[int, ...]
    depths: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of settings of each knob."""
        return len(self.tiers), len(self.top_ks), len(self.depths)

    def __len__(self) -> int:
        return len(self.tiers) * len(self.top_ks) * len(self.depths)

    @cached_property
    def configurations(self) -> tuple[Knobs, ...]:
        """Every configuration; column c of all tables of this study is the c-th."""
        product = itertools.product(self.tiers, self.top_ks, self.depths)
        return tuple(Knobs(tier=tier, top_k=top_k, blocks=blocks) for tier, top_k, blocks in product)

    def index(self, knobs: Knobs) -> int:
        """Column of a configuration.

        Raises:
            ValueError: it is none of this space.
        """
        places = (self.tiers.index(knobs.tier), self.top_ks.index(knobs.top_k), self.depths.index(knobs.blocks))
        return int(np.ravel_multi_index(places, self.shape))

    def places(self) -> npt.NDArray[np.int64]:
        """Settings of each configuration by their numbers, (configurations, 3)."""
        return np.stack(np.unravel_index(np.arange(len(self)), self.shape), axis=1)

    @property
    def cheapest(self) -> Knobs:
        """The least of every knob."""
        return self.configurations[0]

    @property
    def dearest(self) -> Knobs:
        """The most of every knob."""
        return self.configurations[-1]


def kept_blocks(importance: Sequence[float], blocks: int) -> tuple[int, ...]:
    """The `blocks` most important blocks in the order they run; of two equally important ones the earlier."""
    order = sorted(range(len(importance)), key=lambda block: (-importance[block], block))
    return tuple(sorted(order[:blocks]))
