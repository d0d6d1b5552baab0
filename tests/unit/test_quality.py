"""The n-gram and answer metrics against their reference implementations, and what `score` hands to a study."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sacrebleu
from hypothesis import given, settings
from hypothesis import strategies as st

from suite.errors import ConfigError, UserError
from suite.quality import AnswerMatch, Bleu, CiderD, TokenAgreement, score
from suite.quality.answers import normalise, token_f1
from suite.quality.bleu import corpus_bleu
from suite.quality.cider import Idf, cider_d
from suite.quality.text import char_tokens, word_tokens
from suite.quality.tokens import position_share, prefix_share, rouge_l

ROOT = Path(__file__).parents[2]
GOLDEN = json.loads((ROOT / "tests" / "golden" / "cider.json").read_text(encoding="utf-8"))["cases"]
CHINESE = ["说话人很悲伤，语气低沉。", "她的声音高兴而激动", "他在愤怒地抱怨", ""]
CHINESE_REFERENCES = [["说话人听起来很悲伤，语气低沉。"], ["她的声音激动"], ["他愤怒地抱怨着", "愤怒"], ["声音平静"]]
ENGLISH = ["a man speaks slowly, in a sad voice.", "the woman is very happy"]
ENGLISH_REFERENCES = [["a man talks slowly in a sad, low voice."], ["a happy woman", "the woman sounds very happy"]]


@pytest.mark.parametrize("case", GOLDEN, ids=lambda case: f"{case['tokenizer']}-{len(case['scores'])}")
def test_cider_d_equals_pycocoevalcap(case: dict[str, Any]) -> None:
    """Golden scores were produced by pycocoevalcap 1.2, `Cider().compute_score`, from the same tokens."""
    references = [[text.split() for text in group] for group in case["references"]]
    idf = Idf.of(references)
    ours = [cider_d(text.split(), group, idf) for text, group in zip(case["predictions"], references, strict=True)]
    assert ours == pytest.approx(case["scores"], rel=0, abs=1e-9)

    metric = CiderD(tokenizer=case["tokenizer"])
    result = metric.compute(predictions=case["predictions"], references=case["references"])
    assert result["per_sample"] == pytest.approx(case["scores"], rel=0, abs=1e-9)
    assert result["cider_d"] == pytest.approx(case["mean"], rel=0, abs=1e-9)


def test_cider_d_of_a_subset_uses_the_whole_data_set() -> None:
    case = GOLDEN[2]
    metric = CiderD(tokenizer="word", corpus=case["references"])
    part = slice(3, 8)
    result = metric.compute(predictions=case["predictions"][part], references=case["references"][part])
    assert result["per_sample"] == pytest.approx(case["scores"][part], rel=0, abs=1e-9)
    assert result["documents"] == 24
    alone = CiderD(tokenizer="word").compute(predictions=case["predictions"][part], references=case["references"][part])
    assert alone["per_sample"] != pytest.approx(case["scores"][part], rel=1e-3)


def test_cider_d_is_the_same_to_the_last_digit_whatever_the_hash_seed() -> None:
    """Other names for the tokens give other hashes, as another PYTHONHASHSEED would, and must change no bit."""

    def scores(prefix: str) -> list[float]:
        documents = [
            [[prefix + token for token in text.split()] for text in group] for group in GOLDEN[2]["references"]
        ]
        idf = Idf.of(documents)
        return [cider_d(documents[i - 1][0], group, idf) for i, group in enumerate(documents)]

    assert all(scores(prefix) == scores("") for prefix in "abcdefgh")


def test_cider_d_of_a_single_item_is_refused() -> None:
    with pytest.raises(UserError, match="corpus"):
        CiderD(tokenizer="char").compute(predictions=["悲伤"], references=[["悲伤"]])


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
    index = [2, 0, 0]
    part = Bleu(tokenize="zh").compute(
        predictions=[CHINESE[i] for i in index], references=[CHINESE_REFERENCES[i] for i in index]
    )
    assert corpus_bleu(whole["counts"][np.array(index)]) == pytest.approx(part["bleu"])


def test_tokenisation_decides_the_chinese_score() -> None:
    arguments: dict[str, Any] = {"predictions": CHINESE, "references": CHINESE_REFERENCES}
    by_character = Bleu(tokenize="zh").compute(**arguments)["bleu"]
    assert by_character > 10 > Bleu(tokenize="none").compute(**arguments)["bleu"]


def test_tokenisers() -> None:
    assert char_tokens("她 很A，\n好！") == ["她", "很", "a", "好"]
    assert word_tokens("Don't shout -- it's 3 O'Clock.") == ["don't", "shout", "it's", "3", "o'clock"]
    assert char_tokens("") == word_tokens("...") == []


def test_answers_follow_squad() -> None:
    assert normalise("The  Cat's, a-b!") == "cats ab"
    assert token_f1("the red red cat", "a red cat") == pytest.approx(0.8)
    result = AnswerMatch().compute(
        predictions=["The Eiffel Tower.", "red circle", "", "a"],
        references=[["eiffel tower"], ["blue circle", "red"], ["x"], [""]],
    )
    assert result["per_sample"] == {
        "exact_match": [1.0, 0.0, 0.0, 1.0],
        "f1": pytest.approx([1.0, 2 / 3, 0.0, 1.0]),
    }
    assert result["exact_match"] == 0.5


def test_token_agreement_counts() -> None:
    result = TokenAgreement().compute(
        predictions=[[1, 2, 3, 4], [1, 2], [], [], [9]], references=[[1, 2, 9, 4], [1, 2, 3, 4], [], [5], [5]]
    )
    assert result["per_sample"] == {
        "exact_match": [0.0, 0.0, 1.0, 0.0, 0.0],
        "prefix": [0.5, 0.5, 1.0, 0.0, 0.0],
        "positions": [0.75, 0.5, 1.0, 0.0, 0.0],
    }
    assert (result["exact_match"], result["prefix"], result["positions"]) == pytest.approx((0.2, 0.4, 0.45))


ids = st.lists(st.integers(0, 3), max_size=6)


@given(ids, ids)
def test_token_agreement_is_one_only_for_identical_sequences(a: list[int], b: list[int]) -> None:
    assert (prefix_share(a, b) == 1) == (position_share(a, b) == 1) == (a == b)
    assert prefix_share(a, b) == prefix_share(b, a)
    assert 0 <= prefix_share(a, b) <= position_share(a, b) <= 1
    assert (rouge_l(a, b) == 1) == (a == b)
    assert rouge_l(a, b) == rouge_l(b, a)
    assert prefix_share(a, b) <= rouge_l(a, b) <= 1


def test_rouge_l_survives_an_inserted_token():
    assert rouge_l([1, 2, 3, 4], [9, 1, 2, 3, 4]) == pytest.approx(8 / 9)
    assert prefix_share([1, 2, 3, 4], [9, 1, 2, 3, 4]) == 0


@settings(max_examples=50)
@given(st.lists(st.lists(st.sampled_from("abcd"), max_size=9), min_size=2, max_size=5))
def test_cider_d_stays_between_0_and_10(captions: list[list[str]]) -> None:
    idf = Idf.of([[caption] for caption in captions])
    for ours in captions:
        assert all(0 <= cider_d(ours, [theirs], idf) <= 10 + 1e-9 for theirs in captions)
        assert cider_d([], [ours], idf) == cider_d(["unseen"], [ours], idf) == 0


@pytest.mark.parametrize("language", ["chinese", "english"])
def test_score_names_tokenisers_and_gives_intervals(language: str) -> None:
    predictions, references = (
        (CHINESE, CHINESE_REFERENCES) if language == "chinese" else (ENGLISH * 2, ENGLISH_REFERENCES * 2)
    )
    scores = score(predictions, references, language=language)
    assert list(scores) == ["bleu", "cider_d"]
    tokenize, tokenizer = ("zh", "char") if language == "chinese" else ("13a", "word")
    assert scores["bleu"].note == f"tokenize={tokenize}"
    assert scores["cider_d"].note == f"tokenizer={tokenizer}, IDF of 4 items"
    for one in scores.values():
        metric = one.metric(seed=1)
        assert (metric.value, metric.n, metric.origin, metric.note) == (one.value, 4, "computed", one.note)
        assert metric.ci95 is not None and one.value is not None
        assert metric.ci95[0] <= one.value <= metric.ci95[1]
        assert metric.ci95[0] < metric.ci95[1]
        assert metric == one.metric(seed=1)


def test_score_of_one_sample() -> None:
    scores = score(["悲伤"], [["很悲伤"]], language="chinese")
    assert scores["cider_d"].value is None
    assert "at least 2" in scores["cider_d"].metric(seed=0).note
    assert scores["bleu"].metric(seed=0).ci95 is None
    scores = score(["悲伤"], [["很悲伤"]], language="chinese", corpus=[["很悲伤"], ["高兴"]])
    assert scores["cider_d"].per_sample[0] > 0


def test_an_empty_prediction_scores_0_and_is_counted() -> None:
    scores = score(["", "她很高兴"], [["她很悲伤"], ["她很高兴"]], language="chinese")
    assert [one.per_sample[0] for one in scores.values()] == [0.0, 0.0]
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


def test_token_metrics_refuse_mismatched_samples() -> None:
    with pytest.raises(UserError, match="TokenAgreement: 1 predictions but 0"):
        TokenAgreement().compute(predictions=[[1]], references=[])


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'chinese'"):
        score(["a"], [["a"]], language="chinesse")
    with pytest.raises(ConfigError, match=r"CiderD.tokenizer"):
        CiderD(tokenizer="characters")
    with pytest.raises(ConfigError, match=r"Bleu.tokenize"):
        Bleu(tokenize="spm")


def test_a_metric_can_be_used_again() -> None:
    metric = Bleu(tokenize="13a")
    first = metric.compute(predictions=ENGLISH, references=ENGLISH_REFERENCES)["bleu"]
    assert metric.compute(predictions=["x"], references=[["y"]])["bleu"] == 0
    assert metric.compute(predictions=ENGLISH, references=ENGLISH_REFERENCES)["bleu"] == first


def test_importing_is_light_and_scoring_needs_no_network_and_no_files(tmp_path: Path) -> None:
    code = """
import sys, suite.quality, suite.stats
heavy = {"torch", "evaluate", "datasets", "pandas", "sacrebleu", "bert_score"} & set(sys.modules)
assert not heavy, heavy
import os
def watch(event, args):
    assert not event.startswith("socket."), (event, args)
    if event == "open" and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
        assert args[0] == os.devnull, args
import suite.quality.cider, suite.quality.bleu
sys.addaudithook(watch)
scores = suite.quality.score(["a b", "c"], [["a b"], ["d"]], language="english")
assert scores["cider_d"].value > 0
"""
    home = tmp_path / "home"
    home.mkdir()
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HOME": str(home), "HF_HOME": str(home / "hf")}
    done = subprocess.run([sys.executable, "-B", "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not (home / "hf" / "metrics").exists()
