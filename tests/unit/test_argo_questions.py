"""Questions and passages from every kind of file: each row is used, or says in one sentence why it is not."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from argo.corpus import WORDS, Passage, corpus_sha256, read_corpus, split
from argo.questions import NO_CONTEXT, Question, QuestionSet, read_questions
from argo.schema import QuestionsConfig
from suite.errors import ConfigError, UserError

GOOD = {"id": "a", "question": "Which?", "options": ["one", "two", "three"], "answer": 1}
PASSAGES = [{"id": "p1", "title": "First", "text": "One."}, {"id": "p2", "text": "Two."}]


def write(path: Path, *rows: Any) -> Path:
    lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return path


def own(folder: Path, *rows: Any, corpus: Any = PASSAGES, limit: int | None = None, **options: Any) -> QuestionSet:
    passages = write(folder / "corpus.jsonl", *corpus) if isinstance(corpus, list) else corpus
    config: dict[str, Any] = {"name": "questions", "difficulty": "mixed", "corpus": str(passages), **options}
    return read_questions(QuestionsConfig(path=str(write(folder / "q.jsonl", *rows)), **config), limit)


def hop(name: str, *paragraphs: tuple[str, str, bool], **more: Any) -> dict[str, Any]:
    told = [{"title": title, "text": text, "supporting": supports} for title, text, supports in paragraphs]
    return {"id": name, "question": f"{name}?", "answers": ["yes"], "paragraphs": told, **more}


def test_a_row_is_a_question(tmp_path: Path) -> None:
    free = {"question": " Who? ", "answers": ["She", "her"], "difficulty": "hard", "supporting": ["p2", "p1", "p2"]}
    found = own(tmp_path, GOOD, "", free)
    assert found.questions == [
        Question(
            id="q.jsonl, line 3", question="Who?", answers=("She", "her"), difficulty="hard", supporting=("p2", "p1")
        ),
        Question(id="a", question="Which?", options=("one", "two", "three"), answer=1, answers=("two",)),
    ]
    assert found.passages == (
        Passage(id="p1", title="First", text="One."),
        Passage(id="p2", title="", text="Two."),
    )
    assert found.problems == ()
    assert found.notes["questions read"] == 2 and found.notes["questions broken"] == 0


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ("{", r"q\.jsonl, line 2: not JSON \(.*\); mend or delete the line"),
        ([1], 'line 2: not a JSON object; each row needs a "question"'),
        ({**GOOD, "question": " "}, 'line 2: no text under "question"'),
        ({**GOOD, "id": "a"}, "line 2: the id 'a' is taken"),
        ({**GOOD, "id": "b", "answer": "B"}, r"\"answer\" 'B' must be the index .* counted from 0 \(0 to 2 here\)"),
        ({**GOOD, "id": "b", "answer": "1"}, "counted from 0"),
        ({**GOOD, "id": "b", "answer": 3}, "counted from 0"),
        ({**GOOD, "id": "b", "answer": -1}, "counted from 0"),
        ({**GOOD, "id": "b", "answer": True}, "counted from 0"),
        ({"id": "b", "question": "Which?", "options": ["x", "y"]}, 'line 2: "answer" None must be the index'),
        ({**GOOD, "id": "b", "options": ["x", "x "]}, '"options" must be two different texts or more'),
        ({**GOOD, "id": "b", "options": ["x"]}, '"options" must be two different texts or more'),
        ({**GOOD, "id": "b", "options": "xy"}, '"options" must be two different texts or more'),
        ({**GOOD, "id": "b", "answers": ["two"]}, 'both "options" and "answers"'),
        ({"id": "b", "question": "Who?"}, 'neither "options" with an "answer" nor "answers"'),
        ({"id": "b", "question": "Who?", "answers": "she"}, 'neither "options" with an "answer" nor "answers"'),
        ({**GOOD, "id": "b", "difficulty": "hrd"}, "'hrd' is not one of easy, medium, hard. Did you mean 'hard'?"),
        ({**GOOD, "id": "b", "supporting": "p1"}, '"supporting" must be a list'),
        ({**GOOD, "id": "b", "supporting": ["p3"]}, "names 'p3', which is no id of the corpus"),
    ],
)
def test_a_broken_row_is_a_question_with_a_problem_after_the_good_ones(tmp_path: Path, row: Any, problem: str) -> None:
    found = own(tmp_path, GOOD, row, {**GOOD, "id": "c"})
    assert [question.problem is None for question in found.questions] == [True, True, False]
    assert len({question.id for question in found.questions}) == 3
    assert found.problems == (found.questions[-1].problem,)
    assert (found.notes["questions read"], found.notes["questions broken"]) == (3, 1)
    assert re.search(problem, found.problems[0])


def test_a_broken_passage_is_listed_and_the_others_stay(tmp_path: Path) -> None:
    broken = ["[", {"id": "p8"}, {"text": "no id"}, {"id": "p1", "text": "Another."}, 5]
    found = own(tmp_path, GOOD, corpus=[*PASSAGES, *broken])
    assert [passage.id for passage in found.passages] == ["p1", "p2"]
    assert found.notes["passages broken"] == len(found.problems) == 5
    assert any("the passage id 'p1' is taken by another text" in problem for problem in found.problems)
    assert any('corpus.jsonl, line 4: no text under "text"' in problem for problem in found.problems)


def test_a_passage_that_is_there_twice_is_kept_once_and_still_found_by_both_names(tmp_path: Path) -> None:
    twice = [*PASSAGES, {"id": "p3", "text": " Two."}, PASSAGES[0]]
    found = own(tmp_path, {**GOOD, "supporting": ["p3", "p1"]}, corpus=twice)
    assert [passage.id for passage in found.passages] == ["p1", "p2"]
    assert found.questions[0].supporting == ("p2", "p1")
    assert found.notes["passages left out as duplicates"] == 2
    assert found.problems == ()


def test_difficulties_take_turns_and_a_longer_run_asks_what_a_shorter_one_asked(tmp_path: Path) -> None:
    rows = [{**GOOD, "id": f"{level}{i}", "difficulty": level} for level in ("hard", "easy", "medium") for i in (1, 2)]
    rows.append({**GOOD, "id": "hard3", "difficulty": "hard"})
    mixed = [question.id for question in own(tmp_path, *rows).questions]
    assert mixed == ["easy1", "medium1", "hard1", "easy2", "medium2", "hard2", "hard3"]
    assert [question.id for question in own(tmp_path, *rows, limit=4).questions] == mixed[:4]
    assert [question.id for question in own(tmp_path, *rows, difficulty="hard").questions] == [
        "hard1",
        "hard2",
        "hard3",
    ]


@pytest.mark.parametrize(
    ("rows", "corpus", "options", "sentence"),
    [
        ([], PASSAGES, {}, "holds no question that can be asked; see the data formats"),
        (["{"], PASSAGES, {}, r"holds no question that can be asked \(q\.jsonl, line 1: not JSON"),
        ([GOOD], [], {}, "corpus.jsonl holds no passage to retrieve; give a corpus"),
        ([GOOD], ["{"], {}, r"holds no passage to retrieve \(corpus\.jsonl, line 1: not JSON"),
        ([GOOD], PASSAGES, {"difficulty": "hard"}, r"dataset.difficulty=hard \(its difficulties: none told\)"),
        ([{**GOOD, "difficulty": "easy"}], PASSAGES, {"difficulty": "hard"}, r"\(its difficulties: easy\)"),
    ],
)
def test_nothing_to_do_is_one_sentence(
    tmp_path: Path, rows: list[Any], corpus: Any, options: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(UserError, match=sentence) as caught:
        own(tmp_path, *rows, corpus=corpus, **options)
    assert "\n" not in str(caught.value)


def test_a_folder_of_texts_is_a_corpus(tmp_path: Path) -> None:
    folder = tmp_path / "texts"
    (folder / "deep").mkdir(parents=True)
    (folder / "b.md").write_text("Before.\n# Head\nUnder it.\nStill.\n## Next\n\nLast.\n", encoding="utf-8")
    (folder / "deep" / "a.txt").write_text("Plain.\n\nMore.", encoding="utf-8")
    (folder / "image.png").write_bytes(b"\x89PNG")
    assert read_corpus(folder).passages == (
        Passage(id="b.md#1", title="b", text="Before.", source="b.md"),
        Passage(id="b.md#2", title="Head", text="Under it. Still.", source="b.md"),
        Passage(id="b.md#3", title="Next", text="Last.", source="b.md"),
        Passage(id="deep/a.txt#1", title="a", text="Plain.\nMore.", source="deep/a.txt"),
    )
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty holds no passage to retrieve"):
        read_corpus(tmp_path / "empty")


def test_long_texts_are_cut_between_sentences_and_lose_no_word() -> None:
    sentences = [" ".join([f"s{i}"] * 24) + f" e{i}." for i in range(20)]
    endless = " ".join(["word"] * (2 * WORDS + 7))
    text = " ".join(sentences) + "\n\n" + endless + "\n\nshort one"
    pieces = [piece for _, piece in split(text, title="t")]
    assert " ".join(pieces).split() == text.split()
    assert all(len(piece.split()) <= WORDS for piece in pieces)
    assert [piece[-1] for piece in pieces[:5]] == ["."] * 5  # 20 sentences of 25 words: four and a bit a passage
    assert len(pieces) == 8


def test_the_digest_of_a_corpus_is_of_its_content_not_of_its_order() -> None:
    one, two = (Passage(id=name, title="", text=f"text {name}") for name in "ab")
    assert corpus_sha256([one, two]) == corpus_sha256([two, one])
    changed = Passage(id="b", title="", text="text B")
    assert len({corpus_sha256(passages) for passages in ([one, two], [one, changed], [one])}) == 3


def test_rows_with_paragraphs_share_one_corpus_without_duplicates(tmp_path: Path) -> None:
    shared = ("Both", "In two rows.", True)
    rows = [
        hop("x", shared, ("X", "x", False)),
        hop("y", (*shared[:2], False), ("Both", "Same title.", True), ("Both", "Same title.", True)),
        {"id": "z", "question": "z?", "answers": ["z"]},
        hop("w", ("W", "w", True), answers=[]),
    ]
    path = write(tmp_path / "m.jsonl", *rows)
    found = read_questions(QuestionsConfig(name="multihop", path=str(path), difficulty="mixed"), None)
    titles = {passage.id: (passage.title, passage.text) for passage in found.passages}
    assert list(titles.values()) == [shared[:2], ("X", "x"), ("Both", "Same title."), ("W", "w")]
    x, y, *broken = found.questions
    assert [titles[name] for name in x.supporting] == [shared[:2]]
    assert [titles[name] for name in y.supporting] == [("Both", "Same title.")]
    assert x.options == () and x.answer is None and x.answers == ("yes",)
    assert [question.id for question in broken] == ["m.jsonl, line 3", "m.jsonl, line 4"]
    assert 'line 3: "paragraphs" must be a list' in str(broken[0].problem)
    assert found.notes["passages left out as duplicates"] == 2
    assert len(found.problems) == 2


def bench(folder: Path, **levels: list[Any]) -> QuestionsConfig:
    for level in "EMH":
        write(folder / f"fin_{level}.json", *levels.get(level, []))
    return QuestionsConfig(name="oran_bench", path=str(folder), difficulty="mixed")


def row(question: str, key: str = "2", options: int = 4) -> list[Any]:
    return [question, [f"{i}.  option {i}" for i in range(1, options + 1)], key]


def test_oran_bench_rejects_deduplicates_and_flags(tmp_path: Path) -> None:
    easy = [row("One?"), row("ONE? "), row("Two?", options=5), row("Three?", key="5"), row("Four?", options=0), "{"]
    equal = ["Five?", ["1. a", "2. A", "3. b", "4. c"], "1"]
    hard = [row("As said in the provided context, six?"), row("In the context of O-RAN, seven?"), row("One?", key="4")]
    found = read_questions(bench(tmp_path, E=[*easy, equal], H=hard), None)
    first, *others = found.questions
    assert first == Question(
        id="E-1",
        question="One?",
        options=("option 1", "option 2", "option 3", "option 4"),
        answer=1,
        answers=("option 2",),
        difficulty="easy",
    )
    assert {question.id: question.flags for question in others} == {"H-1": (NO_CONTEXT,), "H-2": ()}
    wanted = {
        "questions read": 10,
        "questions rejected: 5 options": 1,
        "questions rejected: 0 options": 1,
        "questions rejected: key 5": 1,
        "questions rejected: two equal options": 1,
        "questions rejected: not [question, options, key]": 1,
        "questions left out as duplicates": 2,
        f"questions flagged {NO_CONTEXT}": 1,
        "questions at this difficulty": 3,
    }
    assert {name: found.notes.get(name) for name in wanted} == wanted
    assert "fin_E.json, line 3: rejected, 5 options." in found.problems and len(found.problems) == 5
    assert len(found.passages) > 100  # oran_mini's


def test_oran_bench_needs_its_three_files(tmp_path: Path) -> None:
    config = bench(tmp_path, E=[row("One?")])
    (tmp_path / "fin_M.json").unlink()
    with pytest.raises(UserError, match="has no fin_M.json; give the folder"):
        read_questions(config, None)


def test_oran_bench_is_shuffled_alike_every_time(tmp_path: Path) -> None:
    config = bench(tmp_path, M=[row(f"Question {i}?") for i in range(40)])
    names = [question.id for question in read_questions(config, None).questions]
    assert names == [question.id for question in read_questions(config, None).questions]
    assert names[:10] == [question.id for question in read_questions(config, 10).questions]
    assert names != sorted(names, key=lambda name: int(name[2:]))
    assert sum(int(name[2:]) <= 20 for name in names[:20]) in range(4, 17)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"name": "oran_mini", "path": "."}, "oran_mini brings its own files"),
        ({"name": "oran_mini", "corpus": "."}, "oran_mini brings its own files"),
        ({"name": "multihop", "path": ".", "corpus": "."}, "takes its passages from its rows"),
        ({"name": "questions", "path": "."}, "needs dataset.corpus"),
        ({"name": "questions", "path": "missing.jsonl", "corpus": "."}, "missing.jsonl does not exist"),
    ],
)
def test_files_that_a_data_set_cannot_use_are_refused(options: dict[str, str], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        QuestionsConfig(**options)
