"""Quality of what a model wrote, scored without network access.

`score` is what a study calls for captions; the metrics behind it are local `evaluate.Metric` classes, so they also
work wherever an evaluate metric does:

    from suite.quality import CiderD
    CiderD(tokenizer="char", corpus=all_references).compute(predictions=texts, references=references)

Importing this package imports neither evaluate nor torch (together 3 seconds): a metric is loaded at first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from suite.quality.scoring import Score, caption_scorer, score

if TYPE_CHECKING:
    from suite.quality.answers import AnswerMatch, VqaAccuracy
    from suite.quality.bertscore import BertScore
    from suite.quality.bleu import Bleu
    from suite.quality.cider import CiderD
    from suite.quality.tokens import TokenAgreement

__all__ = [
    "AnswerMatch",
    "BertScore",
    "Bleu",
    "CiderD",
    "Score",
    "TokenAgreement",
    "VqaAccuracy",
    "caption_scorer",
    "score",
]

_METRICS = {
    "AnswerMatch": "suite.quality.answers",
    "BertScore": "suite.quality.bertscore",
    "Bleu": "suite.quality.bleu",
    "CiderD": "suite.quality.cider",
    "TokenAgreement": "suite.quality.tokens",
    "VqaAccuracy": "suite.quality.answers",
}


def __getattr__(name: str) -> Any:
    if name not in _METRICS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_METRICS[name]), name)
