"""`zoo/prompts`: shape, order, right answers, and independence from the grammar of the training requests."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass
from itertools import combinations
from math import comb
from pathlib import Path

import numpy as np
import pytest

import zoo
from zoo.smol_draft import requests


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the file; any other set of keys raises."""

    id: str
    category: str
    prompt: str
    references: list[str]
    language: str


LINES = (Path(zoo.__file__).parent / "prompts" / "prompts.jsonl").read_text(encoding="utf-8").splitlines()
ROWS = [Row(**json.loads(line)) for line in LINES]
WORDS = {
    "writing": (18, 40),
    "question_answering": (12, 35),
    "summarization": (75, 120),
    "mathematics": (18, 45),
    "translation": (15, 40),
    "retrieval_augmented": (75, 120),
}
CATEGORIES = tuple(WORDS)
SHINGLE = 8


def minutes(clock: str) -> int:
    """Minutes since midnight of `hh:mm`."""
    hours, rest = clock.split(":")
    return 60 * int(hours) + int(rest)


# Each answer found in another way than the worked sentence beside it: by search or from the definition.
ANSWERS = {
    "mathematics-01": sum([14, 9, -5, -12, 3]),
    "mathematics-02": 10 * 450 / 6,
    "mathematics-03": 120 * 0.75 - 10,
    "mathematics-04": next(n for n in range(1, 271) if 90 + 18 * n >= 270),
    "mathematics-05": 8 + 3 + 8 + 3 - 1,
    "mathematics-06": minutes("19:45") + 15 + 125,
    "mathematics-07": (37 + 5) / 3,
    "mathematics-08": next(x for x in range(101) if np.mean([75, 90, 80, 88, x]) == 82),
    "mathematics-09": 100 * comb(6, 1) / comb(4 + 6 + 10, 1),
    "mathematics-10": next(n for n in range(241) if n * 15 - n * 3 >= 240),
    "mathematics-11": next(x for x in range(32) if 2 * x + 7 == 31),
    "mathematics-12": next(g for g in range(21) if 4 * g + 2 * (20 - g) == 56),
}


def words(text: str) -> list[str]:
    """Lower-case words without punctuation, every number replaced by 0 so that templates match at any figure."""
    return re.sub(r"\d+", "0", re.sub(r"[^\w\s]", " ", text.lower())).split()


def shingles(text: str, size: int) -> set[tuple[str, ...]]:
    """All runs of `size` words."""
    found = words(text)
    return {tuple(found[i : i + size]) for i in range(len(found) - size + 1)}


def in_category(category: str) -> list[Row]:
    return [row for row in ROWS if row.category == category]


def test_every_row_has_the_documented_fields() -> None:
    for row in ROWS:
        assert row.language == "en"
        assert row.prompt == row.prompt.strip()
        assert all(isinstance(text, str) and text and text == text.strip() for text in row.references)
        assert len(set(row.references)) == len(row.references)


def test_rows_go_round_the_categories_so_that_any_head_of_the_file_is_balanced() -> None:
    assert len(ROWS) == 72
    assert [row.category for row in ROWS] == list(CATEGORIES) * 12
    assert [row.id for row in ROWS] == [f"{c}-{n:02d}" for n in range(1, 13) for c in CATEGORIES]
    counts = Counter(row.category for row in ROWS[:20])
    assert max(counts.values()) - min(counts.values()) <= 1


def test_prompts_are_not_variations_of_each_other() -> None:
    assert len({row.prompt for row in ROWS}) == len(ROWS)
    for one, other in combinations(ROWS, 2):
        assert not shingles(one.prompt, 5) & shingles(other.prompt, 5), (one.id, other.id)


@pytest.mark.parametrize("category", CATEGORIES)
def test_prompts_have_the_length_of_their_category(category: str) -> None:
    low, high = WORDS[category]
    for row in in_category(category):
        assert low <= len(row.prompt.split()) <= high, row.id


@pytest.mark.parametrize("category", CATEGORIES)
def test_references_exist_wherever_there_is_a_right_answer(category: str) -> None:
    least = {"writing": 0, "summarization": 1}.get(category, 2)
    for row in in_category(category):
        assert len(row.references) >= least, row.id
        assert category != "writing" or row.references == []


def test_summaries_are_much_shorter_than_their_passage() -> None:
    for row in in_category("summarization"):
        blocks = row.prompt.split("\n\n")
        assert len(blocks) == 2
        passage = max(len(block.split()) for block in blocks)
        assert 60 <= passage <= 110, row.id
        assert all(len(text.split()) <= 0.6 * passage for text in row.references), row.id


def test_grounded_answers_are_made_of_words_of_their_documents() -> None:
    two_documents = 0
    for row in in_category("retrieval_augmented"):
        *documents, _question = row.prompt.split("\n\n")
        two_documents += len(documents) == 2
        short = set(words(row.references[0])) - {"yes"}
        assert short <= set(words(" ".join(documents))), row.id
        assert 60 <= sum(len(text.split()) for text in documents) <= 110, row.id
    assert two_documents >= 4


def test_translations_go_round_four_languages() -> None:
    languages = ["French", "Spanish", "German", "Italian"]
    for row, language in zip(in_category("translation"), languages * 3, strict=True):
        assert [name for name in languages if name in row.prompt] == [language], row.id


def test_mathematics_answers_are_right() -> None:
    rows = {row.id: row.references for row in in_category("mathematics")}
    assert rows.keys() == ANSWERS.keys()
    for key, (short, worked) in rows.items():
        value = minutes(short) if ":" in short else float(short)
        assert value == pytest.approx(ANSWERS[key]), key
        assert short in re.findall(r"\d+(?::\d+)?", worked), key


def test_worked_sums_add_up() -> None:
    sums = [text for row in in_category("mathematics") for text in row.references if "=" in text]
    assert len(sums) >= 10
    for text in sums:
        for left, right in re.findall(r"([\d(][\d+*/() -]*) = (\d+)", text):
            assert eval(left) == pytest.approx(float(right)), text


def test_no_prompt_shares_eight_words_with_a_training_request() -> None:
    rng = np.random.default_rng(20240115)
    sample = {requests.request(rng, ["", "It rained."]) for _ in range(3000)}
    assert len(sample) > 1500
    trained = set().union(*(shingles(text, SHINGLE) for text in sample))
    short = {" ".join(words(text)) for text in sample if len(words(text)) < SHINGLE}
    for row in ROWS:
        assert not shingles(row.prompt, SHINGLE) & trained, row.id
        spaced = f" {' '.join(words(row.prompt))} "
        assert not [text for text in short if f" {text} " in spaced], row.id


def test_no_prompt_uses_the_wording_of_a_training_template() -> None:
    templates = "|".join(
        template
        for kind in ("questions", "summary", "grounded", "sentences", "forms")
        for template in requests.GRAMMAR[kind]
    )
    pieces = {" ".join(words(piece)) for piece in re.split(r"\||\{\w+\}|\n\n", templates)}
    pieces = {piece for piece in pieces if len(piece.split()) >= 3} | {"translate into", "how do you say"}
    assert len(pieces) > 30
    for row in ROWS:
        spaced = f" {' '.join(words(row.prompt))} "
        assert not [piece for piece in pieces if f" {piece} " in spaced], row.id
