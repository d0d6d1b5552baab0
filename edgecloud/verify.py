"""Verifiers: does a drafted token stand, and what replaces it if not.

Each takes the drafted token and the cloud's logits at its position and returns (stands, token to commit).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from edgecloud.sampling import Luck, Sampling, draw


@dataclass(slots=True)
class Drafted:
    """A token the edge proposed."""

    token: int
    entropy_nats: float
    q: Tensor | None
    """The distribution it was drawn from, (vocab,) by token id; None when greedy."""
    at_s: float
    """When it was drafted, seconds since the sample began (measured)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """What a verifier may look at besides the token."""

    sampling: Sampling
    rank_threshold: int


Verifier = Callable[[Drafted, Tensor, Verification, Luck, int], tuple[bool, int]]


def lossless(drafted: Drafted, logits: Tensor, how: Verification, luck: Luck, position: int) -> tuple[bool, int]:
    """Accept with probability min(1, p/q), else draw from the residual (p - q)+ renormalised.

    The committed token is distributed as the cloud's own (Leviathan et al. 2023, arXiv:2211.17192, section 2.3 and
    appendix A.1; Chen et al. 2023, arXiv:2302.01318). Greedy is its limit: accept the argmax.
    """
    if how.sampling.greedy:
        best = int(logits.argmax())
        return best == drafted.token, best
    assert drafted.q is not None
    p = how.sampling.probabilities(logits)
    q = drafted.q.to(p.device)  # the edge may be on another one
    if luck.uniform("accept", position) * float(q[drafted.token]) < float(p[drafted.token]):
        return True, drafted.token
    residual = (p - q).clamp(min=0.0)
    # q = p up to rounding leaves no residual mass; p itself is then the right distribution
    return False, draw(residual if float(residual.sum()) > 0.0 else p, luck.uniform("replace", position))


def rank(drafted: Drafted, logits: Tensor, how: Verification, luck: Luck, position: int) -> tuple[bool, int]:
    """Accept a token among the cloud's top r, else take the cloud's token (the reference study's rule).

    Not lossless beyond greedy r = 1. Ties rank by token id, as argmax breaks them, so r = 1 is argmax exactly.
    """
    own = logits[drafted.token]
    above = int((logits > own).sum()) + int((logits[: drafted.token] == own).sum())
    if above < how.rank_threshold:
        return True, drafted.token
    return False, choose(logits, how.sampling, luck, position)


def choose(logits: Tensor, sampling: Sampling, luck: Luck, position: int) -> int:
    """The cloud's own token: argmax, or a draw with the position's `replace` uniform."""
    if sampling.greedy:
        return int(logits.argmax())
    return draw(sampling.probabilities(logits), luck.uniform("replace", position))


VERIFIERS: dict[str, Verifier] = {"lossless": lossless, "rank": rank}
