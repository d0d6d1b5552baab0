"""The controller's study through launch.py: a random vision-language model of four blocks, few samples, few epochs."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

STEPS = Path("outputs") / ".steps"
ROWS = ("C1", "C2", "C3", "C4", "C5", "C6", "C7", "C8")
KNOBS: dict[str, Any] = {"tiers": ["low", "high"], "top_ks": [2, 4], "blocks": [2, 4]}
LONGEST = 3
"""Tokens of an answer."""
WINDOW = 512
"""Positions of the model: a token is a letter."""


@dataclass(frozen=True, kw_only=True)
class Toy:
    """A checkpoint, and data of one's own in easy-vqa's format; `arguments` makes launch.py use them."""

    folder: Path

    @property
    def model(self) -> Path:
        return self.folder / "vlm"

    @property
    def data(self) -> Path:
        return self.folder / "easy_vqa"

    @property
    def small(self) -> list[str]:
        """The model, and a study of eight configurations that takes seconds."""
        model = ["task=controller", "models.vlm.source=path", f"models.vlm.id={self.model}"]
        knobs = [f"task.{name}=[{','.join(map(str, values))}]" for name, values in KNOBS.items()]
        answers = f"task.max_new_tokens={LONGEST}"
        sizes = ["task.mode=small", "task.profile_samples=3", "task.timed_samples=5", "task.rounds=2"]
        trained = ("latency", "supervised", "stage1", "stage2", "grpo")
        return [*model, *knobs, answers, *sizes, *(f"task.{name}.epochs=6" for name in trained)]

    @property
    def arguments(self) -> list[str]:
        """The same on its own data, of one set."""
        return [*self.small, "task.profile_samples=8", "dataset=easy_vqa", f"dataset.path={self.data}"]


def make_toy(folder: Path) -> Toy:
    """The whole of it."""
    toy = Toy(folder=folder)
    save_model(toy.model)
    write_data(toy)
    return toy


def save_model(folder: Path) -> None:
    """The embedded model's classes with random weights, as a hub would hold it."""
    from suite.models.quiet import quiet
    from tests import tiny_vlm

    loaded = tiny_vlm.embedded()
    loaded.model.config.text_config.max_position_embeddings = WINDOW
    with quiet():
        loaded.model.save_pretrained(folder)
        loaded.tokenizer.save_pretrained(folder)


def write_data(toy: Toy, samples: int = 10) -> None:
    """Questions and images of both splits; each answer is what the model says at one tier and top-k with all blocks."""
    from controller.adapter import open_adapter
    from tests import tiny_vlm

    adapter = open_adapter(tiny_vlm.embedded(), tiny_vlm.task(**KNOBS))
    settings = list(itertools.product(KNOBS["tiers"], KNOBS["top_ks"]))
    for number, part in enumerate(("train", "test")):
        images = toy.data / part / "images"
        images.mkdir(parents=True)
        rows = []
        for i in range(samples):
            image, question = tiny_vlm.picture(100 * number + i, (64, 64)), f"what is on square {i}?"
            image.save(images / f"{i}.png")
            tier, top_k = settings[i % len(settings)]
            run = adapter.run(image, question, tier=tier, top_k=top_k, kept=range(4), max_new_tokens=LONGEST)
            rows.append([question, run.answer, i])
        write_questions(toy.data, part, rows)


def write_questions(folder: Path, part: str, rows: Sequence[Any]) -> None:
    """easy-vqa's questions of `train` or `test`: [question, answer, image]."""
    (folder / part / "questions.json").write_text(json.dumps(rows))


def questions(folder: Path, part: str) -> list[Any]:
    """What `write_questions` wrote."""
    found: list[Any] = json.loads((folder / part / "questions.json").read_text())
    return found


def step_folder(folder: Path, step: str) -> Path:
    """Where the one run of a step below `folder` left its files."""
    (found,) = (folder / STEPS).glob(f"{step}-*")
    return found


def tree(folder: Path) -> dict[str, tuple[int, int]]:
    """Every file with its size and when it was written; but for locks, which are opened to write."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != "lock")
    return {path.relative_to(folder).as_posix(): (path.stat().st_size, path.stat().st_mtime_ns) for path in files}


def targets(record: dict[str, Any]) -> list[list[str]]:
    """Rows of a record's first table: row of the study, what, aim, reached, verdict."""
    table = record["facts"]["tables"][0]
    assert table["title"] == "Targets"
    rows: list[list[str]] = table["rows"]
    return rows
