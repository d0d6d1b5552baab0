"""`zoo/oran_mini`: shape, balance, nothing that gives an answer away, and passages that can be found."""

from __future__ import annotations

import json
import re
from collections import Counter
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import zoo
from argo.embed import Embedder
from argo.questions import LEVELS, Question, read_questions
from argo.retrieve import Bm25, Exact
from argo.schema import QuestionsConfig
from suite.config import RunConfig
from suite.hardware.profile import HardwareConfig
from suite.models.loading import load
from suite.models.plan import Placement
from suite.models.spec import ModelConfig
from zoo.oran_mini import recipe

HOME = Path(zoo.__file__).parent / "oran_mini"
DATA = {split: read_questions(QuestionsConfig(difficulty="mixed", split=split), None) for split in ("test", "dev")}
TEST, DEV = DATA["test"].questions, DATA["dev"].questions
ALL = [*TEST, *DEV]
PASSAGES = {passage.id: passage for passage in DATA["test"].passages}
PUBLISHERS = ("O-RAN", "3GPP", "IEEE", "ITU-T", "eCPRI", "IETF", "RFC")
SUPPORTING = {"easy": range(1, 2), "medium": range(2, 3), "hard": range(3, 6)}


def rows(pattern: str) -> list[dict[str, Any]]:
    return [json.loads(line) for path in sorted(HOME.glob(pattern)) for line in path.read_text("utf-8").splitlines()]


def at(level: str, questions: list[Question]) -> list[Question]:
    return [question for question in questions if question.difficulty == level]


def shingles(text: str, size: int) -> set[tuple[str, ...]]:
    """All runs of `size` words."""
    words = text.lower().replace(",", " ").replace(".", " ").split()
    return {tuple(words[i : i + size]) for i in range(len(words) - size + 1)}


def test_every_row_is_used_and_has_the_documented_fields() -> None:
    for data in DATA.values():
        assert data.problems == ()
        assert data.notes["passages left out as duplicates"] == data.notes["questions broken"] == 0
    assert {frozenset(row) for row in rows("passages_*.jsonl")} == {frozenset({"id", "title", "text", "source"})}
    fields = {"id", "split", "difficulty", "question", "options", "answer", "supporting"}
    assert {frozenset(row) for row in rows("questions_*.jsonl")} == {frozenset(fields)}
    assert len(ALL) == len(rows("questions_*.jsonl")) == len({question.id for question in ALL})
    for text in (row[key] for row in rows("passages_*.jsonl") for key in row):
        assert text == text.strip() and text and "  " not in text


def test_there_are_enough_passages_each_with_its_source() -> None:
    assert len(PASSAGES) >= 150
    for passage in PASSAGES.values():
        assert 40 <= len(passage.text.split()) <= 90, passage.id
        assert passage.source.startswith(PUBLISHERS), (passage.id, passage.source)


def test_there_are_enough_questions_in_thirds() -> None:
    assert len(TEST) >= 90
    for questions in (TEST, DEV):
        assert len({len(at(level, questions)) for level in LEVELS}) == 1


def test_every_head_of_the_questions_is_fair_over_difficulties_and_parts() -> None:
    for size in (9, 10, 50, 100):
        for kind in ({q.id: q.difficulty for q in TEST}, {q.id: q.id.partition("-")[0] for q in TEST}):
            counts = Counter(kind[question.id] for question in TEST[:size])
            assert len(counts) == 3 and max(counts.values()) - min(counts.values()) <= 3, (size, counts)
    hard = read_questions(QuestionsConfig(difficulty="hard"), 10).questions
    assert sorted(Counter(question.id.partition("-")[0] for question in hard).values()) == [3, 3, 4]
    written = [question.id for question in at("hard", TEST) if question.id.startswith("fh")]
    assert written != sorted(written)  # what was written first is not asked first


def test_four_different_options_of_like_length() -> None:
    for question in ALL:
        assert len({option.lower() for option in question.options}) == 4, question.id
        lengths = [len(option) for option in question.options]
        assert max(lengths) <= 3 * min(lengths) + 8, (question.id, question.options)


def test_no_option_is_part_of_another() -> None:
    for question in ALL:
        plain = [" ".join(["", *re.findall(r"\w+", option.lower()), ""]) for option in question.options]
        for one, other in combinations(plain, 2):
            assert one not in other and other not in one, (question.id, question.options)


def test_no_question_or_passage_is_there_twice() -> None:
    texts = [(question.id, question.question) for question in ALL]
    texts += [(passage.id, passage.text) for passage in PASSAGES.values()]
    pieces = {name: shingles(text, 12) for name, text in texts}
    for one, other in combinations(pieces, 2):
        assert not pieces[one] & pieces[other], (one, other)
    assert len({question.question for question in ALL}) == len(ALL)
    assert max(Counter(question.answers for question in ALL).values()) <= 6


def test_supporting_passages_exist_one_two_or_more_by_difficulty() -> None:
    for question in ALL:
        assert set(question.supporting) <= PASSAGES.keys(), question.id
        assert len(question.supporting) in SUPPORTING[question.difficulty], question.id


def test_no_question_speaks_of_a_text() -> None:
    for question in ALL:
        assert question.flags == ()
        assert not {"passage", "context", "excerpt", "above"} & set(question.question.lower().split()), question.id
        assert question.question.endswith("?"), question.id


def test_the_position_of_the_answer_says_nothing() -> None:
    assert recipe.majority(TEST) <= 0.30
    for level in LEVELS:
        assert recipe.majority(at(level, TEST)) <= 0.34, level


@pytest.mark.parametrize("rule", ["longest", "shortest", "overlap"])
def test_what_can_be_seen_without_a_passage_says_nothing(rule: str) -> None:
    guess = getattr(recipe, rule)
    assert (recipe.guessed(TEST, guess).value or 0.0) <= 0.30
    for level in LEVELS:
        assert (recipe.guessed(at(level, TEST), guess).value or 0.0) <= 0.34, level


def test_rules_that_guess_share_ties() -> None:
    question = Question(id="q", question="the long one?", options=("aaa one", "bbb", "ccc one", "d"), answer=0)
    assert recipe.right(question, recipe.longest(question)) == 0.5
    assert recipe.right(question, recipe.shortest(question)) == 0.0
    assert recipe.right(question, recipe.overlap(question)) == 0.5
    assert recipe.majority([question]) == 1.0


@pytest.mark.slow
def test_the_embedded_reader_knows_nothing_from_the_options_alone() -> None:
    """A guess at random is right with 0.25; the interval must not lie above it."""
    found = recipe.guessed(TEST, recipe.likeliest(recipe.reader()))
    assert found.value is not None and found.ci95 is not None
    assert found.value <= 0.33 and found.ci95[0] <= 0.25


def test_the_readers_score_is_the_log_probability_of_the_option() -> None:
    draft = ModelConfig(source="zoo", id="smol_draft")  # loads in a second
    loaded = load(draft, placement=Placement(), hardware=HardwareConfig(dtype="float32"))
    question = TEST[0]
    scores = recipe.likeliest(loaded)(question)
    for option, score in zip(question.options, scores, strict=True):
        head, whole = (loaded.tokenizer(text)["input_ids"] for text in ("Answer:", f"Answer: {option}"))
        with torch.inference_mode():
            log_p = loaded.model(torch.tensor([whole])).logits[0].log_softmax(-1)
        steps = range(len(head), len(whole))
        assert score == pytest.approx(sum(float(log_p[step - 1, whole[step]]) for step in steps), abs=1e-3)
    assert np.ptp(scores) > 0


def test_every_supporting_passage_is_among_the_top_ten_of_a_retriever_for_the_questions_own_words() -> None:
    passages = list(PASSAGES.values())
    embedder = Embedder(RunConfig(models={"embedder": recipe.EMBEDDER}))
    assert recipe.unfound(ALL, [Bm25(passages), Exact(passages, embedder)]) == {}
