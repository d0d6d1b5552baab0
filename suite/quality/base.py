"""The common part of the metrics: `evaluate.Metric` without hub, network or files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import datasets
import evaluate

from suite.quality.text import check_samples, check_texts


class TextMetric(evaluate.Metric):  # type: ignore[misc]  # evaluate ships no types
    """Predictions are strings; references are one list of strings per prediction.

    A subclass gives `about` and `source` and implements `_compute(predictions, references)`, which returns corpus
    values and one list of per-sample values, both documented there.
    """

    about: ClassVar[str]
    source: ClassVar[str]

    def __init__(self) -> None:
        super().__init__(keep_in_memory=True)

    def _build_data_dir(self) -> str:
        # evaluate would create a folder in the home directory; with keep_in_memory nothing is ever written to it.
        return ""

    def _features(self) -> Any:
        text = datasets.Value("string")
        return datasets.Features({"predictions": text, "references": datasets.List(text)})

    def _info(self) -> Any:
        return evaluate.MetricInfo(
            description=self.about, citation=self.source, inputs_description="", features=self._features()
        )

    def compute(self, *, predictions: Sequence[Any], references: Sequence[Sequence[Any]]) -> dict[str, Any]:
        """Score all samples at once; raises `UserError` for input that cannot be scored."""
        self._check(predictions, references)
        result: dict[str, Any] = super().compute(predictions=predictions, references=references)
        return result

    def _check(self, predictions: Sequence[Any], references: Sequence[Sequence[Any]]) -> None:
        check_texts(type(self).__name__, predictions, references)


class TokenMetric(TextMetric):
    """Predictions and references are token ids: one list of integers each, either may be empty."""

    def _features(self) -> Any:
        ids = datasets.List(datasets.Value("int64"))
        return datasets.Features({"predictions": ids, "references": ids})

    def _check(self, predictions: Sequence[Any], references: Sequence[Sequence[Any]]) -> None:
        check_samples(type(self).__name__, predictions, references)
