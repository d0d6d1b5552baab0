"""BLEU against sacrebleu's own functions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sacrebleu

from suite.quality import Bleu
from suite.quality.bleu import corpus_bleu

GOLDEN = Path(__file__).parents[1] / "golden" / "captions.json"
CAPTIONS = json.loads(GOLDEN.read_text(encoding="utf-8"))
CHINESE, CHINESE_REFERENCES = CAPTIONS["predictions"], CAPTIONS["references"]
ENGLISH = ["a man speaks slowly, in a sad voice.", "the woman is very happy"]
ENGLISH_REFERENCES = [["a man talks slowly in a sad, low voice."], ["a happy woman", "the woman sounds very happy"]]


@pytest.mark.parametrize(
    ("tokenize", "predictions", "references"),
    [("zh", CHINESE, CHINESE_REFERENCES), ("13a", ENGLISH, ENGLISH_REFERENCES), ("13a", ["so sad"], [["so sad"]])],
)
def test_bleu_equals_sacrebleu(tokenize: str, predictions: list[str], references: list[list[str]]) -> None:
    result = Bleu(tokenize=tokenize).compute(predictions=predictions, references=references)
    widest = max(map(len, references))
    streams: list[Any] = [[group[i] if i < len(group) else None for group in references] for i in range(widest)]
    assert result["bleu"] == pytest.approx(sacrebleu.corpus_bleu(predictions, streams, tokenize=tokenize).score)
    assert result["per_sample"] == [
        sacrebleu.sentence_bleu(text, group, tokenize=tokenize).score
        for text, group in zip(predictions, references, strict=True)
    ]
    assert result["tokenize"] == tokenize
    assert result["counts"].shape == (len(predictions), 10)


def test_corpus_bleu_of_a_resample_is_the_bleu_of_those_samples() -> None:
    whole = Bleu(tokenize="zh").compute(predictions=CHINESE, references=CHINESE_REFERENCES)
    index = [4, 0, 0]
    part = Bleu(tokenize="zh").compute(
        predictions=[CHINESE[i] for i in index], references=[CHINESE_REFERENCES[i] for i in index]
    )
    assert corpus_bleu(whole["counts"][np.array(index)]) == pytest.approx(part["bleu"])


def test_tokenisation_decides_the_chinese_score() -> None:
    arguments: dict[str, Any] = {"predictions": CHINESE, "references": CHINESE_REFERENCES}
    by_character = Bleu(tokenize="zh").compute(**arguments)["bleu"]
    assert by_character > 10 > Bleu(tokenize="none").compute(**arguments)["bleu"]


def test_a_metric_can_be_used_again() -> None:
    metric = Bleu(tokenize="13a")
    first = metric.compute(predictions=ENGLISH, references=ENGLISH_REFERENCES)["bleu"]
    assert metric.compute(predictions=["x"], references=[["y"]])["bleu"] == 0
    assert metric.compute(predictions=ENGLISH, references=ENGLISH_REFERENCES)["bleu"] == first
