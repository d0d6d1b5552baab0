"""Counter-based randomness: a draw depends on (seed, sample, purpose, step), never on the order of calls.

So strategies and sweep points face the same luck, a resumed run equals an uninterrupted one, and parallel equals
serial. Philox: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3".
"""

from __future__ import annotations

import hashlib

import numpy as np


def generator(seed: int, *key: str | int) -> np.random.Generator:
    """A generator of its own for every (seed, key...)."""
    digest = hashlib.blake2b(repr((seed, *key)).encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little")))
