"""From logits to a token: the distribution really sampled from, and draws that belong to a position.

Position p of sample s has its own uniforms for drafting, accepting and replacing (`suite.rng`), so every method and
sweep point faces the same luck. At temperature 0 nothing is drawn.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from suite.rng import generator


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """Temperature and nucleus; temperature 0 is greedy."""

    temperature: float = 0.0
    top_p: float = 1.0

    @property
    def greedy(self) -> bool:
        """Whether a token is the argmax."""
        return self.temperature == 0.0

    def probabilities(self, logits: Tensor) -> Tensor:
        """The distribution (columns,) sampled from, float64 so that 200k draws show no rounding.

        Greedy is the one-hot limit. Nucleus: Holtzman et al. 2020, arXiv:1904.09751, the smallest set of tokens whose
        mass reaches top_p.
        """
        if self.greedy:
            return torch.nn.functional.one_hot(logits.argmax(), len(logits)).double()
        p = torch.softmax(logits.double() / self.temperature, dim=-1)
        if self.top_p < 1.0:
            ordered, index = p.sort(descending=True, stable=True)
            outside = ordered.cumsum(-1) - ordered >= self.top_p
            p = p.index_fill(0, index[outside], 0.0)
            p = p / p.sum()
        return p


def draw(probabilities: Tensor, u: float) -> int:
    """Inverse-CDF draw: the first index whose cumulative mass exceeds u in [0, 1); zero-mass indices never come."""
    cumulative = probabilities.cumsum(-1)
    # the total can fall short of 1 by rounding: scale u instead of letting it run past the last index with mass
    index = int(torch.searchsorted(cumulative, u * cumulative[-1], right=True))
    return min(index, int(probabilities.nonzero()[-1]))


def entropy(logits: Tensor) -> float:
    """Shannon entropy (nats) of softmax(logits), at temperature 1; columns at -inf carry no mass."""
    p = torch.softmax(logits, dim=-1)
    return float(torch.special.entr(p).sum())


class Luck:
    """The uniforms of one sample, by purpose and position."""

    def __init__(self, seed: int, sample: str) -> None:
        self.seed, self.sample = seed, sample
        self._drawn: dict[str, np.ndarray] = {}

    def uniform(self, purpose: str, position: int) -> float:
        """The uniform in [0, 1) of `purpose` (`draft`, `accept`, `replace`) at `position`."""
        if purpose not in self._drawn or position >= len(self._drawn[purpose]):
            self._drawn[purpose] = _uniforms(self.seed, self.sample, purpose, max(1024, 2 * position))
        return float(self._drawn[purpose][position])


@lru_cache(maxsize=4096)  # the jobs of a sweep face the same luck
def _uniforms(seed: int, sample: str, purpose: str, length: int) -> np.ndarray:
    """`length` uniforms; a longer draw begins with the shorter one."""
    return generator(seed, sample, purpose).random(length)
