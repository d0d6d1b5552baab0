"""Which decoder blocks matter, and whether that is the same on other data (C6).

Two measures of a block. The accuracy that is lost when it alone is removed is the primary one. Block influence,
1 - cos(hidden states in, hidden states out) averaged over the tokens of a sample, needs no second run (Men et al.
2024, "ShortGPT", arXiv:2403.03853, equation 1). Merged scores are means over data sets, so that a large set does not
drown a small one; C7 keeps blocks by the merged accuracy drop.

Every interval is the 95 % percentile bootstrap over samples, drawn within each data set, the same resamples for all
figures. A resample is noisier than the data, which pulls its rank correlations towards 0: where blocks are nearly
equal an interval may lie mostly below its value. So next to the correlations between data sets stands how well a data
set agrees with itself.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from suite.errors import UserError
from suite.rng import generator
from suite.stats import ALPHA, DRAWS, Estimate

Floats = npt.NDArray[np.float64]
Scores = tuple[Estimate, ...]
"""One estimate a block."""

MEASURES = ("accuracy_drop", "block_influence")
MERGED = "merged"
EXPECTED = 0.9
"""What the reference study says of any two VQA data sets."""
_CHUNK, _HALVES = 100, 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """How alike two lists of scores order the blocks; None where one of them does not order them at all."""

    measures: tuple[str, str]
    datasets: tuple[str, str]
    spearman: Estimate
    spearman_rest: Estimate
    """Without the dominating block, which alone can make any two lists correlate."""
    kendall: Estimate
    """Kendall's tau-b."""
    overlap: dict[int, Estimate]
    """m -> share of the m least important blocks that both have in common; m / blocks by chance."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reliability:
    """Spearman of a data set with itself: mean over halves, stepped up to full length; None as in `Agreement`."""

    spearman: float | None
    spearman_rest: float | None


@dataclass(frozen=True, kw_only=True)
class Importance:
    """What C6 finds."""

    scores: dict[str, dict[str, Scores]]
    """Measure -> data set, or `merged` -> one estimate a block."""
    dominating: int
    """Block with the largest merged accuracy drop."""
    agreements: tuple[Agreement, ...]
    """Of every two data sets by each measure, and of the two measures on each data set and merged."""
    reliability: dict[str, Reliability]
    """Of the accuracy drop, by data set."""
    verdict: tuple[str, ...]
    """What becomes of the reference study's two claims, in sentences."""

    @property
    def keep_by(self) -> list[float]:
        """Merged accuracy drop of each block, as `kept_blocks` takes it."""
        return [_value(one) for one in self.scores[MEASURES[0]][MERGED]]

    def to_json(self) -> dict[str, Any]:
        """As stored in importance.json."""
        return asdict(self) | {"keep_by": self.keep_by}


def analyse(
    correct: Floats,
    influence: Floats,
    datasets: Sequence[str],
    *,
    depths: Sequence[int],
    diagrams: Collection[str],
    seed: int,
) -> Importance:
    """Scores, their agreement and the verdict.

    Args:
        correct: (blocks + 1, samples), accuracy 0 to 1; row 0 with no block removed, row 1 + b without block b.
        influence: (samples, blocks), 0 to 2.
        datasets: (samples,), the data set of each.
        depths: settings of the depth knob; overlaps are of the blocks that go at each of them.
        diagrams: those of the data sets that are about diagrams; the others are visual question answering.
        seed: of the resamples.

    Raises:
        UserError: shapes do not fit, a number is missing, or there are too few blocks to order.
    """
    _check(correct, influence, datasets)
    names = tuple(dict.fromkeys(datasets))
    member = {name: np.array(datasets) == name for name in names}
    n = {name: int(rows.sum()) for name, rows in member.items()}
    drops = (correct[0] - correct[1:]).T
    drawn: dict[tuple[str, str], Floats] = {}
    for name, rows in member.items():
        both = _means(np.hstack([drops[rows], influence[rows]]), seed, name)
        drawn |= {(measure, name): half for measure, half in zip(MEASURES, np.split(both, 2, axis=1), strict=True)}
    for measure in MEASURES:
        drawn[measure, MERGED] = np.mean([drawn[measure, name] for name in names], axis=0).round(12)

    dominating = int(drawn["accuracy_drop", MERGED][0].argmax())
    agree = _Agree(drawn=drawn, n=n, dominating=dominating, dropped=_dropped(depths, drops.shape[1]))
    pairs = [((m, a), (m, b)) for m in MEASURES for a, b in itertools.combinations(names, 2)]
    pairs += [((MEASURES[0], name), (MEASURES[1], name)) for name in (*names, MERGED)]
    reliability = {name: _reliability(drops[rows], dominating, seed, name) for name, rows in member.items()}
    return Importance(
        scores={m: {name: agree.scores(m, name) for name in (*names, MERGED)} for m in MEASURES},
        dominating=dominating,
        agreements=tuple(agree.pair(left, right) for left, right in pairs),
        reliability=reliability,
        verdict=_verdict(agree, [name for name in names if name not in diagrams], diagrams, reliability),
    )


def spearman(a: Floats, b: Floats) -> Floats:
    """Spearman's rho of lists of scores (..., blocks), equal scores sharing their mean rank; NaN where all are equal.

    Pearson's formula on ranks; a rank, but for a constant and a factor, is how many scores are less than this one
    minus how many are greater (Daniels 1944, "The relation between measures of correlation", Biometrika 33).
    """
    return _cosine(_order(a).sum(axis=-1), _order(b).sum(axis=-1))


def kendall(a: Floats, b: Floats) -> Floats:
    """Kendall's tau-b of lists of scores (..., blocks); NaN where all are equal.

    Daniels' formula on the comparisons themselves (Kendall 1945, "The treatment of ties in ranking problems").
    """
    return _cosine(*(_order(one).reshape(*one.shape[:-1], -1) for one in (a, b)))


def overlap(a: Floats, b: Floats, m: int) -> Floats:
    """Share of the m least important blocks that two lists (..., blocks) have in common.

    Of equal scores the later block is dropped first, as `kept_blocks` has it.
    """
    gone = [np.argsort(-one, axis=-1, kind="stable")[..., -m:] for one in (a, b)]
    shared: Floats = (gone[0][..., :, None] == gone[1][..., None, :]).sum(axis=(-2, -1)) / m
    return shared


@dataclass(frozen=True, kw_only=True)
class _Agree:
    """The bootstrap: mean scores by (measure, data set), (1 + draws, blocks), row 0 of the data themselves."""

    drawn: Mapping[tuple[str, str], Floats]
    n: Mapping[str, int]
    """Samples of each data set."""
    dominating: int
    dropped: Sequence[int]

    def scores(self, measure: str, name: str) -> Scores:
        """One estimate a block."""
        return tuple(self.estimate(column, [name]) for column in self.drawn[measure, name].T)

    def rest(self, one: tuple[str, str]) -> Floats:
        """Without the dominating block."""
        return np.delete(self.drawn[one], self.dominating, axis=1)

    def pair(self, left: tuple[str, str], right: tuple[str, str]) -> Agreement:
        """Two lists of scores, each by (measure, data set)."""
        a, b, names = self.drawn[left], self.drawn[right], (left[1], right[1])
        return Agreement(
            measures=(left[0], right[0]),
            datasets=names,
            spearman=self.estimate(spearman(a, b), names),
            spearman_rest=self.estimate(spearman(self.rest(left), self.rest(right)), names),
            kendall=self.estimate(kendall(a, b), names),
            overlap={m: self.estimate(overlap(a, b, m), names) for m in self.dropped},
        )

    def gap(self, vqa: Sequence[str], diagrams: Iterable[str], *, rest: bool) -> Estimate:
        """Mean Spearman among VQA data sets minus that between them and diagrams, by accuracy drop."""
        lists = {name: self.rest(key) if rest else self.drawn[key] for name in self.n for key in [(MEASURES[0], name)]}
        among = np.mean([spearman(lists[a], lists[b]) for a, b in itertools.combinations(vqa, 2)], axis=0)
        across = np.mean([spearman(lists[a], lists[b]) for a in vqa for b in diagrams], axis=0)
        return self.estimate(among - across, self.n)

    def estimate(self, values: Floats, names: Iterable[str]) -> Estimate:
        """Row 0 with the quantiles of the others (1 + draws,), those left out in which it is undefined."""
        counts = self.n if MERGED in names else {name: self.n[name] for name in names}
        n, drawn = sum(counts.values()), values[1:][np.isfinite(values[1:])]
        if not np.isfinite(values[0]):
            return Estimate(value=None, ci95=None, n=n)
        if min(counts.values()) < 2 or not len(drawn):
            return Estimate(value=float(values[0]), ci95=None, n=n)
        low, high = np.quantile(drawn, (ALPHA / 2, 1 - ALPHA / 2))
        return Estimate(value=float(values[0]), ci95=(float(low), float(high)), n=n)


def _check(correct: Floats, influence: Floats, datasets: Sequence[str]) -> None:
    rows, samples = correct.shape
    if rows < 4 or samples < 1:
        raise UserError(f"Importance of {rows - 1} blocks on {samples} samples: at least 3 blocks and 1 are needed.")
    if influence.shape != (samples, rows - 1) or len(datasets) != samples:
        raise UserError(
            f"Importance: accuracies of {samples} samples and {rows - 1} blocks, but influence has shape "
            f"{influence.shape} and {len(datasets)} data sets are named; give one row a sample."
        )
    for name, values in (("accuracies", correct), ("influence", influence)):
        if not np.isfinite(values).all():
            raise UserError(f"Importance: {name} of some samples are missing; leave those samples out.")


def _means(values: Floats, seed: int, name: str) -> Floats:
    """Mean over samples of `values` (n, k), of all of them and of each resample: (1 + DRAWS, k)."""
    n = len(values)
    found = [values.mean(axis=0, keepdims=True)]
    for start in range(0, DRAWS, _CHUNK):
        times = generator(seed, name, "importance", start).multinomial(n, np.full(n, 1 / n), size=_CHUNK)
        found.append(times @ values / n)
    means: Floats = np.concatenate(found).round(12)  # rounding errors must not order blocks that are equal
    return means


def _dropped(depths: Sequence[int], blocks: int) -> list[int]:
    return [blocks - depth for depth in depths if 0 < depth < blocks]


def _order(scores: Floats) -> Floats:
    """-1, 0 or 1: is block i less than, equal to or more than block j, (..., blocks, blocks)."""
    order: Floats = np.sign(scores[..., :, None] - scores[..., None, :])
    return order


def _cosine(a: Floats, b: Floats) -> Floats:
    size = np.sqrt((a * a).sum(axis=-1) * (b * b).sum(axis=-1))
    cosine: Floats = np.divide((a * b).sum(axis=-1), size, out=np.full(size.shape, np.nan), where=size > 0)
    return cosine


def _reliability(drops: Floats, dominating: int, seed: int, name: str) -> Reliability:
    """Random halves of `drops` (n, blocks) against each other; Spearman 1910 and Brown 1910 for the full length."""
    n = len(drops)
    if n < 2:
        return Reliability(spearman=None, spearman_rest=None)
    rank = generator(seed, name, "halves").random((_HALVES, n)).argsort(axis=1).argsort(axis=1)
    first = (rank < n // 2).astype(float)
    halves = (first @ drops / (n // 2)).round(12), ((1 - first) @ drops / (n - n // 2)).round(12)
    rest = [np.delete(half, dominating, axis=1) for half in halves]
    return Reliability(spearman=_stepped_up(spearman(*halves)), spearman_rest=_stepped_up(spearman(rest[0], rest[1])))


def _stepped_up(found: Floats) -> float | None:
    known = found[np.isfinite(found)]
    if not len(known):
        return None
    mean = float(known.mean())
    return 2 * mean / (1 + mean) if mean > 0 else mean


def _verdict(
    agree: _Agree, vqa: Sequence[str], diagrams: Collection[str], reliability: Mapping[str, Reliability]
) -> tuple[str, ...]:
    """The two claims, each with all blocks and without the dominating one, and how far noise explains them."""
    others, block = [name for name in agree.n if name in diagrams], agree.dominating
    merged = sorted(map(_value, agree.scores(MEASURES[0], MERGED)), reverse=True)
    said = [
        f"Block {block} matters most: without it accuracy falls by {merged[0]:.3f}, the next costs {merged[1]:.3f}."
    ]
    pairs = [agree.pair((MEASURES[0], a), (MEASURES[0], b)) for a, b in itertools.combinations(vqa, 2)]
    for rest, which in ((False, "with all blocks"), (True, f"without block {block}")):
        if pairs:
            found = {one.datasets: one.spearman_rest if rest else one.spearman for one in pairs}
            said.append(f"VQA data sets correlate over {EXPECTED}, {which}: {_over(found)}")
        if pairs and others:
            gap = agree.gap(vqa, others, rest=rest)
            said.append(f"VQA against {', '.join(others)} clearly differs, {which}: {_apart(gap)}")
    known = [one.spearman_rest for one in reliability.values() if one.spearman_rest is not None]
    if known:
        said.append(
            f"Noise: without block {block} a data set correlates with another draw of itself at {min(known):.2f} to "
            f"{max(known):.2f} (split halves, stepped up); less than that between data sets is more than noise."
        )
    return tuple(said)


def _over(found: Mapping[tuple[str, str], Estimate]) -> str:
    """Judged by the pair that agrees least."""
    known = {pair: one for pair, one in found.items() if one.value is not None}
    if not known:
        return "cannot be told, as no data set orders the blocks."
    pair, least = min(known.items(), key=lambda item: _value(item[1]))
    value = _value(least)
    low, high = least.ci95 or (value, value)
    if low > EXPECTED:
        judged = "holds"
    elif value > EXPECTED:
        judged = "holds in value, but not beyond doubt"
    elif high > EXPECTED:
        judged = "does not hold in value, but is not ruled out"
    else:
        judged = "does not hold"
    return f"{judged}; Spearman is least for {pair[0]} and {pair[1]}, {_told(least)}."


def _apart(gap: Estimate) -> str:
    if gap.value is None or gap.ci95 is None:
        return "cannot be told from so few samples."
    judged = "holds" if gap.ci95[0] > 0 else "does not hold" if gap.value <= 0 else "is not shown"
    return f"{judged}; Spearman among VQA data sets is higher than across by {_told(gap)}."


def _value(one: Estimate) -> float:
    assert one.value is not None  # a mean, or one that is known
    return one.value


def _told(one: Estimate) -> str:
    interval = f" (95 % {one.ci95[0]:.2f} to {one.ci95[1]:.2f})" if one.ci95 else ""
    return f"{one.value:.2f}{interval}"
