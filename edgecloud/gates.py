"""Gates: which drafted tokens go to the cloud at all. A token that stays is committed unverified.

With any gate but `always`, decoding is no longer lossless: call it gated.
"""

from __future__ import annotations

from collections.abc import Callable

Gate = Callable[[float, float], bool]


def always(entropy_nats: float, threshold: float) -> bool:
    """Every token is verified: classic speculative decoding (Leviathan et al. 2023, arXiv:2211.17192)."""
    return True


def entropy(entropy_nats: float, threshold: float) -> bool:
    """H(q) > threshold, q the edge's softmax at temperature 1, in nats.

    At threshold 0 a token goes even if its entropy is exactly 0, so that 0 reduces to `always`; inf reduces to the
    edge alone.
    """
    return entropy_nats > threshold or threshold == 0.0


GATES: dict[str, Gate] = {"always": always, "entropy": entropy}
