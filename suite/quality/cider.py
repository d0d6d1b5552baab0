"""CIDEr-D (Vedantam, Zitnick and Parikh 2015, arXiv:1411.5726, section 6), written out.

pycocoevalcap's `pycocoevalcap.cider.cider.Cider` is named CIDEr, but what it computes is CIDEr-D: TF-IDF weights
clipped to the reference's, a Gaussian penalty on the length difference, ten times the mean over n = 1..4 (only the
paper's stemming is left out, as it is here). The same tokens give its scores to 1e-9 (tests/golden). Its IDF always
rests on the references handed over with the predictions (`df="corpus"` of the authors' `pyciderevalcap`); so does ours,
unless the references of the whole data set are given.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import fmean
from typing import Any

from suite.errors import UserError, check_choice
from suite.quality.base import TextMetric
from suite.quality.text import TOKENIZERS

ORDERS = 4
SIGMA = 6.0
"""Width of the length penalty, in tokens."""

Ngram = tuple[str, ...]


class CiderD(TextMetric):
    """CIDEr-D, 0 to 10, with the IDF of a whole data set's references.

    Args:
        tokenizer: `char`, `word` or `jieba` (see `suite.quality.text`).
        corpus: all references of the data set, one list per item, so that scoring a subset weighs n-grams as scoring
            everything would. None: the references being scored are the corpus (what pycocoevalcap does).
    """

    about = "CIDEr-D: TF-IDF weighted n-gram agreement with human captions."
    source = "Vedantam, Zitnick and Parikh 2015, arXiv:1411.5726"

    def __init__(self, *, tokenizer: str, corpus: Sequence[Sequence[str]] | None = None) -> None:
        check_choice("CiderD.tokenizer", tokenizer, TOKENIZERS)
        super().__init__()
        self._tokenizer = tokenizer
        self._corpus = None if corpus is None else tuple(map(tuple, corpus))

    def _compute(self, predictions: list[str], references: list[list[str]]) -> dict[str, Any]:
        """Score `predictions`.

        Returns:
            `cider_d`: mean over samples.
            `per_sample`: one score each; an empty prediction scores 0.
            `tokenizer`: its name;  `documents`: how many items the IDF rests on.

        Raises:
            UserError: the IDF has fewer than two documents: every weight would be log(1) = 0.
        """
        groups = tuple(map(tuple, references))
        known = scorer(self._tokenizer, groups if self._corpus is None else self._corpus)
        if known.idf.documents < 2:
            raise UserError("CiderD: one item gives no IDF; pass all references of the data set as corpus.")
        scores = [known.score(text, group) for text, group in zip(predictions, groups, strict=True)]
        return {
            "cider_d": fmean(scores),
            "per_sample": scores,
            "tokenizer": self._tokenizer,
            "documents": known.idf.documents,
        }


@dataclass(frozen=True, slots=True)
class Idf:
    """In how many of `documents` items (all references of one sample together) an n-gram occurs."""

    documents: int
    frequency: Counter[Ngram]

    @classmethod
    def of(cls, documents: Sequence[Sequence[Sequence[str]]]) -> Idf:
        """Count over items, each a list of tokenised references."""
        frequency: Counter[Ngram] = Counter()
        for group in documents:
            frequency.update({ngram for reference in group for ngram in _ngrams(reference)})
        return cls(len(documents), frequency)

    def weight(self, ngram: Ngram) -> float:
        """log(documents / frequency), equation 1 of the paper; an n-gram no reference has counts as seen once."""
        return math.log(self.documents) - math.log(max(1, self.frequency[ngram]))


def cider_d(prediction: Sequence[str], references: Sequence[Sequence[str]], idf: Idf) -> float:
    """CIDEr-D of one tokenised prediction against its tokenised references (equations 2 to 4, CIDEr-D form)."""
    ours = _Vector.of(prediction, idf)
    return _mean_similarity(ours, [_Vector.of(reference, idf) for reference in references])


@dataclass(frozen=True, slots=True)
class _Vector:
    """TF-IDF weights by n-gram order, their norms, and the length in tokens."""

    weights: list[dict[Ngram, float]]
    norms: list[float]
    length: int

    @classmethod
    def of(cls, tokens: Sequence[str], idf: Idf) -> _Vector:
        weights: list[dict[Ngram, float]] = [{} for _ in range(ORDERS)]
        for ngram, count in _ngrams(tokens).items():
            weights[len(ngram) - 1][ngram] = count * idf.weight(ngram)
        norms = [math.sqrt(sum(weight * weight for weight in order.values())) for order in weights]
        return cls(weights, norms, len(tokens))


class Scorer:
    """CIDEr-D of one corpus. The jobs of a sweep score the same captions again and again, so both are remembered."""

    def __init__(self, tokenizer: str, corpus: Sequence[Sequence[str]]) -> None:
        self.tokens = TOKENIZERS[tokenizer]
        self.idf = Idf.of([[self.tokens(reference) for reference in group] for group in corpus])
        self.references: dict[str, _Vector] = {}
        self.scores: dict[tuple[str, tuple[str, ...]], float] = {}

    def score(self, prediction: str, references: tuple[str, ...]) -> float:
        """Of one sample; see `cider_d`."""
        key = prediction, references
        if key not in self.scores:
            for reference in references:
                if reference not in self.references:
                    self.references[reference] = _Vector.of(self.tokens(reference), self.idf)
            ours = _Vector.of(self.tokens(prediction), self.idf)
            self.scores[key] = _mean_similarity(ours, [self.references[reference] for reference in references])
        return self.scores[key]


@lru_cache(maxsize=8)
def scorer(tokenizer: str, corpus: tuple[tuple[str, ...], ...]) -> Scorer:
    """The scorer of a corpus, one a process; see `Scorer`."""
    return Scorer(tokenizer, corpus)


def _mean_similarity(ours: _Vector, theirs: Sequence[_Vector]) -> float:
    return 10.0 * sum(_similarity(ours, one) for one in theirs) / len(theirs)


def _similarity(ours: _Vector, theirs: _Vector) -> float:
    """Mean over orders of the clipped cosine, times the Gaussian penalty on the length difference."""
    penalty = math.exp(-((ours.length - theirs.length) ** 2) / (2 * SIGMA**2))
    total = 0.0
    # Sums run in the order of the text, never of a set: the last digit must not depend on Python's hash seed.
    for order in range(ORDERS):
        mine, other = ours.weights[order], theirs.weights[order]
        norm = ours.norms[order] * theirs.norms[order]
        if norm > 0:
            total += sum(min(w, other[ngram]) * other[ngram] for ngram, w in mine.items() if ngram in other) / norm
    return penalty * total / ORDERS


def _ngrams(tokens: Sequence[str]) -> Counter[Ngram]:
    return Counter(
        tuple(tokens[start : start + n]) for n in range(1, ORDERS + 1) for start in range(len(tokens) - n + 1)
    )
