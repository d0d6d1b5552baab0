"""What is asked, and the passages that may answer it: the embedded set, ORAN-Bench-13K, or data of one's own.

Rows of one's own (JSON Lines):

    {"id", "question", "options": [...], "answer": index of the right option, counted from 0, ...}
    {"id", "question", "answers": [accepted texts], ...}             free form
    and if known "difficulty" (easy, medium, hard) and "supporting": [ids of the passages that hold the answer]

`multihop` rows bring "paragraphs": [{"title", "text", "supporting": true or false}] instead; those of all rows together
are the corpus. A broken row is a question with a `problem`: it fails, is counted and listed, and the run goes on.
No torch here.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

from argo.corpus import Corpus, Passage, json_rows, merged, read_corpus, read_rows, text_of
from argo.schema import QuestionsConfig
from suite.errors import UserError, nearest
from suite.paths import zoo_dir

LEVELS = ("easy", "medium", "hard")
KEYS = ("1", "2", "3", "4")
NO_CONTEXT = "no_context"
"""Flag of a question that leans on a text which its data set does not bring."""
_TEXT = r"(?:context|text|document|documents|passage|excerpt|paragraph|documentation|specification|section|information)"
_LEANS = re.compile(
    rf"\b(?:provided|given|above|supplied|following)\s+(?:[\w-]+\s+)?{_TEXT}\b"
    r"|\bthe (?:context|text|passage|excerpt|document)\b(?! of\b)"
    r"|\b(?:the|this) (?:described|mentioned|given|provided)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One question.

    Attributes:
        id: unique in the data set.
        question: its words.
        options: what to choose from; empty: free form.
        answer: index of the right option; None of a free-form question.
        answers: accepted texts; the right option alone, of multiple choice.
        difficulty: `easy`, `medium` or `hard`; empty where the data does not tell.
        supporting: ids of the passages that hold the answer; empty where the data does not tell.
        flags: what a reader of the results should know, such as `no_context`.
        problem: why the row cannot be used, None when it can.
    """

    id: str
    question: str = ""
    options: tuple[str, ...] = ()
    answer: int | None = None
    answers: tuple[str, ...] = ()
    difficulty: str = ""
    supporting: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    problem: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class QuestionSet:
    """What a run asks, and what it may look up.

    Attributes:
        questions: those of the run, in order; the broken ones last.
        passages: the whole corpus, whichever questions are asked.
        notes: what was read, left out and flagged -> how many.
        problems: a sentence for every row, of questions or passages, that cannot be used.
    """

    questions: list[Question]
    passages: tuple[Passage, ...]
    notes: dict[str, int]
    problems: tuple[str, ...] = ()


def read_questions(dataset: QuestionsConfig, limit: int | None) -> QuestionSet:
    """The first `limit` questions of a data set at its difficulty, and its whole corpus.

    Difficulties take turns, and so do the parts of `oran_mini`; inside a part its questions and ORAN-Bench's are in a
    shuffled order that is always the same. So every head of the list is a fair sample, and a longer run asks what a
    shorter one asked. Data of one's own stays in its order.

    Raises:
        UserError: no question or no passage is left, with the reason.
    """
    parts, corpus, notes, problems = _READERS[dataset.name](dataset)
    everything = list(chain.from_iterable(parts))
    good = [[question for question in part if question.problem is None] for part in parts]
    broken = [question for question in everything if question.problem is not None]
    problems += [str(question.problem) for question in broken]
    asked = _at(dataset.difficulty, good)
    if not asked:
        raise UserError(_nothing(dataset, good, problems))
    notes |= {
        "questions read": notes.get("questions read", len(everything)),
        "questions broken": len(broken),
        "questions at this difficulty": len(asked),
        f"questions flagged {NO_CONTEXT}": sum(NO_CONTEXT in question.flags for question in asked),
        "passages": len(corpus.passages),
        "passages left out as duplicates": corpus.duplicates,
        "passages broken": len(corpus.problems),
    }
    return QuestionSet(
        questions=[*asked, *broken][:limit],
        passages=corpus.passages,
        notes=notes,
        problems=(*problems, *corpus.problems),
    )


def _at(difficulty: str, parts: Sequence[Sequence[Question]]) -> list[Question]:
    """The questions of one difficulty, the parts in turn; of `mixed` all, the difficulties in turn."""

    def level(name: str) -> list[Question]:
        return _in_turn([[question for question in part if question.difficulty == name] for part in parts])

    return _in_turn([level(name) for name in (*LEVELS, "")]) if difficulty == "mixed" else level(difficulty)


def _in_turn(groups: Iterable[Sequence[Question]]) -> list[Question]:
    """One of each, again and again; a group that has ended is passed over."""
    return [question for round_ in zip_longest(*groups) for question in round_ if question is not None]


def _nothing(dataset: QuestionsConfig, parts: Sequence[Sequence[Question]], problems: Sequence[str]) -> str:
    known = sorted({question.difficulty or "none told" for question in chain.from_iterable(parts)})
    if known:
        return (
            f"dataset={dataset.name} has no question of dataset.difficulty={dataset.difficulty} "
            f"(its difficulties: {', '.join(known)}); dataset.difficulty=mixed takes all."
        )
    where = dataset.path or dataset.name
    reason = f" ({problems[0]})" if problems else ""
    return f"{where} holds no question that can be asked{reason}; see the data formats in argo/questions.py."


_Read = tuple[list[list[Question]], Corpus, dict[str, int], list[str]]
"""Parts, corpus, notes, and problems of what is left out."""


def _oran_mini(dataset: QuestionsConfig) -> _Read:
    home = zoo_dir() / "oran_mini"
    corpus = mini_corpus()
    parts = []
    for path in sorted(home.glob("questions_*.jsonl")):
        rows = [(where, row) for where, row in json_rows(path) if _split(row) in (dataset.split, None)]
        parts.append(_shuffled(_questions(rows, corpus)))
    return parts, corpus, {}, []


def mini_corpus() -> Corpus:
    """The passages of `oran_mini`."""
    return read_rows(sorted((zoo_dir() / "oran_mini").glob("passages_*.jsonl")))


def _split(row: Any) -> str | None:
    return row.get("split") if isinstance(row, dict) else None


def _own(dataset: QuestionsConfig) -> _Read:
    assert dataset.path is not None and dataset.corpus is not None  # QuestionsConfig checks
    corpus = read_corpus(Path(dataset.corpus).expanduser())
    return [_questions(json_rows(Path(dataset.path).expanduser()), corpus)], corpus, {}, []


def _multihop(dataset: QuestionsConfig) -> _Read:
    assert dataset.path is not None
    path = Path(dataset.path).expanduser()
    rows: list[tuple[str, Any]] = []
    found: list[Passage] = []
    for where, row in json_rows(path):
        try:
            brought = _paragraphs(row, where)
        except UserError as error:
            rows.append((where, error))
            continue
        found += [passage for passage, _ in brought]
        supporting = dict.fromkeys(passage.id for passage, supports in brought if supports)
        rows.append((where, {**row, "supporting": list(supporting)}))
    broken = [str(row) for _, row in rows if isinstance(row, UserError)]
    corpus = merged(found, broken[:1], str(path))
    corpus = replace(corpus, problems=())  # those of the rows are the questions' own
    return [_questions(rows, corpus)], corpus, {}, []


def _paragraphs(row: Any, where: str) -> list[tuple[Passage, bool]]:
    if isinstance(row, UserError):
        raise row
    paragraphs = row.get("paragraphs") if isinstance(row, dict) else None
    if not isinstance(paragraphs, list) or not all(isinstance(paragraph, dict) for paragraph in paragraphs):
        raise UserError(f'{where}: "paragraphs" must be a list of objects with "title", "text" and "supporting".')
    found = []
    for paragraph in paragraphs:
        title = text_of(paragraph, "title", where, default="")
        text = text_of(paragraph, "text", where)
        # By content, so that a paragraph has the same id in whichever rows it stands.
        digest = hashlib.sha256(json.dumps([title, text]).encode()).hexdigest()[:8]
        passage = Passage(id=f"{title} [{digest}]", title=title, text=text)
        found.append((passage, paragraph.get("supporting") is True))
    return found


def _questions(rows: Iterable[tuple[str, Any]], corpus: Corpus) -> list[Question]:
    questions: list[Question] = []
    seen: set[str] = set()
    for where, row in rows:
        try:
            question = _question(row, where, corpus)
            if question.id in seen:
                raise UserError(f"{where}: the id {question.id!r} is taken; give each row its own.")
        except UserError as error:
            question = Question(id=where, problem=str(error))
        seen.add(question.id)
        questions.append(question)
    return questions


def _question(row: Any, where: str, corpus: Corpus) -> Question:
    if isinstance(row, UserError):
        raise row
    if not isinstance(row, dict):
        raise UserError(f'{where}: not a JSON object; each row needs a "question".')
    words = text_of(row, "question", where)
    options, answer, answers = _answer(row, where)
    difficulty = text_of(row, "difficulty", where, default="")
    if difficulty not in (*LEVELS, ""):
        raise UserError(
            f'{where}: "difficulty" {difficulty!r} is not one of {", ".join(LEVELS)}.{nearest(difficulty, LEVELS)}'
        )
    supporting = row.get("supporting", [])
    if not isinstance(supporting, list) or not all(isinstance(name, str) for name in supporting):
        raise UserError(f'{where}: "supporting" must be a list of ids of passages.')
    if unknown := [name for name in supporting if name not in corpus.kept]:
        raise UserError(f'{where}: "supporting" names {unknown[0]!r}, which is no id of the corpus.')
    return Question(
        id=str(row.get("id", where)),
        question=words,
        options=options,
        answer=answer,
        answers=answers,
        difficulty=difficulty,
        supporting=tuple(dict.fromkeys(corpus.kept[name] for name in supporting)),
    )


def _answer(row: dict[str, Any], where: str) -> tuple[tuple[str, ...], int | None, tuple[str, ...]]:
    """Options, index of the right one, accepted texts."""
    options, answer, answers = row.get("options") or [], row.get("answer"), row.get("answers")
    if not options:
        if not _texts(answers) or not answers:
            raise UserError(f'{where}: neither "options" with an "answer" nor "answers", a list of accepted texts.')
        return (), None, tuple(text.strip() for text in answers)
    if not _texts(options) or len({text.strip() for text in options}) < max(2, len(options)):
        raise UserError(f'{where}: "options" must be two different texts or more.')
    if answers is not None:
        raise UserError(f'{where}: both "options" and "answers"; give "options" with "answer", or "answers" alone.')
    if isinstance(answer, bool) or not isinstance(answer, int) or not 0 <= answer < len(options):
        raise UserError(
            f'{where}: "answer" {answer!r} must be the index of the right option, counted from 0 '
            f"(0 to {len(options) - 1} here)."
        )
    stripped = tuple(text.strip() for text in options)
    return stripped, answer, (stripped[answer],)


def _texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) and text.strip() for text in value)


def _oran_bench(dataset: QuestionsConfig) -> _Read:
    """ORAN-Bench-13K (Gajjar and Shah 2024, arXiv:2407.06245): lines [question, ["1. ...", ...], "1".."4"]."""
    assert dataset.path is not None
    folder = Path(dataset.path).expanduser()
    corpus = mini_corpus() if dataset.corpus is None else read_corpus(Path(dataset.corpus).expanduser())
    counts: Counter[str] = Counter()
    problems: list[str] = []
    seen: set[str] = set()
    questions: list[Question] = []
    for level in LEVELS:
        path = folder / f"fin_{level[0].upper()}.json"
        if not path.is_file():
            raise UserError(f"dataset.path={folder} has no {path.name}; give the folder with ORAN-Bench-13K's files.")
        for where, row in json_rows(path):
            counts["questions read"] += 1
            words, options, key, why = _bench_row(row)
            if why:
                counts[f"questions rejected: {why}"] += 1
                problems.append(f"{where}: rejected, {why}.")
                continue
            if (plain := " ".join(words.lower().split())) in seen:
                counts["questions left out as duplicates"] += 1
                continue
            seen.add(plain)
            questions.append(
                Question(
                    id=f"{level[0].upper()}-{where.rpartition(' ')[2]}",
                    question=words,
                    options=options,
                    answer=key,
                    answers=(options[key],),
                    difficulty=level,
                    flags=(NO_CONTEXT,) if _LEANS.search(words) else (),
                )
            )
    return [_shuffled(questions)], corpus, dict(counts), problems


def _bench_row(row: Any) -> tuple[str, tuple[str, ...], int, str]:
    """Question, options without their numbers, index of the right one; last, why the row is no good, else empty."""
    if not isinstance(row, list) or len(row) != 3 or not isinstance(row[0], str) or not isinstance(row[1], list):
        return "", (), 0, "not [question, options, key]"
    words, numbered, key = row
    if not words.strip():
        return "", (), 0, "no question"
    options = tuple(re.sub(r"^\s*\d+\.\s*", "", str(text)).strip() for text in numbered)
    if len(options) != len(KEYS):
        return "", (), 0, f"{len(options)} options"
    if key not in KEYS:
        return "", (), 0, f"key {key}"
    if len({text.lower() for text in options if text}) < len(KEYS):
        return "", (), 0, "two equal options"
    return words.strip(), options, KEYS.index(key), ""


def _shuffled(questions: list[Question]) -> list[Question]:
    """An order that says nothing and depends on nothing but each question's id."""
    return sorted(questions, key=lambda question: hashlib.blake2b(question.id.encode(), digest_size=16).digest())


_READERS = {"oran_mini": _oran_mini, "oran_bench": _oran_bench, "questions": _own, "multihop": _multihop}
