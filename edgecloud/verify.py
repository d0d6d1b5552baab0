"""Verifiers: does a drafted token stand, and what replaces it if not. `LocalCloud` judges whole blocks with one.

Each verifier takes the drafted token and what the cloud says at its position and returns (stands, token to commit).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from torch import Tensor

from edgecloud.codecs import Codec
from edgecloud.draft import Drafted, EdgeDrafter
from edgecloud.lm import CachedLM, Prompt
from edgecloud.sampling import Luck, Sampling, draw
from suite.errors import UserError


class View(Protocol):
    """What the cloud says of one position: its logits, or the part of them that a trace has kept."""

    def best(self) -> int:
        """The most likely token; the smaller id of equals."""

    def rank(self, token: int) -> int:
        """How many tokens come before it, 0 for `best`; equals come by id."""

    def surprise_nats(self, token: int) -> float:
        """-log of its probability at temperature 1."""

    def probabilities(self, sampling: Sampling) -> Tensor:
        """The distribution (vocab,) a draw is made from."""


class Logits:
    """The `View` on logits (vocab,)."""

    __slots__ = ("logits",)

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits

    def best(self) -> int:
        """See `View`."""
        return int(self.logits.argmax())

    def rank(self, token: int) -> int:
        """See `View`."""
        own = self.logits[token]
        return int((self.logits > own).sum()) + int((self.logits[:token] == own).sum())

    def surprise_nats(self, token: int) -> float:
        """See `View`."""
        return float(self.logits.logsumexp(-1) - self.logits[token])

    def probabilities(self, sampling: Sampling) -> Tensor:
        """See `View`."""
        return sampling.probabilities(self.logits)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """What a verifier may look at besides the token."""

    sampling: Sampling
    rank_threshold: int = 1
    """`rank`: accept among the cloud's top so many."""
    surprise_threshold_nats: float = 5.0
    """`bild`: refuse above."""
    cloud_weight: float = 0.5
    """`ensemble`: share of the cloud's distribution in the mixture."""


Verifier = Callable[[Drafted, View, Verification, Luck, int], tuple[bool, int]]


def lossless(drafted: Drafted, view: View, how: Verification, luck: Luck, position: int) -> tuple[bool, int]:
    """Accept with probability min(1, p/q), else draw from the residual (p - q)+ renormalised.

    The committed token is distributed as the cloud's own (Leviathan et al. 2023, arXiv:2211.17192, section 2.3 and
    appendix A.1; Chen et al. 2023, arXiv:2302.01318). Greedy is its limit: accept the argmax.
    """
    if how.sampling.greedy:
        best = view.best()
        return best == drafted.token, best
    return _judged(drafted, view.probabilities(how.sampling), luck, position)


def rank(drafted: Drafted, view: View, how: Verification, luck: Luck, position: int) -> tuple[bool, int]:
    """Accept a token among the cloud's top r, else take the cloud's token (the reference study's rule).

    Not lossless beyond greedy r = 1. Ties rank by token id, as argmax breaks them, so r = 1 is argmax exactly.
    """
    if view.rank(drafted.token) < how.rank_threshold:
        return True, drafted.token
    return False, choose(view, how.sampling, luck, position)


def bild(drafted: Drafted, view: View, how: Verification, luck: Luck, position: int) -> tuple[bool, int]:
    """Roll back to the earliest token with -log p(token) above the threshold; the cloud's token replaces it.

    Big Little Decoder's rollback policy (Kim et al. 2023, arXiv:2302.07863). As in its authors' code, where the cloud
    comes to the same token there is nothing to roll back: so threshold 0 takes the cloud's token everywhere.
    """
    if view.surprise_nats(drafted.token) <= how.surprise_threshold_nats:
        return True, drafted.token
    token = choose(view, how.sampling, luck, position)
    return token == drafted.token, token


def ensemble(drafted: Drafted, view: View, how: Verification, luck: Luck, position: int) -> tuple[bool, int]:
    """Lossless towards the mixture v = w p + (1 - w) q instead of p; w = 1 is `lossless`, w = 0 accepts everything.

    Greedy: accept the argmax of v, of the two models' softmax at temperature 1. It is about drafted tokens: a bonus
    token, where there is no q, is the cloud's own.
    """
    w = how.cloud_weight
    if how.sampling.greedy:
        assert drafted.q is not None
        mixture = w * view.probabilities(Sampling(temperature=1.0)) + (1 - w) * drafted.q
        best = int(mixture.argmax())
        return best == drafted.token, best
    assert drafted.q is not None
    return _judged(drafted, w * view.probabilities(how.sampling) + (1 - w) * drafted.q, luck, position)


def _judged(drafted: Drafted, p: Tensor, luck: Luck, position: int) -> tuple[bool, int]:
    """Speculative sampling of one token, drawn from q, towards p (vocab,)."""
    assert drafted.q is not None
    q = drafted.q.to(p.device)  # the edge may be on another one
    if luck.uniform("accept", position) * float(q[drafted.token]) < float(p[drafted.token]):
        return True, drafted.token
    residual = (p - q).clamp(min=0.0)
    # q = p up to rounding leaves no residual mass; p itself is then the right distribution
    return False, draw(residual if float(residual.sum()) > 0.0 else p, luck.uniform("replace", position))


def choose(view: View, sampling: Sampling, luck: Luck, position: int) -> int:
    """The cloud's own token: argmax, or a draw with the position's `replace` uniform."""
    if sampling.greedy:
        return view.best()
    return draw(view.probabilities(sampling), luck.uniform("replace", position))


VERIFIERS: dict[str, Verifier] = {"lossless": lossless, "rank": rank, "bild": bild, "ensemble": ensemble}


class Verdict(NamedTuple):
    """A token to commit, and who decided it (`counters.SOURCES`)."""

    token: int
    source: str


class Cloud(Protocol):
    """Judges drafts: in this process, in another one (`edgecloud.remote`), or from a trace (`edgecloud.replay`)."""

    @property
    def seconds(self) -> float:
        """Time in the cloud's model since the last reset (measured)."""

    @property
    def computed(self) -> int:
        """Positions it computed since then, re-computed ones included."""

    def reset(self, prompt: Prompt, luck: Luck) -> None:
        """Begin a sample."""

    def judge(self, emitted: list[int], drafted: list[Drafted], unsure: list[bool], room: int) -> list[Verdict]:
        """One round: verdicts on `drafted`, which follow `emitted`, in order and up to the first refusal.

        Args:
            emitted: tokens of the output so far.
            drafted: at most `room` tokens.
            unsure: which of them are to be verified; the others stand.
            room: tokens that may still be emitted; where it exceeds the draft and all stands, a bonus token follows.
        """

    def peek(self, emitted: list[int], drafted: list[Drafted]) -> list[float]:
        """-log p (nats) of each drafted token, for the oracle gate."""


class LocalCloud:
    """A `Cloud` on a model of this process."""

    def __init__(self, model: CachedLM, verifier: Verifier, how: Verification) -> None:
        """Wrap `model`.

        Raises:
            UserError: its head is shortened, so that it cannot tell the probability of every token.
        """
        if model.columns is not None:
            raise UserError("The cloud model's head is shortened, so it cannot verify; set task.engine=transformers.")
        self.model, self.verifier, self.how = model, verifier, how

    @property
    def seconds(self) -> float:
        """See `Cloud`."""
        return self.model.seconds

    @property
    def computed(self) -> int:
        """See `Cloud`."""
        return self.model.computed

    def reset(self, prompt: Prompt, luck: Luck) -> None:
        """See `Cloud`."""
        self.prompt, self.luck = prompt.tokens, luck
        self.model.reset(prompt.audio)

    def judge(self, emitted: list[int], drafted: list[Drafted], unsure: list[bool], room: int) -> list[Verdict]:
        """See `Cloud`."""
        views = self.views(emitted, drafted[: room - 1])  # the last token of a full output needs no successor
        return judged(views, drafted, unsure, self.verifier, self.how, self.luck, len(emitted))

    def peek(self, emitted: list[int], drafted: list[Drafted]) -> list[float]:
        """See `Cloud`."""
        views = self.views(emitted, drafted[:-1])
        return [view.surprise_nats(d.token) for view, d in zip(views, drafted, strict=True)]

    def views(self, emitted: list[int], fed: list[Drafted]) -> list[View]:
        """What the model says after the prompt and `emitted`, and after each token of `fed`."""
        logits = self.model.logits(self.prompt + emitted + [d.token for d in fed], keep=len(fed) + 1)
        return [Logits(row) for row in logits]


def in_process(
    edge: CachedLM,
    cloud: CachedLM,
    verifier: Verifier,
    how: Verification,
    stop: Callable[[Drafted], bool] | None = None,
    codec: Codec | None = None,
) -> tuple[EdgeDrafter, LocalCloud]:
    """A drafter and a cloud on two models of this process.

    Raises:
        UserError: the two do not know the same token ids, or the cloud cannot verify.
    """
    if edge.vocab != cloud.vocab:
        raise UserError(f"The edge has {edge.vocab} tokens, the cloud {cloud.vocab}; cut both to those they share.")
    drafter = EdgeDrafter(edge, how.sampling, stop, keep_q=verifier is ensemble, codec=codec)
    return drafter, LocalCloud(cloud, verifier, how)


def judged(
    views: list[View],
    drafted: list[Drafted],
    unsure: list[bool],
    verifier: Verifier,
    how: Verification,
    luck: Luck,
    position: int,
) -> list[Verdict]:
    """The verdicts of one round, see `Cloud.judge`; `position` is that of the first drafted token in the output."""
    verdicts = []
    for i, d in enumerate(drafted):
        if not unsure[i]:
            verdicts.append(Verdict(d.token, "edge"))
            continue
        stands, token = verifier(d, views[i], how, luck, position + i)
        verdicts.append(Verdict(token, "accepted" if stands else "corrected"))
        if not stands:
            return verdicts
    if len(views) > len(drafted):
        verdicts.append(Verdict(choose(views[-1], how.sampling, luck, position + len(drafted)), "bonus"))
    return verdicts
