"""Is a short answer to a question about an image right? Imports nothing heavy, for who needs no more.

VQA accuracy (Antol et al. 2015, arXiv:1505.00468, section 3; the official evaluation code of VQA v2): an answer is as
right as the people agree with it. Ten annotators answered; leaving out one of them, an answer that three of the other
nine gave is right, one that fewer gave is right in part; the mean over who is left out counts. Annotators are left out
one by one, so two who wrote the same stay two: 1, 2, 3 and 4 or more matches score 0.3, 0.6, 0.9 and 1.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from suite.errors import UserError, check_choice

_NUMBERS = {"none": "0", "zero": "0", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5", "six": "6"}
_NUMBERS |= {"seven": "7", "eight": "8", "nine": "9", "ten": "10"}
_ARTICLES = ("a", "an", "the")
_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_CONTRACTED = """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've
    he's how'd how'll how's isn't it'd it'd've it'll ma'am might've mightn't mightn't've must've mustn't needn't not've
    o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's
    someone'd someone'd've someone'll someone's something'd something'd've something'll that's there'd there'd've
    there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's
    what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't would've
    wouldn't wouldn't've y'all y'all'd've y'all'll you'd you'd've you'll you're you've
"""


def _contractions() -> dict[str, str]:
    """Words that lack one of their apostrophes -> the same with it."""
    lacking = {}
    for word in _CONTRACTED.split():
        for mark in re.finditer("'", word):
            lacking[word[: mark.start()] + word[mark.end() :]] = word
    return lacking | {"somebody'd": "somebodyd"}  # the official table's own slip, kept: scores are to compare


_CONTRACTIONS = _contractions()


def _one_line(text: str) -> str:
    return text.replace("\n", " ").replace("\t", " ").strip()


def normalise(text: str) -> str:
    """An answer as the official code compares it: lower case, no articles, digits, apostrophes, less punctuation.

    A mark that stands beside a space anywhere in the text is dropped, else it becomes a space; all of them are dropped
    where a comma stands between digits. Full stops stay before digits alone.
    """
    text = _one_line(text)
    in_number = re.search(r"\d,\d", text)
    bare = text
    for mark in _PUNCTUATION:
        dropped = in_number or f"{mark} " in text or f" {mark}" in text
        bare = bare.replace(mark, "" if dropped else " ")
    words = (_NUMBERS.get(word, word) for word in re.sub(r"\.(?!\d)", "", bare).lower().split())
    return " ".join(_CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)


def _normalise_lmms(text: str) -> str:
    """As lmms-eval and EvalAI do: commas and question marks go first, and 's becomes a word."""
    return normalise(text.lower().replace(",", "").replace("?", "").replace("'s", " 's"))


def _leave_one_out(prediction: str, answers: Sequence[str]) -> float:
    same = [answer == prediction for answer in answers]
    return sum(min(sum(same) - own, 3) for own in same) / (3 * len(same))


def _official(prediction: str, answers: Sequence[str]) -> float:
    prediction, answers = _one_line(prediction), [_one_line(answer) for answer in answers]
    if len(set(answers)) > 1:  # unanimous answers are compared as they are written
        prediction, answers = normalise(prediction), [normalise(answer) for answer in answers]
    return _leave_one_out(prediction, answers)


def _lmms(prediction: str, answers: Sequence[str]) -> float:
    return _leave_one_out(_normalise_lmms(prediction), [_normalise_lmms(answer) for answer in answers])


def _simple(prediction: str, answers: Sequence[str]) -> float:
    matches = sum(normalise(answer) == normalise(prediction) for answer in answers)
    return min(matches / 3, 1.0)


VARIANTS: dict[str, Callable[[str, Sequence[str]], float]] = {"official": _official, "lmms": _lmms, "simple": _simple}
"""`official`: as above, normalised only where the answers differ. `lmms`: the same but always normalised, by the rules
of lmms-eval's TextVQA and OK-VQA tasks. `simple`: min(matches / 3, 1), always normalised (Antol et al. 2015, eq. 1)."""


def vqa_accuracy(prediction: str, answers: Sequence[str], variant: str = "official") -> float:
    """How right an answer is, 0 to 1.

    Args:
        prediction: what the model wrote.
        answers: one for each annotator, equal ones repeated; a single one must be matched exactly once both are
            normalised, in every variant. Of two or three answers none can score 1: the rule is made for ten.
        variant: a key of `VARIANTS`.

    Raises:
        UserError: no answers, or no such variant.
    """
    check_choice("task.vqa", variant, VARIANTS)
    if not answers:
        raise UserError("VQA accuracy needs at least one reference answer; leave out samples that have none.")
    if len(answers) == 1:
        return float(normalise(prediction) == normalise(answers[0]))
    return VARIANTS[variant](prediction, answers)


def letter_match(prediction: str, letter: str) -> float:
    """1 when a multiple-choice answer names this option, else 0.

    The answer is the letter alone or is led by it: `B`, `b`, `(B)`, `B.`, `B) red`, `B: red`. In `A red` the letter may
    be an article, so it names nothing (ScienceQA: Lu et al. 2022, arXiv:2209.09513; parsed much as lmms-eval does).
    """
    named = re.match(r"\s*\(?([A-Za-z])(?:[).:,]|\s*$)", prediction)
    return float(named is not None and named[1].upper() == letter.upper())
