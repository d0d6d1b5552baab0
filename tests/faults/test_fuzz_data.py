"""Data of one's own, broken in every way: a sentence, or rows of which each is usable or says what is wrong with it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from argo.questions import read_questions
from argo.schema import QuestionsConfig
from controller.data import read_samples
from controller.schema import VqaConfig
from edgecloud.data import read_data, read_prompts
from edgecloud.schema import VoicesConfig
from edgecloud.trace import Trace
from suite.errors import UserError
from tests.faults.fuzzing import broken_json, broken_lines, fuzz, many
from tests.unit.test_trace import MADE_OF, begun, facts, learn

IMAGES = 16
"""Enough for some of them to be `test`."""
MANIFEST = {
    "version": 1,
    "name": "clips",
    "license": "none",
    "emotions": {"happy": ["happy", "glad"], "sad": ["sad"]},
    "items": [
        {
            "id": f"a{i}",
            "audio": f"{i}.wav",
            "seconds": 1.5,
            "emotion": "happy",
            "captions": {"original": {"chinese": ["他很高兴"], "english": ["he is happy"]}},
        }
        for i in range(3)
    ],
}
PROMPTS = [{"id": f"p{i}", "prompt": f"say {i}", "references": ["one", "two"], "category": "x"} for i in range(3)]
QUESTIONS = [
    {"id": "q0", "question": "Which?", "options": ["a", "b", "c"], "answer": 1, "difficulty": "easy"},
    {"id": "q1", "question": "What?", "answers": ["this"], "supporting": ["p1"], "difficulty": "hard"},
]
PASSAGES = [{"id": f"p{i}", "title": f"title {i}", "text": f"text {i}", "source": "s"} for i in range(3)]
MULTIHOP = [
    {
        "id": f"m{i}",
        "question": "Who?",
        "answers": ["she"],
        "paragraphs": [{"title": "t", "text": f"text {i}", "supporting": True}, {"title": "u", "text": "other"}],
    }
    for i in range(2)
]
BENCH = [["Which one?", ["1. a", "2. b", "3. c", "4. d"], "2"], ["What of it?", ["1. e", "2. f", "3. g", "4. h"], "4"]]
TEXTVQA = {
    "data": [
        {"question_id": i, "image_id": f"im{i}", "question": "what is it?", "answers": ["red"] * 10}
        for i in range(IMAGES)
    ]
}
VQA = {"questions": [{"question_id": i, "image_id": i, "question": "what?"} for i in range(IMAGES)]}
ANSWERS = {"annotations": [{"question_id": i, "answers": [{"answer": "red"}] * 10} for i in range(IMAGES)]}
SCIENCE = {
    str(i): {
        "question": "Which?",
        "choices": ["a", "b"],
        "answer": 1,
        "hint": "h",
        "image": "image.png",
        "split": split,
    }
    for i, split in enumerate(["test", "train", "val"])
}
EASY = [["what is on it?", "red", i] for i in range(3)]


def usable(samples: Iterable[Any], texts: Callable[[Any], Iterable[str]]) -> None:
    """Ids are texts that no two samples share; what is said of a sample can be written and printed."""
    samples = list(samples)
    assert samples and len({sample.id for sample in samples}) == len(samples)
    for sample in samples:
        assert isinstance(sample.id, str)
        said = [sample.problem] if sample.problem else [*texts(sample)]
        assert all(isinstance(text, str) and text.strip() for text in said), sample
        json.dumps([sample.id, *said], ensure_ascii=False).encode()


@many(2000)
def test_manifests(inputs: int, tmp_path: Path, figures: Counter[str]) -> None:
    path = tmp_path / "manifest.json"
    for i in range(3):
        (tmp_path / f"{i}.wav").write_bytes(b"RIFF")

    def check(text: bytes) -> None:
        path.write_bytes(text)
        config = VoicesConfig(path=str(path))
        assert len(config.digest()) == 64
        data = read_data(config)
        usable(data.samples, lambda sample: (sample.prompt, *sample.references))
        for sample in data.samples:
            assert sample.problem or sample.clip.resolve().parent == tmp_path  # it cannot leave its folder

    ends = fuzz(inputs, figures, broken_json(MANIFEST), check)
    assert ends["answers"] and ends["sentences"]


@many(1500)
def test_prompts(inputs: int, tmp_path: Path, figures: Counter[str]) -> None:
    path = tmp_path / "prompts.jsonl"

    def check(text: bytes) -> None:
        path.write_bytes(text)
        samples = read_prompts(path, None)
        assert len(samples) == sum(bool(line.strip()) for line in path.read_text(errors="replace").split("\n"))
        usable(samples, lambda sample: (sample.prompt, *sample.references))

    ends = fuzz(inputs, figures, broken_lines(PROMPTS), check)
    assert ends["answers"]


def asked(config: QuestionsConfig) -> None:
    """Every question that can be asked has a right answer among its options."""
    data = read_questions(config, None)
    usable(data.questions, lambda question: (question.question, *question.options, *question.answers))
    for question in data.questions:
        if question.options and not question.problem:
            assert question.answers == (question.options[question.answer],)  # type: ignore[index]
    assert len({passage.id for passage in data.passages}) == len(data.passages) > 0
    json.dumps([[one.id, one.title, one.text] for one in data.passages], ensure_ascii=False).encode()


@many(1500)
@pytest.mark.parametrize("broken", ["questions", "corpus"])
def test_questions_and_passages(broken: str, inputs: int, tmp_path: Path, figures: Counter[str]) -> None:
    paths = {"questions": tmp_path / "questions.jsonl", "corpus": tmp_path / "corpus.jsonl"}
    rows = {"questions": QUESTIONS, "corpus": PASSAGES}
    for name, path in paths.items():
        path.write_text("".join(json.dumps(row) + "\n" for row in rows[name]))

    def check(text: bytes) -> None:
        paths[broken].write_bytes(text)
        config = QuestionsConfig(
            name="questions", path=str(paths["questions"]), corpus=str(paths["corpus"]), difficulty="mixed"
        )
        asked(config)

    ends = fuzz(inputs, figures, broken_lines(rows[broken]), check)
    assert ends["answers"] and ends["sentences"]


@many(1000)
def test_questions_that_bring_their_paragraphs(inputs: int, tmp_path: Path, figures: Counter[str]) -> None:
    path = tmp_path / "hops.jsonl"

    def check(text: bytes) -> None:
        path.write_bytes(text)
        asked(QuestionsConfig(name="multihop", path=str(path), difficulty="mixed"))

    assert fuzz(inputs, figures, broken_lines(MULTIHOP), check)["answers"]


@many(1000)
def test_oran_bench(inputs: int, tmp_path: Path, figures: Counter[str]) -> None:
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text("".join(json.dumps(row) + "\n" for row in PASSAGES))
    for letter in "EMH":
        (tmp_path / f"fin_{letter}.json").write_text("".join(json.dumps(row) + "\n" for row in BENCH))

    def check(text: bytes) -> None:
        (tmp_path / "fin_M.json").write_bytes(text)
        asked(QuestionsConfig(name="oran_bench", path=str(tmp_path), corpus=str(corpus), difficulty="mixed"))

    assert fuzz(inputs, figures, broken_lines(BENCH), check)["answers"]


@many(800)
@pytest.mark.parametrize("name", ["textvqa", "vqav2", "okvqa", "scienceqa", "easy_vqa"])
def test_questions_about_images(name: str, inputs: int, tmp_path: Path, figures: Counter[str]) -> None:
    images = tmp_path / "images"
    files: dict[str, Any] = {"textvqa": TEXTVQA, "vqav2": VQA, "okvqa": VQA, "scienceqa": SCIENCE, "easy_vqa": EASY}
    for i in range(IMAGES):
        for image in (f"im{i}.jpg", f"COCO_val2014_{i:012}.jpg", f"{('test', 'train', 'val')[i % 3]}/{i}/image.png"):
            (images / image).parent.mkdir(parents=True, exist_ok=True)
            (images / image).touch()
    where = {"scienceqa": tmp_path / "problems.json", "easy_vqa": tmp_path / "train" / "questions.json"}
    path, annotations = where.get(name, tmp_path / "questions.json"), tmp_path / "annotations.json"
    annotations.write_text(json.dumps(ANSWERS))
    for part in ("train", "test"):
        (tmp_path / part / "images").mkdir(parents=True)
        (tmp_path / part / "questions.json").write_text(json.dumps(EASY))
        for i in range(3):
            (tmp_path / part / "images" / f"{i}.png").touch()
    own = {"textvqa": {"images": str(images)}, "scienceqa": {}, "easy_vqa": {}}
    options = own.get(name, {"images": str(images), "annotations": str(annotations)})

    def check(text: bytes) -> None:
        path.write_bytes(text)
        folder = name in ("scienceqa", "easy_vqa")
        config = VqaConfig(name=name, path=str(tmp_path if folder else path), **options)
        assert len(config.digest()) > 0
        data = read_samples(config)
        usable(data.samples, lambda sample: (sample.question, *sample.choices))
        for sample in data.samples:
            assert sample.problem or (sample.image.home / sample.image.name).resolve().is_relative_to(tmp_path)

    assert fuzz(inputs, figures, broken_json(files[name]), check)["answers"]


@many(2500)
def test_traces(inputs: int, tmp_path: Path, figures: Counter[str]) -> None:
    whole = begun(tmp_path / "whole.jsonl")
    learn(whole, "a", (), (5,), (5, 6), (5, 7, 8))
    learn(whole, "b", (3, 3))
    learn(whole, "a", (5, 7, 8, 9))
    rows, known = [json.loads(line) for line in whole.path.read_text().splitlines()], facts(whole)
    path = tmp_path / "trace.jsonl"

    def check(text: bytes) -> None:
        path.write_bytes(text)
        trace = Trace(path, MADE_OF)
        for told in facts(trace).values():
            for fields, kinds in zip(told, ((int, float, float, float), (int, int, float)), strict=True):
                assert fields is None or all(
                    type(value) in (int, kind) for value, kind in zip(fields, kinds, strict=True)
                )
        for sample in trace.samples.values():
            assert isinstance(sample.id, str) and all(type(token) is int for token in sample.prompt)
        assert all(seconds >= 0 for cost in trace.costs.values() for seconds in (cost.seconds(1), cost.seconds(8)))

    ends = fuzz(inputs, figures, broken_lines(rows), check)
    assert ends["answers"] and ends["sentences"]
    path.write_bytes(whole.path.read_bytes()[:-5])
    assert facts(Trace(path, MADE_OF)).items() < known.items()


def test_a_file_that_is_not_there_any_more_is_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "data.json"
    path.write_text("{}")
    configs = [
        VoicesConfig(path=str(path)),
        QuestionsConfig(name="questions", path=str(path), corpus=str(path)),
        VqaConfig(name="textvqa", path=str(path), images=str(tmp_path)),
    ]
    path.unlink()
    readers: list[Callable[[Any], object]] = [read_data, lambda config: read_questions(config, None), read_samples]
    for config, read in zip(configs, readers, strict=True):
        with pytest.raises((UserError, OSError)):
            read(config)
