"""BLEU (Papineni et al. 2002) as sacrebleu computes it (Post 2018, arXiv:1804.08771).

Corpus BLEU is not a mean of sentence scores: it is a function of summed n-gram counts. The counts per sample are
therefore part of the result, so that a bootstrap can resample samples and recompute the corpus score from them.
"""

from __future__ import annotations

from functools import cache, lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from sacrebleu.metrics.bleu import BLEU, MAX_NGRAM_ORDER

from suite.errors import check_choice
from suite.quality.base import TextMetric

OFFLINE = ("13a", "char", "none", "zh")
"""sacrebleu's other tokenisers download a model or need a compiled dictionary."""


class Bleu(TextMetric):
    """Corpus and sentence BLEU, 0 to 100, any number of references per sample, tokeniser one of `OFFLINE`."""

    about = "BLEU of sacrebleu: corpus score, sentence scores, and the counts that make them."
    source = "Papineni et al. 2002, ACL P02-1040; Post 2018, arXiv:1804.08771"

    def __init__(self, *, tokenize: str) -> None:
        check_choice("Bleu.tokenize", tokenize, OFFLINE)
        super().__init__()
        self._tokenize = tokenize

    def _compute(self, predictions: list[str], references: list[list[str]]) -> dict[str, Any]:
        """Score `predictions`.

        Returns:
            `bleu`: corpus score with sacrebleu's defaults (exponential smoothing).
            `per_sample`: sentence scores with effective order, so that captions of under four tokens can score.
            `counts`: integers (n, 10) as `corpus_bleu` takes them.
            `tokenize`: the tokeniser's name.
        """
        pairs = zip(predictions, references, strict=True)
        sentences = [_sentence(self._tokenize, text, tuple(group)) for text, group in pairs]
        counts = np.array([row for _, row in sentences], dtype=np.int64)
        return {
            "bleu": corpus_bleu(counts),
            "per_sample": [score for score, _ in sentences],
            "counts": counts,
            "tokenize": self._tokenize,
        }


@lru_cache(maxsize=1 << 16)
def _sentence(tokenize: str, text: str, references: tuple[str, ...]) -> tuple[float, tuple[int, ...]]:
    """Score and counts of one sample; remembered, since the jobs of a sweep mostly write the same captions."""
    s = _scorer(tokenize).sentence_score(text, references)
    return float(s.score), (s.sys_len, s.ref_len, *s.counts, *s.totals)


@cache
def _scorer(tokenize: str) -> BLEU:
    return BLEU(tokenize=tokenize, effective_order=True)


def corpus_bleu(counts: npt.NDArray[np.int64]) -> float:
    """Corpus BLEU, 0 to 100, from per-sample counts.

    Args:
        counts: (n, 10); columns: output length, closest reference length, matched 1..4-grams, output's 1..4-grams.
    """
    total = counts.sum(axis=0).tolist()
    matched, produced = total[2 : 2 + MAX_NGRAM_ORDER], total[2 + MAX_NGRAM_ORDER :]
    return float(BLEU.compute_bleu(matched, produced, total[0], total[1], smooth_method="exp").score)
