"""The unified manifest: one JSON file beside the audio that says what each clip is and how people captioned it.

    {
      "version": 1,
      "name": "my-clips",
      "license": "CC-BY-4.0",
      "emotions": {"happy": ["happy", "cheerful", "高兴"], "sad": ["sad", "悲伤"]},
      "items": [
        {
          "id": "a-001",
          "audio": "wav/a-001.wav",
          "seconds": 3.2,
          "sha256": "9f86d0...",
          "transcript": "...", "emotion": "happy", "speaker": "f1",
          "captions": {
            "original":   {"chinese": ["..."], "english": ["..."]},
            "audio_only": {"chinese": ["..."], "english": ["..."]}
          }
        }
      ]
    }

An item needs only `audio`, a path inside the manifest's folder, and the captions asked for: `original` ones tell of
the voice and of what it says, `audio_only` ones of the voice alone. `emotions` lists the words that name each emotion,
for the metric `emotion_accuracy`. A bare list of items is a manifest too; a text stands for a list of one, and null for
what is left out.

    python -m edgecloud.manifest check FILE      counts, and every broken row; exit code 1 if there is any
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import re
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path, PureWindowsPath
from typing import Any

from edgecloud.instructions import CAPTION_TYPES, LANGUAGES
from suite.errors import UserError, nearest

KEYS = ("version", "name", "license", "emotions", "items")
ITEM_KEYS = ("id", "audio", "seconds", "sha256", "transcript", "emotion", "speaker", "captions")
Captions = dict[str, dict[str, tuple[str, ...]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One clip.

    Attributes:
        id: unique in the manifest.
        audio: path relative to the manifest's folder.
        sha256: of the audio file's bytes, None where not given.
        emotion: empty where not given.
        captions: caption type -> language -> texts; may lack a type or a language.
        problem: why the row cannot be used, None when it can.
    """

    id: str
    audio: str = ""
    sha256: str | None = None
    emotion: str = ""
    captions: Captions = field(default_factory=dict)
    problem: str | None = None

    def references(self, caption_type: str, language: str) -> tuple[str, ...]:
        """Captions of one type and language, empty where there are none."""
        return self.captions.get(caption_type, {}).get(language, ())


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """A manifest as read: every row is an item, broken ones with a `problem`.

    Attributes:
        path: the file.
        name: of the data set; the folder's where not given.
        license: empty where not given.
        items: in the file's order.
        emotions: emotion -> words that name it; empty where not given.
        warnings: unknown keys, one sentence each.
    """

    path: Path
    name: str
    license: str
    items: tuple[Item, ...]
    emotions: dict[str, tuple[str, ...]]
    warnings: tuple[str, ...]

    def clip(self, item: Item) -> Path:
        """The item's audio file.

        Raises:
            UserError: the row is broken, the path leaves the folder, or the file is missing or not the one described.
        """
        if item.problem:
            raise UserError(item.problem)
        where, given = f"{self.path.name}, {item.id}", PureWindowsPath(item.audio)  # knows both kinds of slash
        if given.anchor or ".." in given.parts:
            raise UserError(f"{where}: audio {item.audio!r} must be a path inside the manifest's folder.")
        try:
            path = self.path.parent / item.audio
            if not _inside(path, self.path.parent):
                raise UserError(f"{where}: audio {item.audio!r} is a link out of the manifest's folder; copy the file.")
            if not path.is_file():
                raise UserError(f"{where}: audio {item.audio!r} does not exist beside the manifest.")
            if item.sha256 and file_sha256(path) != item.sha256.lower():
                raise UserError(f"{where}: audio {item.audio!r} is not the file whose sha256 the manifest gives.")
        except (
            OSError,
            ValueError,
            RuntimeError,
        ) as error:  # a name no system can hold, no permission, a link to itself
            raise UserError(f"{where}: audio {item.audio!r} cannot be read ({error}).") from error
        return path


def file_sha256(path: Path) -> str:
    """SHA-256 (hex) of a file; a process reads it again only when its size or time of change differs."""
    stat = path.stat()
    return _file_sha256(path, stat.st_size, stat.st_mtime_ns)


@cache
def _file_sha256(path: Path, size: int, mtime_ns: int) -> str:
    del size, mtime_ns  # they are there so that a changed file is read again
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@cache  # a sweep asks thrice a job for every clip
def _inside(path: Path, folder: Path) -> bool:
    """Whether a file is in a folder, links followed."""
    return path.resolve().is_relative_to(folder.resolve())


def read_manifest(path: Path) -> Manifest:
    """Read a manifest, again only when its size or time of change differs; no audio is opened.

    Raises:
        UserError: the file as a whole is no manifest: not JSON, no items, another version, a broken `emotions`.
    """
    try:
        stat = path.stat()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); give the path of a manifest.") from error
    return _read_manifest(path, stat.st_size, stat.st_mtime_ns)


@cache
def _read_manifest(path: Path, size: int, mtime_ns: int) -> Manifest:
    del size, mtime_ns
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); give the path of a manifest.") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON ({error}); a manifest is one JSON object with items.") from error
    if isinstance(content, list):
        content = {"items": content}
    if not isinstance(content, dict) or not isinstance(content.get("items"), list) or not content["items"]:
        raise UserError(f'{path} has no "items"; a manifest is one JSON object with a list of items.')
    if content.get("version", 1) != 1:
        raise UserError(f'{path} has version {content["version"]!r}; this suite reads "version": 1.')
    warnings = list(_unknown(content, KEYS, path.name))
    items: dict[str, Item] = {}
    for number, row in enumerate(content["items"], start=1):
        where = f"{path.name}, item {number}"
        item = _item(row, where)
        if item.id in items:
            problem = f"{where}: the id {item.id!r} is taken; give each item its own."
            item = Item(id=f"{item.id} (item {number})", problem=problem)
        items[item.id] = item
        warnings += _unknown(row, ITEM_KEYS, where)
    return Manifest(
        path=path,
        name=_printable(content.get("name") or path.parent.name),
        license=_printable(content.get("license") or ""),
        items=tuple(items.values()),
        emotions=_emotions(content.get("emotions") or {}, path),
        warnings=tuple(warnings),
    )


def _item(row: Any, where: str) -> Item:
    if not isinstance(row, dict):
        return Item(id=where, problem=f"{where}: not a JSON object; each item must be one.")
    name = _printable(row.get("id", where))
    if reason := next(_problems(row), None):
        return Item(id=name, problem=f"{where}: {reason}")
    captions = {
        kind: {language: _texts(texts) for language, texts in by_language.items() if texts is not None}
        for kind, by_language in (row.get("captions") or {}).items()
        if by_language is not None
    }
    return Item(
        id=name, audio=row["audio"], sha256=row.get("sha256"), emotion=row.get("emotion") or "", captions=captions
    )


def _problems(row: dict[str, Any]) -> Iterator[str]:
    """What is wrong with an item, one sentence each."""
    if not isinstance(row.get("id", ""), str | int) or row.get("id") == "":
        yield '"id" must be a text.'
    if not _is_text(row.get("audio")):
        yield 'no path under "audio"; each item needs one.'
    seconds = row.get("seconds")
    if seconds is not None and (not isinstance(seconds, int | float) or not seconds > 0):
        yield '"seconds" must be a number above 0.'
    if row.get("sha256") is not None and not re.fullmatch("[0-9a-fA-F]{64}", str(row["sha256"])):
        yield '"sha256" must be 64 hexadecimal digits.'
    for key in ("transcript", "emotion", "speaker"):
        if row.get(key) not in (None, "") and not _is_text(row[key]):
            yield f'"{key}" must be a text.'
    captions = row.get("captions") or {}
    if not isinstance(captions, dict) or not all(isinstance(kind, dict | None) for kind in captions.values()):
        yield '"captions" must be {type: {language: [texts]}}.'
        return
    for kind, by_language in captions.items():
        if kind not in CAPTION_TYPES:
            yield f"the caption type {kind!r} is not one of {', '.join(CAPTION_TYPES)}.{nearest(kind, CAPTION_TYPES)}"
        for language, texts in (by_language or {}).items():
            if language not in LANGUAGES:
                yield f"the language {language!r} is not one of {', '.join(LANGUAGES)}.{nearest(language, LANGUAGES)}"
            if texts is not None and not _texts(texts):
                yield f"the {language} captions of type {kind!r} must be a list of texts, left out if there are none."


def _texts(value: Any) -> tuple[str, ...]:
    """The texts of a list of texts, or of one text; nothing where it is neither."""
    texts = [value] if isinstance(value, str) else value
    return tuple(texts) if isinstance(texts, list) and all(map(_is_text, texts)) else ()


def _is_text(value: Any) -> bool:
    """Whether it is a text with something in it; half of a surrogate pair is none, no file could hold it."""
    return isinstance(value, str) and bool(value.strip()) and _printable(value) == value


def _printable(value: Any) -> str:
    """The value as a text that every file and terminal takes."""
    return str(value).encode(errors="backslashreplace").decode()


def _emotions(lexicon: Any, path: Path) -> dict[str, tuple[str, ...]]:
    if not isinstance(lexicon, dict) or not all(map(_texts, lexicon.values())):
        raise UserError(f'{path}: "emotions" must be {{emotion: [words that name it]}}.')
    return {emotion: _texts(words) for emotion, words in lexicon.items()}


def _unknown(row: Any, known: tuple[str, ...], where: str) -> Iterator[str]:
    for key in row if isinstance(row, dict) else ():
        if key not in known:
            yield f"{where}: the key {key!r} is not known and not used.{nearest(key, known)}"


def check(manifest: Manifest) -> int:
    """Print the counts, warnings and broken rows of a manifest; the number of broken rows. Audio: headers only."""
    from edgecloud.audio import clip_seconds

    broken: list[tuple[str, str]] = []
    good: list[Item] = []
    total_s = 0.0
    for item in manifest.items:
        try:
            total_s += clip_seconds(manifest.clip(item))
            good.append(item)
        except UserError as error:
            broken.append((item.id, str(error)))
    print(f"{manifest.name}: {len(good)} good items, {total_s:.1f} s, license: {manifest.license or 'not given'}")
    for kind in CAPTION_TYPES:
        counts = (f"{sum(len(item.references(kind, language)) for item in good)} {language}" for language in LANGUAGES)
        print(f"  {kind} captions: {', '.join(counts)}")
    emotions = Counter(item.emotion for item in good if item.emotion)
    print(f"  emotions: {', '.join(f'{name} {n}' for name, n in sorted(emotions.items())) or 'not given'}")
    unnamed = [name for name in sorted(emotions) if manifest.emotions and name not in manifest.emotions]
    for warning in (*manifest.warnings, *(f'"emotions" has no words for {name!r}.' for name in unnamed)):
        print(f"warning: {warning}")
    for name, reason in broken:
        print(f"broken: {name}: {reason}")
    print(f"{len(broken)} of {len(manifest.items)} items are broken." if broken else "No item is broken.")
    return len(broken)


def main(arguments: list[str] | None = None) -> int:
    """Exit code: 0 nothing broken, 1 something is, 2 wrong usage."""
    parser = argparse.ArgumentParser(prog="python -m edgecloud.manifest", description="Look after unified manifests.")
    commands = parser.add_subparsers(required=True, metavar="check")
    one = commands.add_parser("check", help="count the clips and captions of a manifest, and list every broken row")
    one.add_argument("file", type=Path, metavar="FILE")
    file = parser.parse_args(arguments).file
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal may not know the manifest's letters
    if not file.is_file():
        parser.error(f"{file} does not exist; give the path of a manifest.")
    try:
        return min(check(read_manifest(file)), 1)
    except UserError as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
