"""CIDEr-D against pycocoevalcap, and the tokens it counts."""

from __future__ import annotations

import json
import marshal
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from suite.errors import UserError
from suite.quality import CiderD
from suite.quality.cider import Idf, cider_d
from suite.quality.text import TOKENIZERS, char_tokens, jieba_tokens, word_tokens

ROOT = Path(__file__).parents[2]
GOLDEN = json.loads((ROOT / "tests" / "golden" / "cider.json").read_text(encoding="utf-8"))["cases"]
CAPTIONS = json.loads((ROOT / "tests" / "golden" / "captions.json").read_text(encoding="utf-8"))


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


@pytest.mark.parametrize("case", CAPTIONS["cases"], ids=lambda case: case["tokenizer"])
def test_chinese_captions_equal_pycocoevalcap(case: dict[str, Any]) -> None:
    """From the text as people write it: the tokens are as recorded, and so are pycocoevalcap's scores of them."""
    tokens = TOKENIZERS[case["tokenizer"]]
    assert [" ".join(tokens(text)) for text in CAPTIONS["predictions"]] == case["predictions"]
    assert [[" ".join(tokens(text)) for text in group] for group in CAPTIONS["references"]] == case["references"]
    metric = CiderD(tokenizer=case["tokenizer"])
    result = metric.compute(predictions=CAPTIONS["predictions"], references=CAPTIONS["references"])
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


@settings(max_examples=50)
@given(st.lists(st.lists(st.sampled_from("abcd"), max_size=9), min_size=2, max_size=5))
def test_cider_d_stays_between_0_and_10(captions: list[list[str]]) -> None:
    idf = Idf.of([[caption] for caption in captions])
    for ours in captions:
        assert all(0 <= cider_d(ours, [theirs], idf) <= 10 + 1e-9 for theirs in captions)
        assert cider_d([], [ours], idf) == cider_d(["unseen"], [ours], idf) == 0


def test_tokenisers() -> None:
    assert char_tokens("她 很A，\n好！") == ["她", "很", "a", "好"]
    assert word_tokens("Don't shout -- it's 3 O'Clock.") == ["don't", "shout", "it's", "3", "o'clock"]
    assert jieba_tokens("他说“OK”，\n语气低沉！") == ["他", "说", "ok", "语气", "低沉"]
    assert jieba_tokens("他在网易杭研大厦") == ["他", "在", "网易", "杭研", "大厦"]  # 杭研 is in no dictionary
    assert char_tokens("") == word_tokens("...") == jieba_tokens(" ，。") == []


def test_jieba_is_quiet_and_neither_writes_nor_trusts_its_cache(tmp_path: Path) -> None:
    # What another user of the machine may leave there: jieba's own loading would take it for its dictionary.
    (tmp_path / "jieba.cache").write_bytes(marshal.dumps(({"悲": 0, "伤": 0, "语": 0, "气": 0}, 1)))
    code = """
import sys
from suite.quality.text import jieba_tokens
sys.pycache_prefix = sys.argv[1]  # compiled anew: only then does Python warn about its source
print(jieba_tokens("悲伤语气") == ["悲伤", "语气"])
"""
    command = [sys.executable, "-B", "-W", "error", "-c", code, str(tmp_path / "none")]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("True\n", "")
    assert [path.name for path in tmp_path.iterdir()] == ["jieba.cache"]
