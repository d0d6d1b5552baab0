"""The one call a captioning study makes: every text score of a data set, ready for intervals and paired tests."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING

from suite.errors import check_choice
from suite.quality.text import LANGUAGES, check_texts
from suite.result import Metric
from suite.stats import IndexArray, corpus_ci, mean_ci

if TYPE_CHECKING:
    from suite.quality.bertscore import BertScore

UNKNOWN_LIMIT = 0.1
"""Share of the references' tokens unknown to BERTScore's model above which its score means nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """One metric over a data set.

    Attributes:
        value: the corpus value; None where it is undefined (the note says why).
        per_sample: one value a sample, in the order given, for paired tests; empty where undefined.
        note: what must agree before two values are compared: tokeniser or model.
        statistic: the corpus value over resampled sample indices; None where that is the mean of `per_sample`.
    """

    value: float | None
    per_sample: tuple[float, ...]
    note: str
    statistic: Callable[[IndexArray], float] | None = None

    def metric(self, *, seed: int) -> Metric:
        """The corpus value with a 95 % bootstrap interval over samples."""
        if self.value is None:
            return Metric(value=None, unit="1", n=0, origin="computed", note=self.note)
        if self.statistic is None:
            estimate = mean_ci(self.per_sample, seed=seed)
        else:
            estimate = corpus_ci(self.statistic, len(self.per_sample), seed=seed)
        return estimate.metric(unit="1", origin="computed", note=self.note)


def score(
    predictions: Sequence[str],
    references: Sequence[Sequence[str]],
    *,
    language: str,
    corpus: Sequence[Sequence[str]] | None = None,
    bertscore: BertScore | None = None,
) -> dict[str, Score]:
    """Score captions with BLEU and CIDEr-D, and with BERTScore where a model is given.

    Args:
        predictions: n texts; an empty one scores 0 everywhere.
        references: n lists of at least one text.
        language: `chinese` or `english`; decides the tokenisers.
        corpus: all references of the data set, for CIDEr-D's IDF; None: `references`.
        bertscore: a loaded metric; kept by the caller, because loading costs seconds.

    Returns:
        `bleu` (0 to 100), `cider_d` (0 to 10; undefined when the corpus has a single item), for Chinese also
        `cider_d_words`, and with a model `bertscore_precision`, `bertscore_recall`, `bertscore_f1` (at most 1;
        undefined when the model does not know the language).

    Raises:
        UserError: nothing to score, lengths that differ, a sample without reference, or an unknown language.
    """
    check_choice("dataset.language", language, LANGUAGES)
    check_texts("score", predictions, references)
    corpus = references if corpus is None else corpus
    scores = {"bleu": _bleu(predictions, references, LANGUAGES[language].bleu)}
    for name, tokenizer in LANGUAGES[language].cider.items():
        scores[name] = _cider_d(predictions, references, corpus, tokenizer)
    return scores if bertscore is None else scores | _bertscore(predictions, references, bertscore)


def caption_scorer(language: str, corpus: Sequence[Sequence[str]]) -> Callable[[str, Sequence[str]], dict[str, float]]:
    """What `score` says of one caption alone, known before the others are written: CIDEr-D.

    Args:
        language: as for `score`.
        corpus: all references of the data set; with a single item there is no IDF, and no score.

    Returns:
        From a caption and its references to `cider_d` and, for Chinese, `cider_d_words`; nothing without references.

    Raises:
        UserError: unknown language.
    """
    check_choice("dataset.language", language, LANGUAGES)
    if len(corpus) < 2:
        return lambda text, references: {}
    from suite.quality.cider import scorer

    documents = tuple(map(tuple, corpus))
    scorers = {name: scorer(tokenizer, documents) for name, tokenizer in LANGUAGES[language].cider.items()}

    def scores(text: str, references: Sequence[str]) -> dict[str, float]:
        return {name: one.score(text, tuple(references)) for name, one in scorers.items() if references}

    return scores


def _bleu(predictions: Sequence[str], references: Sequence[Sequence[str]], tokenize: str) -> Score:
    from suite.quality.bleu import Bleu, corpus_bleu

    result = Bleu(tokenize=tokenize).compute(predictions=predictions, references=references)
    return Score(
        value=result["bleu"],
        per_sample=tuple(result["per_sample"]),
        note=f"tokenize={tokenize}",
        statistic=lambda index: corpus_bleu(result["counts"][index]),
    )


def _cider_d(
    predictions: Sequence[str], references: Sequence[Sequence[str]], corpus: Sequence[Sequence[str]], tokenizer: str
) -> Score:
    from suite.quality.cider import CiderD

    note = f"tokenizer={tokenizer}, IDF of {len(corpus)} items"
    if len(corpus) < 2:
        return Score(value=None, per_sample=(), note=f"{note}: needs at least 2")
    metric = CiderD(tokenizer=tokenizer, corpus=corpus)
    return _mean_score(metric.compute(predictions=predictions, references=references)["per_sample"], note)


def _bertscore(
    predictions: Sequence[str], references: Sequence[Sequence[str]], bertscore: BertScore
) -> dict[str, Score]:
    result = bertscore.compute(predictions=predictions, references=references)
    note, unknown = result["model"], result["unknown"]
    if unknown > UNKNOWN_LIMIT:
        # Two unknown words look alike to the model, so even captions of other samples score high.
        note = f"{note}: {unknown:.0%} of the references' tokens are unknown to it; use a model of this language"
        undefined = Score(value=None, per_sample=(), note=note)
        return {f"bertscore_{name}": undefined for name in result["per_sample"]}
    return {f"bertscore_{name}": _mean_score(values, note) for name, values in result["per_sample"].items()}


def _mean_score(values: Sequence[float], note: str) -> Score:
    return Score(value=fmean(values), per_sample=tuple(values), note=note)
