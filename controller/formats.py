"""Data sets as their makers publish them, read row by row; nothing is checked here beyond the file's own shape.

`vqa_mini`   zoo/molmoe_tiny/held_out: {tune,test}.jsonl and .zip, the four sets that come with this suite
`textvqa`    Singh et al. 2019, arXiv:1904.08920: {"data": [{"question_id", "question", "image_id", "answers"}]}
`vqav2`      Goyal et al. 2017, arXiv:1612.00837: {"questions": [{"question_id", "image_id", "question"}]} and
             {"annotations": [{"question_id", "answers": [{"answer"}]}]}; images COCO_val2014_000000000042.jpg
`okvqa`      Marino et al. 2019, arXiv:1906.00067: as vqav2; where a row has five answers, each counts twice
`scienceqa`  Lu et al. 2022, arXiv:2209.09513: problems.json, {id: {"question", "choices", "answer", "hint", "image",
             "split"}}, beside images/SPLIT/ID/image.png; rows without an image are left out
`easy_vqa`   the package easy-vqa 1.0: {train,test}/questions.json, [[question, answer, image]], and images/NUMBER.png

Splits: `tune` is what is not `test`. Where the makers tell no split, a fifth of the images are `test`, told by a hash
of the image's own id, so that no image is in both, in this data set and in any other of the same images.
"""

from __future__ import annotations

import hashlib
import json
import string
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from controller.schema import VqaConfig
from suite.errors import UserError
from suite.paths import zoo_dir
from suite.strict_json import parse

LETTERS = string.ascii_uppercase
"""Names of the options of a multiple choice."""
TEST_SHARE = 5
"""One image in so many is `test`, where the makers tell no split."""
_SHAPES = {
    "textvqa": (dict, 'TextVQA\'s, an object with the list "data"'),
    "vqav2": (dict, 'VQA\'s, an object with the list "{key}"'),
    "okvqa": (dict, 'OK-VQA\'s, an object with the list "{key}"'),
    "scienceqa": (dict, "ScienceQA's problems.json, an object of questions by their ids"),
    "easy_vqa": (list, "easy-vqa's, a list of [question, answer, image]"),
}
"""What a file of each format holds, as JSON and in words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What a file says of one question. `Any` is unchecked."""

    where: str
    """File and row, for sentences."""
    dataset: str
    split: str
    home: Path
    """Folder or zip of the images."""
    image: str
    id: Any
    question: Any
    answers: Any
    """List of one answer or ten; of a multiple choice the letter of the right option."""
    choices: Any = ()
    """Options of a multiple choice."""


def rows(config: VqaConfig) -> Iterator[Row]:
    """Every row of a data set, in the order of its files.

    Raises:
        UserError: a file is not of this format.
    """
    return _READERS[config.name](config)


def _vqa_mini(_: VqaConfig) -> Iterator[Row]:
    folder = zoo_dir() / "molmoe_tiny" / "held_out"
    for split in ("tune", "test"):
        path = folder / f"{split}.jsonl"
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            row = json.loads(line)
            yield Row(
                where=f"{path.name}, line {number}",
                dataset=row["dataset"],
                split=split,
                home=path.with_suffix(".zip"),
                image=row["image"],
                id=row["id"],
                question=row["question"],
                answers=[row["answer"]],
            )


def _textvqa(config: VqaConfig) -> Iterator[Row]:
    path, home = _given(config.path), _given(config.images)
    for number, row in enumerate(_rows(_file(path, config.name, "data")["data"])):
        yield Row(
            where=f"{path.name}, data[{number}]",
            dataset=config.name,
            split=_split(row.get("image_id")),
            home=home,
            image=f"{row.get('image_id')}.jpg",
            id=row.get("question_id"),
            question=row.get("question"),
            answers=row.get("answers"),
        )


def _vqav2(config: VqaConfig) -> Iterator[Row]:
    path, home = _given(config.path), _given(config.images)
    annotations = _rows(_file(_given(config.annotations), config.name, "annotations")["annotations"])
    answered = {str(row.get("question_id")): row.get("answers") for row in annotations}
    asked = _file(path, config.name, "questions")
    subset = asked.get("data_subtype", "val2014")
    for number, row in enumerate(_rows(asked["questions"])):
        yield Row(
            where=f"{path.name}, questions[{number}]",
            dataset=config.name,
            split=_split(row.get("image_id")),
            home=home,
            image=f"COCO_{subset}_{str(row.get('image_id')).zfill(12)}.jpg",
            id=row.get("question_id"),
            question=row.get("question"),
            answers=_ten(answered.get(str(row.get("question_id"))), twice=config.name == "okvqa"),
        )


def _ten(answers: Any, *, twice: bool) -> Any:
    """The texts of annotators' answers; `twice`: of five each two times."""
    if not isinstance(answers, list):
        return None
    texts = [answer.get("answer") if isinstance(answer, dict) else None for answer in answers]
    return [text for text in texts for _ in range(2)] if twice and len(texts) == 5 else texts


def _scienceqa(config: VqaConfig) -> Iterator[Row]:
    folder = _given(config.path)
    path = folder / "problems.json"
    found = _file(path, config.name)
    for (key, told), row in zip(found.items(), _rows(list(found.values())), strict=True):
        if isinstance(told, dict) and not row.get("image"):
            continue
        choices, answer, question = row.get("choices"), row.get("answer"), row.get("question")
        options = choices if isinstance(choices, list) else []
        right = answer if type(answer) is int and 0 <= answer < min(len(options), len(LETTERS)) else None
        yield Row(
            where=f"{path.name}, {key}",
            dataset=config.name,
            split="test" if row.get("split") == "test" else "tune",
            home=folder / "images",
            image=f"{row.get('split')}/{key}/{row.get('image')}",
            id=key,
            question=_asked(row.get("hint"), question, options) if question else None,
            answers=[LETTERS[right]] if right is not None else None,
            choices=options,
        )


def _asked(hint: Any, question: Any, options: list[Any]) -> str:
    """`hint question A option B option`."""
    listed = (f"{letter} {option}" for letter, option in zip(LETTERS, options, strict=False))
    return " ".join(str(part).strip() for part in (hint or "", question, *listed)).strip()


def _easy_vqa(config: VqaConfig) -> Iterator[Row]:
    folder = _given(config.path)
    for part, split in (("train", "tune"), ("test", "test")):
        path = folder / part / "questions.json"
        for number, row in enumerate(_file(path, config.name)):
            question, answer, image = row if isinstance(row, list) and len(row) == 3 else (None, None, None)
            yield Row(
                where=f"{part}/{path.name}, row {number}",
                dataset=config.name,
                split=split,
                home=path.parent / "images",
                image=f"{image}.png",
                id=f"{part}-{number}",
                question=question,
                answers=[answer],
            )


_READERS = {
    "vqa_mini": _vqa_mini,
    "textvqa": _textvqa,
    "vqav2": _vqav2,
    "okvqa": _vqav2,
    "scienceqa": _scienceqa,
    "easy_vqa": _easy_vqa,
}


def _given(path: str | None) -> Path:
    assert path is not None  # VqaConfig checks
    return Path(path).expanduser()


def _file(path: Path, name: str, key: str | None = None) -> Any:
    """A JSON file of a format; of an object with a `key` that must be a list there.

    Raises:
        UserError: it is none.
    """
    kind, words = _SHAPES[name]
    expected = f"give a file that is {words.format(key=key)}"
    try:
        found = parse(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); {expected}.") from error
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error}); {expected}.") from error
    if not isinstance(found, kind) or (key is not None and not isinstance(found.get(key), list)):
        raise UserError(f"{path} is of another format; {expected}.")
    return found


def _rows(found: list[Any]) -> list[dict[str, Any]]:
    """Rows as objects; one that is none says nothing, and will be missed where it is checked."""
    return [row if isinstance(row, dict) else {} for row in found]


def _split(image_id: Any) -> str:
    digest = hashlib.blake2b(str(image_id).encode(errors="replace"), digest_size=8).digest()
    return "test" if int.from_bytes(digest) % TEST_SHARE == 0 else "tune"
