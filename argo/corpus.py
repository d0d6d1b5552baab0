"""Passages to retrieve from: rows of a JSON Lines file, or a folder of texts cut into passages.

What is broken is listed, what is there twice is kept once, and both are counted. No torch here.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from suite.errors import UserError
from suite.strict_json import parse

WORDS = 120
"""A passage cut from a longer text has at most so many words."""
TEXTS = (".txt", ".md")


@dataclass(frozen=True, slots=True, kw_only=True)
class Passage:
    """One piece of knowledge.

    Attributes:
        id: unique in the corpus.
        title: what it is about; may be empty.
        text: what is handed to the reader.
        source: where it is from; may be empty.
    """

    id: str
    title: str
    text: str
    source: str = ""

    @property
    def indexed(self) -> str:
        """What retrievers compare a query with."""
        return f"{self.title}\n{self.text}" if self.title else self.text


@dataclass(frozen=True, slots=True, kw_only=True)
class Corpus:
    """Everything that can be retrieved.

    Attributes:
        passages: in the order of the data, no text twice.
        kept: id as in the data -> id of the passage that has its text: itself, or the first one with the same text.
        problems: a sentence for every row that could not be used.
        duplicates: passages left out because their text was there already.
    """

    passages: tuple[Passage, ...]
    kept: dict[str, str]
    problems: tuple[str, ...]
    duplicates: int


def corpus_sha256(passages: Iterable[Passage]) -> str:
    """Hex digest of what decides a retriever's answers: ids, titles and texts, whatever their order."""
    rows = sorted((passage.id, passage.title, passage.text) for passage in passages)
    return hashlib.sha256(json.dumps(rows, ensure_ascii=False).encode()).hexdigest()


def read_corpus(path: Path) -> Corpus:
    """The passages of a JSON Lines file of {"id", "text", "title"?, "source"?}, or of a folder's .txt and .md files.

    Raises:
        UserError: there is no passage in it.
    """
    return read_rows([path]) if path.is_file() else _read_folder(path)


def read_rows(paths: Sequence[Path]) -> Corpus:
    """The passages of JSON Lines files, as one corpus."""
    found: list[Passage] = []
    problems: list[str] = []
    for path in paths:
        for where, row in json_rows(path):
            try:
                found.append(_passage(row, where))
            except UserError as error:
                problems.append(str(error))
    return merged(found, problems, " and ".join(str(path) for path in paths))


def merged(found: Iterable[Passage], problems: Iterable[str], where: str) -> Corpus:
    """One corpus: of equal titles and texts the first is kept, of equal ids with different texts too.

    Raises:
        UserError: nothing is left.
    """
    problems, duplicates = list(problems), 0
    kept: dict[str, str] = {}
    by_text: dict[tuple[str, str], Passage] = {}
    for passage in found:
        content = (passage.title, passage.text)
        first = by_text.get(content, passage)
        if kept.get(passage.id, first.id) != first.id or (first is passage and passage.id in kept):
            problems.append(f"the passage id {passage.id!r} is taken by another text; give each passage its own.")
            continue
        duplicates += content in by_text
        kept[passage.id] = by_text.setdefault(content, passage).id
    if not by_text:
        reason = f" ({problems[0]})" if problems else ""
        raise UserError(f"{where} holds no passage to retrieve{reason}; give a corpus with at least one.")
    return Corpus(passages=tuple(by_text.values()), kept=kept, problems=tuple(problems), duplicates=duplicates)


def json_rows(path: Path) -> Iterator[tuple[str, Any]]:
    """(where, row) of each line that is not blank; the row is an `UserError` where the line is no JSON."""
    # Not splitlines: JSON may hold other line separators raw inside a text.
    for number, line in enumerate(path.read_text(encoding="utf-8-sig", errors="replace").split("\n"), start=1):
        if line.strip():
            where = f"{path.name}, line {number}"
            try:
                yield where, parse(line)
            except ValueError as error:
                yield where, UserError(f"{where}: not JSON ({error}); mend or delete the line.")


def text_of(row: dict[str, Any], key: str, where: str, *, default: str | None = None) -> str:
    """A text of a row, stripped.

    Raises:
        UserError: it is no text; or it is missing or blank, and there is no default.
    """
    value = row.get(key)
    if value is None and default is not None:
        return default
    if not isinstance(value, str) or (default is None and not value.strip()):
        raise UserError(f'{where}: no text under "{key}"; each row needs one.')
    return value.strip()


def _passage(row: Any, where: str) -> Passage:
    if isinstance(row, UserError):
        raise row
    if not isinstance(row, dict):
        raise UserError(f'{where}: not a JSON object; each row needs an "id" and a "text".')
    return Passage(
        id=text_of(row, "id", where),
        title=text_of(row, "title", where, default=""),
        text=text_of(row, "text", where),
        source=text_of(row, "source", where, default=""),
    )


def _read_folder(folder: Path) -> Corpus:
    found = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix in TEXTS):
        name = path.relative_to(folder).as_posix()
        pieces = split(path.read_text(encoding="utf-8-sig", errors="replace"), title=path.stem)
        found += [
            Passage(id=f"{name}#{number}", title=title, text=text, source=name)
            for number, (title, text) in enumerate(pieces, start=1)
        ]
    return merged(found, [], str(folder))


def split(text: str, *, title: str = "", words: int = WORDS) -> list[tuple[str, str]]:
    """(title, text) of passages of at most `words` words, cut between paragraphs, else between sentences.

    A Markdown heading starts a passage and is its title; before the first one it is `title`.
    """
    passages: list[tuple[str, str]] = []
    gathered: list[str] = []

    def end() -> None:
        if gathered:
            passages.append((title, "\n".join(gathered)))
            gathered.clear()

    # A heading is a paragraph of its own even where no blank line sets it off.
    for block in re.split(r"\n\s*\n|(?m:^(?=#{1,6}\s))", text):
        heading, _, rest = block.strip().partition("\n")
        if re.match(r"#{1,6}\s", heading):
            end()
            title, block = heading.lstrip("#").strip(), rest
        for piece in _pieces(" ".join(block.split()), words):
            if gathered and sum(len(part.split()) for part in (*gathered, piece)) > words:
                end()
            gathered.append(piece)
    end()
    return passages


def _pieces(paragraph: str, words: int) -> list[str]:
    """The paragraph whole if it is short enough, else its sentences, and of a sentence too long its words."""
    if len(paragraph.split()) <= words:
        return [paragraph] if paragraph else []
    pieces: list[str] = []
    for sentence in re.split(r"(?<=[.!?])\s+", paragraph):
        parts = sentence.split()
        cut = [" ".join(parts[start : start + words]) for start in range(0, len(parts), words)]
        if pieces and len(cut) == 1 and len(pieces[-1].split()) + len(parts) <= words:
            pieces[-1] = f"{pieces[-1]} {sentence}"
        else:
            pieces += cut
    return pieces
