"""Right answers: exact match and token F1 of short English answers (squad.py), and VQA accuracy (vqa.py)."""

from __future__ import annotations

from statistics import fmean
from typing import Any

from suite.quality.base import TextMetric
from suite.quality.squad import exact_match, token_f1
from suite.quality.vqa import vqa_accuracy


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


class VqaAccuracy(TextMetric):
    """VQA accuracy, 0 to 1: how far ten annotators agree with an answer."""

    about = "Share of annotators who gave the answer, over three, leaving out one annotator at a time."
    source = "Antol et al. 2015, arXiv:1505.00468, section 3"

    def __init__(self, *, variant: str = "official") -> None:
        super().__init__()
        self.variant = variant

    def _compute(self, predictions: list[str], references: list[list[str]]) -> dict[str, Any]:
        """Score `predictions` by `variant` (vqa.py).

        Returns:
            `vqa_accuracy`: the mean over samples.
            `per_sample`: one value a sample.
        """
        pairs = zip(predictions, references, strict=True)
        per_sample = [vqa_accuracy(text, answers, self.variant) for text, answers in pairs]
        return {"vqa_accuracy": fmean(per_sample), "per_sample": per_sample}
