"""Two short English answers compared as SQuAD does: exact match and token F1. Imports nothing, for who needs no more.

Formulas and normalisation are those of the official evaluation script of SQuAD 2.0 (Rajpurkar et al. 2016,
arXiv:1606.05250, section 6.1; Rajpurkar et al. 2018, arXiv:1806.03822).
"""

from __future__ import annotations

import re
import string
from collections import Counter

_PUNCTUATION = str.maketrans("", "", string.punctuation)


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
