"""Right answers: exact match and token F1 with SQuAD's normalisation, for short English answers.

Formulas and normalisation are those of the official evaluation script of SQuAD 2.0 (Rajpurkar et al. 2016,
arXiv:1606.05250, section 6.1; Rajpurkar et al. 2018, arXiv:1806.03822): the best score over a sample's references.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from statistics import fmean
from typing import Any

from suite.quality.base import TextMetric

_PUNCTUATION = str.maketrans("", "", string.punctuation)


class AnswerMatch(TextMetric):
    """SQuAD exact match and F1, 0 to 1."""

    about = "Exact match and token F1 of normalised answers, best over the references."
    source = "Rajpurkar et al. 2016, arXiv:1606.05250; Rajpurkar et al. 2018, arXiv:1806.03822"

    def _compute(self, predictions: list[str], references: list[list[str]]) -> dict[str, Any]:
        """Score `predictions`.

        Returns:
            `exact_match`, `f1`: means over samples.
            `per_sample`: the same two names, one list each.
        """
        pairs = list(zip(predictions, references, strict=True))
        per_sample = {
            "exact_match": [max(exact_match(text, answer) for answer in group) for text, group in pairs],
            "f1": [max(token_f1(text, answer) for answer in group) for text, group in pairs],
        }
        return {**{name: fmean(values) for name, values in per_sample.items()}, "per_sample": per_sample}


def normalise(text: str) -> str:
    """Lower case, without ASCII punctuation and the articles a, an, the; single spaces."""
    bare = text.lower().translate(_PUNCTUATION)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", bare).split())


def exact_match(prediction: str, answer: str) -> float:
    """1 when both normalise to the same text, else 0."""
    return float(normalise(prediction) == normalise(answer))


def token_f1(prediction: str, answer: str) -> float:
    """Harmonic mean of token precision and recall; where one text has no tokens, 1 if the other has none, else 0."""
    ours, theirs = normalise(prediction).split(), normalise(answer).split()
    if not ours or not theirs:
        return float(ours == theirs)
    return 2 * sum((Counter(ours) & Counter(theirs)).values()) / (len(ours) + len(theirs))
