"""The law of one verified token: a lossless verifier commits the cloud's distribution, and wrong ones are caught."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
import torch

from edgecloud.draft import Drafted
from edgecloud.sampling import Luck, Sampling, draw
from edgecloud.verify import Logits, Verification, Verifier, View, bild, choose, ensemble, lossless, rank

ALPHA = 0.001
SAMPLED = Verification(sampling=Sampling(temperature=1.0), rank_threshold=1)
GREEDY = Verification(sampling=Sampling(), rank_threshold=1)


def random_pairs(count: int, seed: int) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """(name, p, q) over 2 to 9 words: the corner cases first, then random ones from flat to peaked."""
    rng = np.random.default_rng(seed)
    flat, tail = np.full(6, 1 / 6), np.array([0.5, 0.25, 0.125, 0.0625, 0.0625])
    pairs = [
        ("p = q", tail, tail),
        ("p = q, flat", flat, flat),
        ("disjoint", np.array([0.3, 0.7, 0, 0, 0]), np.array([0, 0, 0.2, 0.3, 0.5])),
        ("one-hot p", np.eye(5)[2], tail),
        ("one-hot q", tail, np.eye(5)[3]),
        ("one-hot both, same", np.eye(4)[1], np.eye(4)[1]),
        ("one-hot both, apart", np.eye(4)[1], np.eye(4)[2]),
        ("q inside p", flat, np.array([0.5, 0.5, 0, 0, 0, 0])),
        ("p inside q", np.array([0.5, 0.5, 0, 0, 0, 0]), flat),
        ("reversed", tail, tail[::-1].copy()),
    ]
    for i in range(len(pairs), count):
        words, peak = int(rng.integers(2, 10)), float(rng.choice([0.2, 1.0, 5.0]))
        pairs.append((f"random {i}", rng.dirichlet([peak] * words), rng.dirichlet([peak] * words)))
    return pairs[:count]


def view_of(p: np.ndarray) -> Logits:
    return Logits(torch.from_numpy(p).log().float())


def committed(
    verifier: Verifier, p: np.ndarray, q: np.ndarray, draws: int, sample: str, how: Verification = SAMPLED
) -> np.ndarray:
    """How often each word is committed, over the luck of `draws` positions."""
    luck, view, spread = Luck(0, sample), view_of(p), torch.from_numpy(q)
    # as decode drafts: draw(q, luck of "draft"), for all positions at once
    uniforms = np.array([luck.uniform("draft", i) for i in range(draws)])
    cumulative = np.cumsum(q)
    drafts = np.minimum(np.searchsorted(cumulative, uniforms * cumulative[-1], side="right"), q.nonzero()[0][-1])
    counts = np.zeros(len(p), dtype=int)
    with torch.inference_mode():
        for position, token in enumerate(drafts.tolist()):
            counts[verifier(Drafted(token=token, q=spread), view, how, luck, position)[1]] += 1
    return counts


def p_value(counts: np.ndarray, p: np.ndarray) -> float:
    """Chi-square of counts against p; words p cannot emit must not occur, rare ones are pooled."""
    if counts[p == 0].any():
        return 0.0
    expected = p[p > 0] * counts.sum()
    order = np.argsort(expected)
    seen, expected = counts[p > 0][order], expected[order]
    first = int(np.searchsorted(np.cumsum(expected), 5.0))  # pool the rarest words up to 5 expected counts
    seen, expected = (
        np.append(seen[: first + 1].sum(), seen[first + 1 :]),
        np.append(expected[: first + 1].sum(), expected[first + 1 :]),
    )
    return float(scipy.stats.chisquare(seen, expected).pvalue) if len(seen) > 1 else 1.0


def is_lossless(verifier: Verifier, pairs: list[tuple[str, np.ndarray, np.ndarray]], draws: int) -> bool:
    """Whether no pair refutes it, at ALPHA over all of them (Bonferroni)."""
    return all(p_value(committed(verifier, p, q, draws, name), p) > ALPHA / len(pairs) for name, p, q in pairs)


def test_lossless_commits_the_clouds_distribution() -> None:
    assert is_lossless(lossless, random_pairs(14, seed=1), draws=6000)


@pytest.mark.slow
def test_lossless_commits_the_clouds_distribution_over_50_pairs_of_200k_draws() -> None:
    assert is_lossless(lossless, random_pairs(50, seed=2), draws=200_000)


@pytest.mark.parametrize("weight", [0.0, 0.3, 0.8, 1.0])
def test_ensemble_commits_the_mixture(weight: float) -> None:
    how = Verification(sampling=SAMPLED.sampling, cloud_weight=weight)
    pairs = random_pairs(13, seed=4)
    for name, p, q in pairs:
        counts = committed(ensemble, p, q, draws=2500, sample=name, how=how)
        assert p_value(counts, weight * p + (1 - weight) * q) > ALPHA / (4 * len(pairs)), name
        if name in ("reversed", "disjoint") and weight < 1.0:  # and it can be told from the cloud's own
            assert p_value(counts, p) < 1e-6


def test_bild_of_threshold_zero_commits_the_clouds_distribution() -> None:
    """Every token that the cloud might not have said is then drawn anew, from the cloud."""
    how = Verification(sampling=SAMPLED.sampling, surprise_threshold_nats=0.0)
    pairs = random_pairs(13, seed=5)
    for name, p, q in pairs:
        assert p_value(committed(bild, p, q, 2500, name, how), p) > ALPHA / len(pairs), name


def greedy_q(drafted: Drafted, view: View, how: Verification, luck: Luck, position: int) -> tuple[bool, int]:
    """Wrong: the draft was greedy, yet is judged by a q it was not drawn from.

    The converse, a drawn draft judged by the one-hot q of its token, is lossless too: it merely accepts less.
    """
    assert drafted.q is not None
    return lossless(Drafted(token=int(drafted.q.argmax()), q=drafted.q), view, how, luck, position)


def residual_by(kind: str) -> Verifier:
    """Wrong in what replaces a refused token."""

    def verifier(drafted: Drafted, view: View, how: Verification, luck: Luck, position: int) -> tuple[bool, int]:
        stands, token = lossless(drafted, view, how, luck, position)
        if stands:
            return stands, token
        assert drafted.q is not None
        p, u = view.probabilities(how.sampling), luck.uniform("replace", position)
        residual = (p - drafted.q).clamp(min=0.0)
        if kind == "unnormalised":
            return False, min(int(torch.searchsorted(residual.cumsum(-1), u, right=True)), len(p) - 1)
        if kind == "argmax":
            return False, int(residual.argmax())
        return False, draw({"p": p, "q": drafted.q, "q - p": (drafted.q - p).clamp(min=0.0)}[kind], u)

    return verifier


def off_by_one(drafted: Drafted, view: View, how: Verification, luck: Luck, position: int) -> tuple[bool, int]:
    """Wrong: judges by the logits of another position."""
    assert isinstance(view, Logits)
    return lossless(drafted, Logits(view.logits.roll(1)), how, luck, position)


def same_luck(drafted: Drafted, view: View, how: Verification, luck: Luck, position: int) -> tuple[bool, int]:
    """Wrong: accepts with the uniform that drew the draft."""

    class Reused(Luck):
        def uniform(self, purpose: str, position: int) -> float:
            return luck.uniform("draft" if purpose == "accept" else purpose, position)

    return lossless(drafted, view, how, Reused(0, ""), position)


def always_stands(drafted: Drafted, view: View, how: Verification, luck: Luck, position: int) -> tuple[bool, int]:
    return True, drafted.token


BUGS: dict[str, Verifier] = {
    "greedy q": greedy_q,
    "unnormalised residual": residual_by("unnormalised"),
    "argmax residual": residual_by("argmax"),
    "residual is p": residual_by("p"),
    "residual is q": residual_by("q"),
    "residual is q - p": residual_by("q - p"),
    "off by one": off_by_one,
    "accept reuses the draft's luck": same_luck,
    "always stands": always_stands,
}


@pytest.mark.parametrize("bug", BUGS)
def test_the_test_of_losslessness_fails_on(bug: str) -> None:
    pairs = [pair for pair in random_pairs(14, seed=1) if pair[0] in ("reversed", "random 10", "random 11")]
    assert is_lossless(lossless, pairs, draws=1500)
    assert not is_lossless(BUGS[bug], pairs, draws=1500)


def test_acceptance_rate_is_one_minus_total_variation() -> None:
    """Leviathan et al. 2023, corollary 3.6: the expected acceptance is sum min(p, q)."""
    for name, p, q in random_pairs(14, seed=3)[9:]:
        luck, view, spread = Luck(0, name), view_of(p), torch.from_numpy(q)
        stands = 0
        for position in range(1000):
            token = draw(spread, luck.uniform("draft", position))
            stands += lossless(Drafted(token=token, q=spread), view, SAMPLED, luck, position)[0]
        assert stands / 1000 == pytest.approx(float(np.minimum(p, q).sum()), abs=0.06)


def test_p_equals_q_leaves_no_residual_and_p_is_drawn_instead() -> None:
    """p = q up to rounding: q exceeds p by an ulp at the drafted token and nowhere falls short of it."""
    logits = torch.log(torch.tensor([0.5, 0.3, 0.2]))
    p = SAMPLED.sampling.probabilities(logits)
    q = p * (1 + 2**-30)

    class FakeLuck(Luck):
        def uniform(self, purpose: str, position: int) -> float:
            return {"accept": float(np.nextafter(1.0, 0.0)), "replace": [0.1, 0.6, 0.9][position]}[purpose]

    for position, expected in enumerate([0, 1, 2]):
        found = lossless(Drafted(token=1, q=q), Logits(logits), SAMPLED, FakeLuck(0, ""), position)
        assert found == (False, expected)
        assert lossless(Drafted(token=1, q=p), Logits(logits), SAMPLED, FakeLuck(0, ""), position) == (True, 1)


def test_a_token_the_cloud_cannot_emit_never_stands_even_at_luck_zero() -> None:
    class FakeLuck(Luck):
        def uniform(self, purpose: str, position: int) -> float:
            return 0.0

    q = torch.tensor([0.5, 0.5, 0.0], dtype=torch.float64)
    logits = torch.tensor([-math.inf, 1.0, 1.0])
    assert lossless(Drafted(token=0, q=q), Logits(logits), SAMPLED, FakeLuck(0, ""), 0) == (False, 2)


@pytest.mark.parametrize("seed", range(20))
def test_greedy_lossless_and_rank_one_are_argmax(seed: int) -> None:
    logits = torch.randint(0, 4, (12,), generator=torch.Generator().manual_seed(seed)).float()  # with ties
    view, best = Logits(logits), int(logits.argmax())
    for token in range(12):
        drafted = Drafted(token=token)
        expected = (token == best, best)
        assert lossless(drafted, view, GREEDY, Luck(0, ""), 0) == expected
        assert rank(drafted, view, GREEDY, Luck(0, ""), 0) == expected


def test_rank_accepts_exactly_the_top_r() -> None:
    view = Logits(torch.tensor([0.0, 3.0, 1.0, 3.0, -math.inf, 2.0]))
    order = [1, 3, 5, 2, 0, 4]  # ties by token id
    for r in range(1, 7):
        how = Verification(sampling=Sampling(), rank_threshold=r)
        for token in range(6):
            found = rank(Drafted(token=token), view, how, Luck(0, ""), 0)
            assert found == ((True, token) if token in order[:r] else (False, 1))


def test_bild_refuses_what_surprises_the_cloud_by_more_than_the_threshold() -> None:
    p = np.array([0.5, 0.25, 0.2, 0.05])
    for nats in (0.0, 0.1, 0.7, 1.0, 1.5, 2.0, 3.0, math.inf):
        how = Verification(sampling=Sampling(), surprise_threshold_nats=nats)
        for token in range(4):
            stands = -math.log(p[token]) <= nats or token == 0  # the cloud's own token is never rolled back
            expected = (True, token) if stands else (False, 0)
            assert bild(Drafted(token=token), view_of(p), how, Luck(0, ""), 0) == expected


def test_greedy_ensemble_accepts_the_argmax_of_the_mixture() -> None:
    p, q = np.array([0.5, 0.4, 0.1]), np.array([0.1, 0.3, 0.6])
    for weight, best in ((1.0, 0), (0.9, 0), (0.55, 1), (0.3, 2), (0.0, 2)):
        how = Verification(sampling=Sampling(), cloud_weight=weight)
        assert best == int((weight * p + (1 - weight) * q).argmax())
        for token in range(3):
            d = Drafted(token=token, q=torch.from_numpy(q))
            assert ensemble(d, view_of(p), how, Luck(0, ""), 0) == (token == best, best)


def test_the_clouds_own_token_follows_its_distribution_with_the_luck_of_replace() -> None:
    p = np.array([0.6, 0.3, 0.1])
    view, luck = view_of(p), Luck(0, "own")
    counts = np.bincount([choose(view, SAMPLED.sampling, luck, i) for i in range(3000)], minlength=3)
    assert p_value(counts, p) > ALPHA
    assert choose(view, Sampling(), luck, 0) == 0
    assert choose(view, SAMPLED.sampling, luck, 7) == draw(torch.from_numpy(p), luck.uniform("replace", 7))
