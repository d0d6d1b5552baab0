"""How a caption becomes the tokens that n-gram scores count, and what may be scored at all.

Tokenisation decides a Chinese score: the same captions reach 1.8 BLEU split at whitespace and 8.8 by character. So
every score names its tokeniser, and two scores compare only when the names agree.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from suite.errors import UserError


def char_tokens(text: str) -> list[str]:
    """Letters, digits and ideographs, one token each, lower case; whitespace and punctuation are dropped."""
    return re.findall(r"\w", text.lower())


def word_tokens(text: str) -> list[str]:
    """Runs of letters and digits, lower case, an inner apostrophe kept (`don't`); punctuation is dropped.

    Close to what the COCO caption tools do with the Stanford PTB tokeniser (which needs Java), whose punctuation
    tokens they drop as well.
    """
    return re.findall(r"\w+(?:['\u2019]\w+)*", text.lower())


def jieba_tokens(text: str) -> list[str]:
    """Chinese words, lower case, as jieba's default mode finds them; whitespace and punctuation are dropped.

    The words are those of its dictionary and, for what that lacks, of its hidden Markov model.
    """
    return [word for word in _jieba().cut(text.lower()) if re.search(r"\w", word)]


@cache
def _jieba() -> Any:
    """The tokeniser of jieba; the first call of a process takes about half a second.

    The dictionary is read here because jieba's own loading logs to stderr and trusts a file of fixed name in the
    temp folder, which any user of the machine may have put there.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # invalid escapes in its source, and its use of pkg_resources
        import jieba
    tokenizer = jieba.Tokenizer()
    tokenizer.FREQ, tokenizer.total = tokenizer.gen_pfdict(tokenizer.get_dict_file())
    tokenizer.initialized = True
    return tokenizer


TOKENIZERS: dict[str, Callable[[str], list[str]]] = {"char": char_tokens, "jieba": jieba_tokens, "word": word_tokens}
"""CIDEr-D tokenisers by the name that is written beside the score."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Language:
    """Which tokenisers a language is scored with.

    Attributes:
        bleu: a sacrebleu tokeniser.
        cider: a key of `TOKENIZERS` by the name of the CIDEr-D score it makes; Chinese has two, as the literature does.
    """

    bleu: str
    cider: Mapping[str, str]


LANGUAGES = {
    "chinese": Language(bleu="zh", cider={"cider_d": "char", "cider_d_words": "jieba"}),
    "english": Language(bleu="13a", cider={"cider_d": "word"}),
}
"""By the values of `dataset.language`."""


def check_samples(metric: str, predictions: Sequence[object], references: Sequence[object]) -> None:
    """Raise `UserError` unless there is at least one sample and one non-string reference list per prediction.

    An empty prediction is legal (a model may stop at once) and so is an empty reference text; a sample without any
    reference is not: leave it out before scoring.
    """
    if len(predictions) != len(references):
        raise UserError(
            f"{metric}: {len(predictions)} predictions but {len(references)} reference lists; give one list each."
        )
    if not predictions:
        raise UserError(f"{metric}: there is nothing to score; give at least one prediction.")
    for index, group in enumerate(references):
        if isinstance(group, str) or not isinstance(group, Sequence):
            raise UserError(f"{metric}: references[{index}] is {type(group).__name__}; give a list of references.")


def check_texts(metric: str, predictions: Sequence[str], references: Sequence[Sequence[str]]) -> None:
    """`check_samples`, and every prediction is a string, and every sample has at least one reference string."""
    check_samples(metric, predictions, references)
    for index, (prediction, group) in enumerate(zip(predictions, references, strict=True)):
        if not isinstance(prediction, str):
            raise UserError(f"{metric}: predictions[{index}] is {type(prediction).__name__}; give a string.")
        if not group:
            raise UserError(f"{metric}: references[{index}] is empty; leave out samples that have no reference.")
        if not all(isinstance(reference, str) for reference in group):
            raise UserError(f"{metric}: references[{index}] holds something that is not a string; give strings.")
