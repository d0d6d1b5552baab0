"""What `score` hands to a study, what it refuses, and the numbers of docs/quality.md."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from suite.errors import ConfigError, UserError
from suite.quality import AnswerMatch, Bleu, CiderD, caption_scorer, score

ROOT = Path(__file__).parents[2]
CHINESE = ["说话人很悲伤，语气低沉。", "她的声音高兴而激动", "他在愤怒地抱怨", ""]
CHINESE_REFERENCES = [["说话人听起来很悲伤，语气低沉。"], ["她的声音激动"], ["他愤怒地抱怨着", "愤怒"], ["声音平静"]]
ENGLISH = ["a man speaks slowly, in a sad voice.", "the woman is very happy"]
ENGLISH_REFERENCES = [["a man talks slowly in a sad, low voice."], ["a happy woman", "the woman sounds very happy"]]


@pytest.mark.parametrize("language", ["chinese", "english"])
def test_score_names_tokenisers_and_gives_intervals(language: str) -> None:
    predictions, references = (
        (CHINESE, CHINESE_REFERENCES) if language == "chinese" else (ENGLISH * 2, ENGLISH_REFERENCES * 2)
    )
    scores = score(predictions, references, language=language)
    tokenizers = {
        "chinese": {"bleu": "zh", "cider_d": "char", "cider_d_words": "jieba"},
        "english": {"bleu": "13a", "cider_d": "word"},
    }[language]
    assert list(scores) == list(tokenizers)
    for name, one in scores.items():
        about = "tokenize={}" if name == "bleu" else "tokenizer={}, IDF of 4 items"
        assert one.note == about.format(tokenizers[name])
    for one in scores.values():
        metric = one.metric(seed=1)
        assert (metric.value, metric.n, metric.origin, metric.note) == (one.value, 4, "computed", one.note)
        assert metric.ci95 is not None and one.value is not None
        assert metric.ci95[0] <= one.value <= metric.ci95[1]
        assert metric.ci95[0] < metric.ci95[1]
        assert metric == one.metric(seed=1)


@pytest.mark.parametrize("language", ["chinese", "english"])
def test_a_caption_alone_scores_as_among_the_others(language: str) -> None:
    predictions, references = (
        (CHINESE, CHINESE_REFERENCES) if language == "chinese" else (ENGLISH * 2, ENGLISH_REFERENCES * 2)
    )
    together = score(predictions, references, language=language)
    scores = caption_scorer(language, references)
    alone = [scores(text, group) for text, group in zip(predictions, references, strict=True)]
    assert set(alone[0]) == set(together) - {"bleu"}
    assert all(tuple(one[name] for one in alone) == together[name].per_sample for name in alone[0])
    assert scores(predictions[0], []) == {}
    assert caption_scorer(language, references[:1])(predictions[0], references[0]) == {}


def test_score_of_one_sample() -> None:
    scores = score(["悲伤"], [["很悲伤"]], language="chinese")
    assert scores["cider_d"].value is None
    assert "at least 2" in scores["cider_d"].metric(seed=0).note
    assert scores["bleu"].metric(seed=0).ci95 is None
    scores = score(["悲伤"], [["很悲伤"]], language="chinese", corpus=[["很悲伤"], ["高兴"]])
    assert scores["cider_d"].per_sample[0] > 0
    assert scores["cider_d_words"].note == "tokenizer=jieba, IDF of 2 items"


def test_an_empty_prediction_scores_0_and_is_counted() -> None:
    scores = score(["", "她很高兴"], [["她很悲伤"], ["她很高兴"]], language="chinese")
    assert [one.per_sample[0] for one in scores.values()] == [0.0, 0.0, 0.0]
    assert scores["cider_d"].per_sample[1] > 0
    assert all(one.value == 0 for one in score(["", ""], [["a"], ["b"]], language="english").values())


@pytest.mark.parametrize(
    ("predictions", "references", "message"),
    [
        ([], [], "nothing to score"),
        (["a"], [["a"], ["b"]], "1 predictions but 2 reference lists"),
        (["a"], [[]], r"references\[0\] is empty"),
        (["a"], ["a"], r"references\[0\] is str"),
        (["a", None], [["a"], ["b"]], r"predictions\[1\] is NoneType"),
        (["a"], [["a", 3]], r"references\[0\] holds something"),
    ],
)
def test_bad_samples_cost_one_sentence(predictions: Any, references: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        score(predictions, references, language="english")
    with pytest.raises(UserError, match=message):
        AnswerMatch().compute(predictions=predictions, references=references)


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'chinese'"):
        score(["a"], [["a"]], language="chinesse")
    with pytest.raises(ConfigError, match=r"CiderD.tokenizer"):
        CiderD(tokenizer="characters")
    with pytest.raises(ConfigError, match=r"Bleu.tokenize"):
        Bleu(tokenize="spm")


def table(page: str, first: str) -> list[list[str]]:
    """Cells below the header of the table in `page` whose header row starts with `first`."""
    rows = page[page.index(f"| {first} |") :].split("\n\n")[0].strip().split("\n")
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows[2:]]


def test_the_worked_example_of_the_page() -> None:
    page = (ROOT / "docs" / "quality.md").read_text(encoding="utf-8").split("## A worked example")[1]
    captions, references = zip(*table(page, "caption"), strict=True)
    groups = [[reference] for reference in references]
    scores = score(captions, groups, language="chinese")
    ours = {one.note.split("=")[1].split(",")[0]: one.metric(seed=0) for one in scores.values()}
    others = {
        "none": Bleu(tokenize="none").compute(predictions=captions, references=groups)["bleu"],
        "word": CiderD(tokenizer="word").compute(predictions=captions, references=groups)["cider_d"],
    }
    rows = table(page, "score")
    assert [row[1] for row in rows] == [*ours, *others]
    for _, tokenizer, *numbers in rows:
        metric = ours.get(tokenizer)
        values = [metric.value, *(metric.ci95 or ())] if metric else [others[tokenizer]]
        assert [f"{value:.2f}" for value in values] == [number for number in numbers if number]
    per_sample = [f"{scores[name].per_sample[1]:.2f}" for name in ("cider_d", "cider_d_words")]
    assert f"{per_sample[0]} by character and {per_sample[1]} by word" in page


def test_importing_is_light_and_scoring_needs_no_network_and_no_files(tmp_path: Path) -> None:
    code = """
import sys, suite.quality, suite.stats
heavy = {"torch", "evaluate", "datasets", "pandas", "sacrebleu", "bert_score", "jieba"} & set(sys.modules)
assert not heavy, heavy
import os
def watch(event, args):
    assert not event.startswith("socket."), (event, args)
    if event == "open" and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
        assert args[0] == os.devnull, args
import suite.quality.cider, suite.quality.bleu
sys.addaudithook(watch)
for language, text in (("english", "a b"), ("chinese", "悲伤")):
    scores = suite.quality.score([text, "c"], [[text], ["d"]], language=language)
    assert all(one.value > 0 for name, one in scores.items() if name != "bleu")
"""
    home = tmp_path / "home"
    home.mkdir()
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HOME": str(home), "HF_HOME": str(home / "hf")}
    done = subprocess.run([sys.executable, "-B", "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not (home / "hf" / "metrics").exists()
