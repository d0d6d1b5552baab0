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
"""Scale of the entropy in the bound of `adaedl`."""
TEMPERATURES = torch.linspace(0.1, 2.0, 20, dtype=torch.float64)
"""At which `uncertainty` asks the edge again."""


def always(drafted: Drafted, threshold: float) -> bool:
    """Every token is verified: classic speculative decoding (Leviathan et al. 2023, arXiv:2211.17192)."""
    return True


def entropy(drafted: Drafted, threshold: float) -> bool:
    """H(q) > threshold, q the edge's softmax at temperature 1, in nats (the reference study's gate).

    At threshold 0 a token goes even if its entropy is exactly 0, so that 0 reduces to `always`; inf reduces to the
    edge alone.
    """
    assert drafted.entropy_nats is not None
    return drafted.entropy_nats > threshold or threshold == 0.0


def confidence(drafted: Drafted, threshold: float) -> bool:
    """Largest q < threshold (Big Little Decoder's fallback: Kim et al. 2023, arXiv:2302.07863, section 3.2)."""
    assert drafted.confidence is not None
    return drafted.confidence < threshold


def adaedl(drafted: Drafted, threshold: float) -> bool:
    """1 - sqrt(gamma H(q)) < threshold: a lower bound on the acceptance rate, from entropy alone.

    AdaEDL (Agrawal et al. 2024, arXiv:2410.18351, section 3); there the threshold lambda follows the acceptance.
    """
    assert drafted.entropy_nats is not None
    return 1.0 - math.sqrt(ADAEDL_GAMMA * drafted.entropy_nats) < threshold


def uhlm(drafted: Drafted, threshold: float) -> bool:
    """Uncertainty u > threshold, u the chance that the edge, asked again at another temperature, says another token.

    Uncertainty-aware hybrid inference (Oh et al. 2024, arXiv:2412.12687, section III).
    """
    if drafted.uncertainty is None:
        assert drafted.logits is not None
        drafted.uncertainty = uncertainty(drafted.logits, drafted.column)
    return drafted.uncertainty > threshold


def random(drafted: Drafted, threshold: float) -> bool:
    """A lot of probability `threshold`: the bound below which a gate knows nothing, at the same rate of calls."""
    return drafted.chance < threshold


def oracle(drafted: Drafted, threshold: float) -> bool:
    """-log p(token) > threshold under the cloud, in nats: it sends what the cloud would mind most.

    An upper bound on what a gate can know. It peeks at the cloud without a call, so its times mean nothing.
    """
    assert drafted.surprise_nats is not None
    return drafted.surprise_nats > threshold


def uncertainty(logits: Tensor, column: int) -> float:
    """Mean over `TEMPERATURES` of the probability that a draw differs from the one at `column`; logits (columns,)."""
    scaled = logits.double()[None] / TEMPERATURES.to(logits.device)[:, None]
    return float(1.0 - torch.softmax(scaled, dim=-1)[:, column].mean())


GATES: dict[str, Gate] = {
    "always": always,
    "entropy": entropy,
    "confidence": confidence,
    "adaedl": adaedl,
    "uhlm": uhlm,
    "random": random,
    "oracle": oracle,
}
