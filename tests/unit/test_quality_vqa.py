"""VQA accuracy: the official rules by hand, leave-one-out by brute force, and the letters of a multiple choice."""

from __future__ import annotations

import itertools
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.schema import VQA
from suite.errors import ConfigError, UserError
from suite.quality import VqaAccuracy
from suite.quality.vqa import VARIANTS, letter_match, normalise, vqa_accuracy

answer = st.sampled_from(["red", "Red.", "the red", "two", "2", "dont", "don't", "what's", "whats", ""])
ten = st.lists(answer, min_size=10, max_size=10)


@pytest.mark.parametrize(
    ("written", "compared"),
    [
        ("The Red", "red"),
        ("an apple a day", "apple day"),
        ("two", "2"),
        ("None", "0"),
        ("eleven", "eleven"),  # the table ends at ten
        ("dont", "don't"),
        ("don't", "don't"),  # an apostrophe is no punctuation
        ("couldnt've", "couldn't've"),
        ("couldntve", "couldntve"),  # two lack: not in the table
        ("ow's'at", "'ow's'at"),
        ("somebody'd", "somebodyd"),  # the table's own slip
        ("lets", "lets"),
        ("t-shirt", "t shirt"),  # no space beside it: becomes one
        ("coca - cola", "coca cola"),  # a space beside it: dropped
        ("t-shirt - red", "tshirt red"),  # beside one of them: all of that mark are dropped
        ("3,000", "3000"),
        ("3,000/day", "3000day"),  # a comma between digits drops every mark
        ("red,blue", "red blue"),
        ("3.5", "3.5"),
        ("10.", "10"),
        ("U.S.A.", "usa"),
        ("yes:no", "yes:no"),  # not in the list of marks
        ("  red\n\tblue ", "red blue"),
    ],
)
def test_answers_are_normalised_by_the_official_rules(written: str, compared: str) -> None:
    assert normalise(written) == compared


@pytest.mark.parametrize(("matches", "score"), [(0, 0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1), (9, 1)])
@pytest.mark.parametrize("variant", ["official", "lmms"])
def test_one_annotator_is_left_out_at_a_time(matches: int, score: float, variant: str) -> None:
    others = [f"other {number}" for number in range(10 - matches)]
    assert vqa_accuracy("red", ["red"] * matches + others, variant) == pytest.approx(score, abs=1e-12)


def test_unanimous_answers_are_compared_as_they_are_written() -> None:
    assert vqa_accuracy("red", ["red"] * 10) == 1
    assert vqa_accuracy("Red", ["red"] * 10) == 0
    assert vqa_accuracy("Red", ["red"] * 9 + ["blue"]) == 1
    assert vqa_accuracy(" red\n", ["red\t"] * 10) == 1
    assert vqa_accuracy("Red", ["red"] * 10, "lmms") == vqa_accuracy("Red", ["red"] * 10, "simple") == 1


def test_variants_differ_where_they_say() -> None:
    three = ["red"] * 3 + ["blue"] * 7
    assert [vqa_accuracy("red", three, name) for name in ("official", "lmms", "simple")] == pytest.approx([0.9, 0.9, 1])
    simple = [vqa_accuracy("red", ["red"] * n + ["blue"] * (10 - n), "simple") for n in (0, 1, 2, 4)]
    assert simple == pytest.approx([0, 1 / 3, 2 / 3, 1])
    # lmms-eval parts 's from its word first, so what the official table mends stays apart
    assert vqa_accuracy("whats up", ["what's up"] * 9 + ["x"]) == 1
    assert vqa_accuracy("whats up", ["what's up"] * 9 + ["x"], "lmms") == 0
    assert vqa_accuracy("what 's up", ["what's up"] * 9 + ["x"], "lmms") == 1
    # and drops commas, where the official code may put a space
    assert vqa_accuracy("red,blue", ["redblue"] * 9 + ["x"], "lmms") == 1
    assert vqa_accuracy("red,blue", ["red blue"] * 9 + ["x"]) == 1
    assert set(VARIANTS) == set(VQA)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_single_answer_is_matched_once_normalised(variant: str) -> None:
    assert vqa_accuracy("The red!", ["red"], variant) == 1
    assert vqa_accuracy("dark red", ["red"], variant) == 0


@given(answer, ten)
def test_leaving_out_is_the_mean_over_all_nine_of_ten(prediction: str, answers: list[str]) -> None:
    same = len(set(answers)) == 1
    told = prediction if same else normalise(prediction)
    written = answers if same else [normalise(text) for text in answers]
    nines = list(itertools.combinations(range(10), 9))
    scores = [min(Fraction(sum(written[i] == told for i in nine), 3), 1) for nine in nines]
    assert vqa_accuracy(prediction, answers) == pytest.approx(float(sum(scores) / len(nines)), abs=1e-12)


@given(answer, ten, st.randoms(use_true_random=False), st.sampled_from(sorted(VARIANTS)))
def test_the_order_of_annotators_says_nothing(prediction: str, answers: list[str], random: object, name: str) -> None:
    shuffled = list(answers)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    score = vqa_accuracy(prediction, answers, name)
    assert vqa_accuracy(prediction, shuffled, name) == score
    assert 0 <= score <= 1
    assert score == 0 or name != "official" or round(10 * score) in (3, 6, 9, 10)


@given(st.text(max_size=30))
def test_any_text_is_normalised_once_and_for_all(text: str) -> None:
    assert normalise(text) == " ".join(normalise(text).split())
    assert vqa_accuracy(text, [text] * 10) == vqa_accuracy(text, [text]) == 1


@pytest.mark.parametrize("text", ["B", "b", " B ", "(B)", "B.", "B) red", "B: red", "(b) red", "B, red"])
def test_a_letter_names_an_option(text: str) -> None:
    assert letter_match(text, "B") == 1
    assert letter_match(text, "A") == 0


@pytest.mark.parametrize("text", ["", "A red one", "Apple", "red", "1", "AB", "The answer is A", "."])
def test_no_letter_names_nothing(text: str) -> None:
    assert letter_match(text, "A") == 0


def test_bad_input_is_told() -> None:
    with pytest.raises(UserError, match="at least one reference answer"):
        vqa_accuracy("red", [])
    with pytest.raises(ConfigError, match="task.vqa=offical is not one of .* Did you mean 'official'"):
        vqa_accuracy("red", ["red"], "offical")


def test_as_a_metric() -> None:
    answers = [["red"] * 3 + ["blue"] * 7, ["yes"]]
    result = VqaAccuracy().compute(predictions=["red", "no"], references=answers)
    assert result == {"vqa_accuracy": pytest.approx(0.45), "per_sample": [pytest.approx(0.9), 0]}
    assert VqaAccuracy(variant="simple").compute(predictions=["red"], references=answers[:1])["vqa_accuracy"] == 1
    with pytest.raises(UserError, match="VqaAccuracy: 1 predictions but 2"):
        VqaAccuracy().compute(predictions=["red"], references=answers)
