"""BERTScore with a tiny random BERT written to disk, against the package's own scorer and the paper's equations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from bert_score import BERTScorer
from transformers import BertConfig, BertModel, BertTokenizer, GPT2Config, GPT2Model, RobertaConfig, RobertaModel

from suite.errors import ConfigError, UserError
from suite.quality import BertScore, score

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghij", "sad", "happy", "voice", "悲", "伤", "高", "兴"]
PREDICTIONS = ["sad voice", "happy a b c", "悲伤"]
REFERENCES = [["happy voice", "sad b"], ["happy a b"], ["高兴", "悲 伤 a"]]


@pytest.fixture(scope="module")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # The name holds "t5": the package's own loader would take the folder for a T5 model.
    path = tmp_path_factory.mktemp("bert5")
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(WORDS),
        hidden_size=16,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=12,
    )
    BertModel(config).save_pretrained(path)
    (path / "vocab.txt").write_text("\n".join(WORDS), encoding="utf-8")
    tokenizer = BertTokenizer(vocab=str(path / "vocab.txt"))
    assert tokenizer.model_max_length > 1e20  # the trap: saved without a limit
    tokenizer.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def metric(model_path: Path) -> BertScore:
    return BertScore(model_path=model_path, num_layers=2, name="tiny")


def test_equals_the_package(metric: BertScore, model_path: Path, tmp_path: Path) -> None:
    plain = tmp_path / "model"
    plain.symlink_to(model_path)
    theirs = BERTScorer(model_type=str(plain), num_layers=2, device="cpu")
    theirs._tokenizer.model_max_length = 12
    expected = [values.tolist() for values in theirs.score(PREDICTIONS, REFERENCES)]
    result = metric.compute(predictions=PREDICTIONS, references=REFERENCES)
    assert list(result["per_sample"]) == ["precision", "recall", "f1"]
    assert list(result["per_sample"].values()) == [pytest.approx(values, abs=2e-6) for values in expected]
    assert result["f1"] == pytest.approx(sum(expected[2]) / 3, abs=2e-6)
    assert result["model"] == "tiny, layer 2"


def test_equals_the_equations(metric: BertScore, model_path: Path) -> None:
    """Zhang et al. 2020, section 3, one pair at a time; [CLS] and [SEP] can be matched but are not counted."""
    model, tokenizer = BertModel.from_pretrained(model_path).eval(), BertTokenizer.from_pretrained(model_path)

    def embedded(text: str) -> torch.Tensor:
        with torch.no_grad():
            states = model(**tokenizer(text, return_tensors="pt"), output_hidden_states=True).hidden_states
        return torch.nn.functional.normalize(states[2][0], dim=-1)

    def scores(text: str, reference: str) -> list[float]:
        similarity = embedded(text) @ embedded(reference).T  # (tokens, tokens)
        precision = similarity.max(dim=1).values[1:-1].mean().item()
        recall = similarity.max(dim=0).values[1:-1].mean().item()
        return [precision, recall, 2 * precision * recall / (precision + recall)]

    pairs = zip(PREDICTIONS, REFERENCES, strict=True)
    expected = [[scores(text, reference) for reference in group] for text, group in pairs]
    best = [[max(column) for column in zip(*group, strict=True)] for group in expected]
    per_sample = metric.compute(predictions=PREDICTIONS, references=REFERENCES)["per_sample"]
    assert list(zip(*per_sample.values(), strict=True)) == [pytest.approx(row, abs=2e-6) for row in best]


def test_layer_matters_and_identity_scores_one(metric: BertScore, model_path: Path) -> None:
    arguments: dict[str, Any] = {"predictions": ["a b c"], "references": [["d e f"]]}
    other = BertScore(model_path=model_path, num_layers=3)
    assert other.label == f"{model_path.name}, layer 3"
    assert metric.compute(**arguments)["f1"] != other.compute(**arguments)["f1"]
    assert metric.compute(predictions=["a b"], references=[["a b"]])["f1"] == pytest.approx(1, abs=1e-6)


def test_blank_texts_score_0_and_leave_the_others_alone(metric: BertScore) -> None:
    result = metric.compute(predictions=["", "sad", " ", "sad"], references=[["sad"], ["", "sad"], ["a"], [""]])
    assert result["per_sample"]["f1"] == pytest.approx([0, 1, 0, 0], abs=1e-6)
    assert metric.compute(predictions=[""], references=[["a"]])["precision"] == 0


def test_negative_similarities_are_kept(metric: BertScore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metric, "_match", lambda texts, references: torch.full((len(texts), 3), -0.25))
    result = metric.compute(predictions=["a", "b", ""], references=[["c", "d"], ["e"], ["f"]])
    assert result["per_sample"]["f1"] == [-0.25, -0.25, 0.0]


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_texts_beyond_the_position_limit_are_cut(family: str, model_path: Path, tmp_path: Path) -> None:
    if family == "roberta":
        BertTokenizer.from_pretrained(model_path).save_pretrained(tmp_path)
        config = RobertaConfig.from_pretrained(model_path, architectures=["RobertaModel"], pad_token_id=0)
        RobertaModel(config).save_pretrained(tmp_path)
        model_path = tmp_path
    metric = BertScore(model_path=model_path, num_layers=2)
    result = metric.compute(predictions=["a b c d e " * 20], references=[["a b c d e " * 20]])
    assert result["f1"] == pytest.approx(1, abs=1e-6)


def test_score_adds_its_three_numbers(metric: BertScore) -> None:
    scores = score(PREDICTIONS, REFERENCES, language="chinese", bertscore=metric)
    assert list(scores)[3:] == ["bertscore_precision", "bertscore_recall", "bertscore_f1"]
    f1 = scores["bertscore_f1"]
    assert f1.note == metric.label
    assert len(f1.per_sample) == 3
    assert f1.metric(seed=0).ci95 is not None


def test_a_model_that_does_not_know_the_language_has_no_score(metric: BertScore) -> None:
    words = "a b c d e f g h i"
    assert metric.compute(predictions=["平静"], references=[[f"{words} 平", "悲"]])["unknown"] == 1 / 11
    assert score(["a"], [[f"{words} 平"]], language="chinese", bertscore=metric)["bertscore_f1"].value is not None
    f1 = score(["平静", "a"], [["平静", "悲 a"], ["a"]], language="chinese", bertscore=metric)["bertscore_f1"].metric(
        seed=0
    )
    assert (f1.value, f1.n) == (None, 0)
    assert f1.note.startswith("tiny, layer 2: 40% of the references' tokens are unknown to it")


def test_bad_folders_and_layers_are_refused(model_path: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no config\.json"):
        BertScore(model_path=tmp_path, num_layers=2)
    with pytest.raises(ConfigError, match=r"num_layers=4 must be between 1 and 3"):
        BertScore(model_path=model_path, num_layers=4)
    (tmp_path / "config.json").write_text((model_path / "config.json").read_text())
    with pytest.raises(UserError, match="cannot load"):
        BertScore(model_path=tmp_path, num_layers=2)
    GPT2Model(GPT2Config(vocab_size=9, n_positions=8, n_embd=4, n_layer=1, n_head=1)).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="GPT2Model"):
        BertScore(model_path=tmp_path, num_layers=1)
