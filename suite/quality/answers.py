"""Right answers: exact match and token F1 of short English answers (squad.py), the best over a sample's references."""

from __future__ import annotations

from statistics import fmean
from typing import Any

from suite.quality.base import TextMetric
from suite.quality.squad import exact_match, token_f1


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
