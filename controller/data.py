"""Questions about images, each usable or with the reason why not; read from the formats of formats.py.

Of every set and split the first `dataset.max_samples` rows are taken, in the order of the file and broken ones too, so
a longer run asks what a shorter one asked. Images are opened when they are needed.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from PIL import Image

from controller.formats import LETTERS, Row, rows
from controller.images import ImageFile
from controller.schema import VqaConfig
from suite.errors import UserError
from suite.quality.vqa import letter_match, vqa_accuracy

SPLITS = ("tune", "test")
ANNOTATORS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One question about one image."""

    id: str
    """Unique in the data."""
    dataset: str
    split: str
    """`tune` or `test`."""
    question: str
    """As the model sees it, options included: `... A an ion B a salt`."""
    answers: tuple[str, ...]
    """One of each of ten annotators, or the one right answer; of a multiple choice by letters its letter."""
    choices: tuple[str, ...]
    """Options of a multiple choice that is answered by their letters; else empty."""
    image: ImageFile
    problem: str = ""
    """Why it cannot be used, a sentence; empty if nothing speaks against it."""

    def open(self) -> Image.Image:
        """The image, RGB.

        Raises:
            UserError: it does not open; names the sample.
        """
        try:
            return self.image.open()
        except UserError as error:
            raise UserError(f"sample {self.id}: {error}") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class VqaData:
    """Samples of both splits, broken ones included, in the order of the files."""

    samples: tuple[Sample, ...]

    @property
    def problems(self) -> tuple[str, ...]:
        """A sentence for every sample that cannot be used."""
        return tuple(sample.problem for sample in self.samples if sample.problem)


def read_samples(config: VqaConfig) -> VqaData:
    """The samples of a data set.

    Raises:
        UserError: a file is not of its format, or a split is left without a usable sample.
    """
    taken: Counter[tuple[str, str]] = Counter()
    seen: set[str] = set()
    samples = []
    for row in rows(config):
        taken[row.dataset, row.split] += 1
        if config.max_samples is None or taken[row.dataset, row.split] <= config.max_samples:
            samples.append(_sample(row, seen))
            seen.add(samples[-1].id)
    data = VqaData(samples=tuple(samples))
    usable = {sample.split for sample in samples if not sample.problem}
    for split in SPLITS:
        if split not in usable:
            reason = f"; the first broken row: {data.problems[0]}" if data.problems else "."
            raise UserError(
                f"dataset={config.name} has no usable sample in its split `{split}`, and the study needs both `tune` "
                f"and `test`{reason}"
            )
    return data


def accuracy(sample: Sample, text: str, variant: str) -> float:
    """How right an answer is, 0 to 1: VQA accuracy by `variant`, or whether it names the right option."""
    if sample.choices:
        return letter_match(text, sample.answers[0])
    return vqa_accuracy(text, sample.answers, variant)


def _sample(row: Row, seen: set[str]) -> Sample:
    """A row with what is wrong with it."""
    image = ImageFile(home=row.home, name=row.image)
    name = row.where if row.id is None else str(row.id)
    problem = _problem(row) or (f"the id {name} is taken; give each row its own" if name in seen else image.problem())
    if problem:
        return Sample(
            id=row.where if name in seen else name, dataset=row.dataset, split=row.split, question="", answers=(),
            choices=(), image=image, problem=f"{row.where}: {problem}.",
        )  # fmt: skip
    return Sample(
        id=name, dataset=row.dataset, split=row.split, question=row.question.strip(), answers=tuple(row.answers),
        choices=tuple(row.choices), image=image,
    )  # fmt: skip


def _problem(row: Row) -> str:
    if not isinstance(row.question, str) or not row.question.strip():
        return "there is no question; each row needs one"
    listed = row.choices and _texts(row.choices) and all(text.strip() for text in row.choices)
    if row.choices and not (listed and 2 <= len(row.choices) <= len(LETTERS)):
        return f"the options must be 2 to {len(LETTERS)} texts"
    if not row.answers:
        return "there is no right answer; give data whose answers are public"
    if not _texts(row.answers) or len(row.answers) not in (1, ANNOTATORS):
        return f"the answers must be texts, one or {ANNOTATORS}"
    return ""


def _texts(found: Any) -> bool:
    return isinstance(found, list | tuple) and all(isinstance(text, str) for text in found)
