"""`dataset=voices`: what can be set, which samples come of it, and what their scores are computed from."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from edgecloud.data import DataSet, Sample, read_data
from edgecloud.instructions import CAPTION_TYPES, LANGUAGES, PROMPT_TYPES, instruction
from edgecloud.metrics import greedy_references, names_emotion, quality
from edgecloud.schema import PromptsConfig, VoicesConfig
from suite.config import RunConfig
from suite.errors import ConfigError, UserError
from suite.models.revision import revision
from suite.models.spec import ModelConfig
from tests.clips import captions, read_items, write_clip, write_clips, write_manifest


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    return write_clips(tmp_path / "data", 4)


# ---- configuration ----


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"caption_type": "orginal"}, "is not one of audio_only, original. Did you mean 'original'?"),
        ({"language": "german"}, "dataset.language=german is not one of chinese, english."),
        ({"prompt_type": "long"}, "dataset.prompt_type=long is not one of concise, default, detailed."),
        ({"max_samples": 0}, "dataset.max_samples=0 must be at least 1."),
        ({"path": "no.json"}, "dataset.path=no.json does not exist; give a manifest or the folder that holds one."),
        ({"path": "/"}, "dataset.path=/manifest.json does not exist"),
        ({"audio": "no.wav"}, "dataset.audio=no.wav does not exist; give an audio file."),
        ({"audio": "/"}, "dataset.audio=/ does not exist; give an audio file."),
    ],
)
def test_what_cannot_be_run(manifest: Path, changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError) as error:
        VoicesConfig(**{"path": str(manifest)} | changes)
    assert sentence in str(error.value) and "\n" not in str(error.value)


def test_the_defaults_are_the_reference_study_s(manifest: Path) -> None:
    config = VoicesConfig(path=str(manifest))
    assert (config.caption_type, config.language, config.prompt_type) == ("original", "chinese", "default")


def test_a_folder_stands_for_its_manifest(manifest: Path) -> None:
    assert VoicesConfig(path=str(manifest.parent)).file() == manifest


def test_the_digest_is_of_the_manifest_and_of_the_clips_taken(manifest: Path, tmp_path: Path) -> None:
    def digest(folder: Path = manifest.parent, **settings: Any) -> str:
        return VoicesConfig(path=str(folder), **settings).digest()

    whole, three = digest(), digest(max_samples=3)
    shutil.copytree(manifest.parent, tmp_path / "copy")
    assert (digest(tmp_path / "copy"), digest(max_samples=4)) == (whole, whole)
    write_clip(manifest.parent / "wav" / "c3.wav", 500)
    assert (digest() != whole, digest(max_samples=3) == three) == (True, True)
    (manifest.parent / "wav" / "c0.wav").unlink()
    assert len({whole, three, digest(), digest(max_samples=3)}) == 4
    write_manifest(tmp_path / "copy", read_items(manifest), license="CC0")
    assert digest(tmp_path / "copy") != whole


def test_the_digest_of_one_clip_is_of_its_bytes(tmp_path: Path) -> None:
    one, same = write_clip(tmp_path / "a.wav"), write_clip(tmp_path / "b.wav")
    other = write_clip(tmp_path / "c.wav", 301)
    digests = [VoicesConfig(audio=str(path)).digest() for path in (one, same, other)]
    assert (digests[0] == digests[1], digests[0] == digests[2]) == (True, False)


# ---- samples ----


@pytest.mark.parametrize("caption_type", CAPTION_TYPES)
@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("prompt_type", PROMPT_TYPES)
def test_a_sample_has_the_references_and_the_instruction_asked_for(
    manifest: Path, caption_type: str, language: str, prompt_type: str
) -> None:
    asked = {"caption_type": caption_type, "language": language, "prompt_type": prompt_type}
    data = read_data(VoicesConfig(path=str(manifest), max_samples=2, **asked))
    assert data.samples[1] == Sample(
        id="c1",
        prompt=instruction(**asked),
        clip=manifest.parent / "wav" / "c1.wav",
        references=tuple(captions(1)[caption_type][language]),
        category="sad",
    )
    assert len(data.samples) == 2
    # the IDF knows the clips that max_samples leaves out
    assert data.corpus == [tuple(captions(i)[caption_type][language]) for i in range(4)]
    assert data.emotions == {"happy": ("happy", "高兴"), "sad": ("sad", "悲伤")}


def test_instructions_differ_where_they_should() -> None:
    made = {instruction(c, a, p) for c in CAPTION_TYPES for a in LANGUAGES for p in PROMPT_TYPES}
    assert len(made) == 12


def test_a_broken_item_is_a_sample_with_a_problem(manifest: Path) -> None:
    items = read_items(manifest)
    del items[0]["captions"]["original"]["chinese"]
    items[1]["captions"] = {}
    items[2]["audio"] = "../c2.wav"
    write_manifest(manifest.parent, items)
    data = read_data(VoicesConfig(path=str(manifest)))
    problems = [sample.problem or "" for sample in data.samples]
    for i in (0, 1):
        assert f"c{i}: no chinese captions of type 'original'; add them, or choose another" in problems[i]
    assert "must be a path inside the manifest's folder" in problems[2]
    assert [sample.id for sample in data.samples] == ["c0", "c1", "c2", "c3"]
    assert data.samples[3].problem is None
    assert len(data.corpus) == 2
    english = read_data(VoicesConfig(path=str(manifest), language="english"))
    assert [sample.problem is None for sample in english.samples] == [True, False, False, True]


def test_one_clip_of_one_s_own(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "mine.wav")
    data = read_data(VoicesConfig(audio=str(clip), language="english"))
    words = instruction("original", "english", "default")
    assert data == DataSet(samples=[Sample(id="mine.wav", prompt=words, clip=clip)], corpus=[])


def test_prompts_are_read_the_same_way(tmp_path: Path) -> None:
    rows = [{"id": f"p{i}", "prompt": "x", "references": [f"answer {i}"] if i else []} for i in range(4)]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = read_data(PromptsConfig(path=str(tmp_path / "p.jsonl"), max_samples=2))
    assert [sample.id for sample in data.samples] == ["p0", "p1"]
    assert data.corpus == [("answer 1",), ("answer 2",), ("answer 3",)]
    assert data.emotions == {}


# ---- scores ----


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("A woman sounds Happy.", 1.0),
        ("她听起来很高兴。", 1.0),
        ("She is unhappy.", 0.0),
        ("happiness", 0.0),
        ("", 0.0),
    ],
)
def test_a_caption_names_the_emotion(text: str, named: float) -> None:
    assert names_emotion(text, ("happy", "高兴")) == named


def test_no_words_to_look_for_is_no_zero() -> None:
    assert names_emotion("happy", ()) is None


def config(dataset: PromptsConfig | VoicesConfig, **models: ModelConfig) -> RunConfig:
    return RunConfig(task=None, dataset=dataset, models=models)


def test_cider_counts_in_the_whole_data_set_what_is_rare(manifest: Path) -> None:
    """One sample alone has no document frequencies, and no CIDEr-D."""
    chosen = VoicesConfig(path=str(manifest), language="english", max_samples=1)
    data = read_data(chosen)
    row = {"text": "clip 0 is happy, original", "references": list(data.samples[0].references)}
    metrics = quality(config(chosen), data, [row])
    assert "IDF of 4 items" in metrics["cider"].note
    assert metrics["cider"].value is not None and metrics["cider"].value > 1


SHA = "a" * 64


def greedy_row(**changes: Any) -> dict[str, Any]:
    row = {"id": "c0", "caption_type": "original", "language": "chinese", "prompt_type": "default"}
    return row | {"model_sha256": SHA, "tokens": [1], "ended": True} | changes


def wheel(sha256: str = SHA) -> ModelConfig:
    return ModelConfig(source="wheel", id="x==1", file="f", sha256=sha256)


@pytest.mark.parametrize(
    ("changes", "known"),
    [
        ({}, True),
        ({"caption_type": "audio_only"}, False),
        ({"language": "english"}, False),
        ({"prompt_type": "concise"}, False),
        ({"model_sha256": "b" * 64}, False),
    ],
)
def test_recorded_answers_are_those_to_this_very_question(manifest: Path, changes: dict[str, str], known: bool) -> None:
    (manifest.parent / "greedy.jsonl").write_text(json.dumps(greedy_row(**changes)) + "\n")
    found = greedy_references(config(VoicesConfig(path=str(manifest)), cloud=wheel()))
    assert set(found) == ({"c0"} if known else set())


def test_a_zoo_cloud_is_known_by_its_weights(manifest: Path) -> None:
    cloud = ModelConfig(source="zoo", id="smol_draft")
    (manifest.parent / "greedy.jsonl").write_text(json.dumps(greedy_row(model_sha256=revision(cloud))) + "\n")
    assert set(greedy_references(config(VoicesConfig(path=str(manifest)), cloud=cloud))) == {"c0"}


def test_no_recorded_answers(manifest: Path) -> None:
    chosen = VoicesConfig(path=str(manifest))
    assert greedy_references(config(chosen, cloud=wheel())) == {}
    (manifest.parent / "greedy.jsonl").write_text(json.dumps(greedy_row()) + "\n")
    assert greedy_references(config(chosen)) == {}
    # configured, missing, and not used by method=edge
    missing = ModelConfig(source="path", id=str(manifest.parent / "no-model"))
    with pytest.raises(UserError):
        revision(missing)
    assert greedy_references(config(chosen, cloud=missing)) == {}
