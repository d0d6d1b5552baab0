"""Gates: is the edge unsure of a drafted token. Tokens it is sure of are committed unverified.

With any gate but `always`, decoding is no longer lossless: call it gated. The same predicates also stop a draft early
(`task.draft_stop`): then the token it stops at is sent with its block, all of it is verified, and nothing is lost.
Each takes the drafted token and a threshold.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from edgecloud.draft import Drafted

Gate = Callable[[Drafted, float], bool]

ADAEDL_GAMMA = 0.2
"""Scale of the entropy (nats) in the bound of `adaedl`, as its authors set it."""
TEMPERATURES = torch.linspace(0.1, 2.0, 20, dtype=torch.float64)
"""At which `uncertainty` asks the edge again."""


def always(drafted: Drafted, threshold: float) -> bool:
    """Every token is verified: classic speculative decoding (Leviathan et al. 2023, arXiv:2211.17192)."""
    return True


def entropy(drafted: Drafted, threshold: float) -> bool:
    """H(q) > threshold, q the edge's softmax at temperature 1, in nats (the reference study's gate).

    0 is `always`, inf the edge alone.
    """
    assert drafted.entropy_nats is not None
    return _above(drafted.entropy_nats, threshold)


def confidence(drafted: Drafted, threshold: float) -> bool:
    """Largest q < threshold; 1 is `always`, 0 the edge alone.

    Big Little Decoder's fallback policy (Kim et al. 2023, arXiv:2302.07863; 0.6 is its code's default), but for one
    thing: there the cloud writes the next token unseen, here it judges the one that the edge has drafted.
    """
    assert drafted.confidence is not None
    return _below(drafted.confidence, threshold)


def adaedl(drafted: Drafted, threshold: float) -> bool:
    """1 - sqrt(gamma H(q)) < threshold: a lower bound on the acceptance rate, from entropy alone.

    1 is `always`, anything far below 0 the edge alone. AdaEDL (Agrawal et al. 2024, arXiv:2410.18351) stops drafting by
    it, and lets the threshold follow the acceptance seen so far; here it stays as set.
    """
    assert drafted.entropy_nats is not None
    return _below(1.0 - math.sqrt(ADAEDL_GAMMA * drafted.entropy_nats), threshold)


def uhlm(drafted: Drafted, threshold: float) -> bool:
    """Uncertainty u > threshold, u the chance that the edge, asked again at another temperature, says another token.

    0 is `always`, 1 the edge alone. Uncertainty-aware hybrid inference (U-HLM: Oh et al. 2024, arXiv:2412.12687) draws
    one token at each of 20 temperatures up to 2 and counts those that differ from the draft; here as an expectation,
    see `uncertainty`, so that no luck is in it.
    """
    if drafted.uncertainty is None:
        assert drafted.logits is not None
        drafted.uncertainty = uncertainty(drafted.logits, drafted.column)
    return _above(drafted.uncertainty, threshold)


def random(drafted: Drafted, threshold: float) -> bool:
    """A lot of probability `threshold`: what a gate that knows nothing does at that rate, so the bound below.

    1 is `always`, 0 the edge alone.
    """
    return drafted.chance < threshold


def oracle(drafted: Drafted, threshold: float) -> bool:
    """-log p(token) > threshold under the cloud, in nats: it sends what the cloud would mind most.

    An upper bound on what a gate can know; 0 is `always`, inf the edge alone. It peeks at the cloud without a call, so
    its times mean nothing.
    """
    assert drafted.surprise_nats is not None
    return _above(drafted.surprise_nats, threshold)


def uncertainty(logits: Tensor, column: int) -> float:
    """Mean over `TEMPERATURES` of the probability that a draw differs from the one at `column`; logits (columns,)."""
    scaled = logits.double()[None] / TEMPERATURES.to(logits.device)[:, None]
    return float(1.0 - torch.softmax(scaled, dim=-1)[:, column].mean())


# The comparisons are strict, yet a token at the very end of the scale (an edge certain to the last bit) must not slip
# through a threshold that means `always`.


def _above(value: float, threshold: float) -> bool:
    return value > threshold or threshold == 0.0


def _below(value: float, threshold: float) -> bool:
    return value < threshold or threshold == 1.0


GATES: dict[str, Gate] = {
    "always": always,
    "entropy": entropy,
    "confidence": confidence,
    "adaedl": adaedl,
    "uhlm": uhlm,
    "random": random,
    "oracle": oracle,
}
