"""zoo/omni_tiny: what is held out stays out, captions tell the truth, and what is shipped is whole."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from edgecloud.instructions import CAPTION_TYPES, LANGUAGES
from edgecloud.manifest import main as check_manifest
from edgecloud.manifest import read_manifest
from edgecloud.metrics import names_emotion
from suite.paths import zoo_dir
from suite.rng import generator
from zoo.omni_tiny import corpus
from zoo.omni_tiny.captions import Scene, caption
from zoo.omni_tiny.model import ASKED
from zoo.omni_tiny.speech import EMOTIONS, HELD_OUT_VOICES, VOICES

CLIPS = zoo_dir() / "omni_tiny" / "clips" / "manifest.json"


def scenes():
    for emotion, intensity, level, gender in itertools.product(EMOTIONS, (1, 2, 3), (-1, 0, 1), ("woman", "man")):
        topic = {"chinese": "火车", "english": "the train"}
        strength = 0 if emotion == "neutral" else intensity
        yield Scene(
            gender=gender, emotion=emotion, intensity=strength, pace=level, loudness=-level, pitch=0, topic=topic
        )


def test_no_sentence_and_no_voice_of_the_test_clips_is_trained_on():
    drawn = {split: [corpus.draw(split, number)[0] for number in range(3000)] for split in ("train", "test")}
    for what in ("text", "voice"):
        train, test = ({getattr(utterance, what) for utterance in drawn[split]} for split in ("train", "test"))
        assert len(test) > 8 and not train & test
    assert not {v for voices in VOICES.values() for v in voices} & {v for vs in HELD_OUT_VOICES.values() for v in vs}


def test_every_sentence_holds_its_topics_word():
    for topic in corpus.TOPICS:
        assert all(topic["zh"] in text for text in topic["chinese"])
        word = topic["en"].removeprefix("the ")
        assert all(word in text.lower() for text in topic["english"]), word
        assert len(topic["chinese"]) == len(topic["english"]) == 6


def test_a_clip_is_drawn_by_its_number_alone():
    assert corpus.draw("train", 7) == corpus.draw("train", 7) != corpus.draw("test", 7)


def test_a_caption_names_its_emotion_and_no_other():
    words = {name: (*emotion["zh"], *emotion["en"]) for name, emotion in EMOTIONS.items()}
    for number, (scene, asked) in enumerate(itertools.product(scenes(), ASKED)):
        text = caption(scene, *asked, generator(1, number))
        assert [name for name in words if names_emotion(text, words[name])] == [scene.emotion], text


@pytest.mark.parametrize("asked", ASKED, ids="-".join)
def test_a_caption_tells_the_topic_only_where_content_is_asked_for(asked):
    scene, (kind, language, _) = next(scenes()), asked
    texts = [caption(scene, *asked, generator(2, number)) for number in range(40)]
    assert all((scene.topic[language] in text) == (kind == "original") for text in texts)
    assert len(set(texts)) > 3  # a varied grammar


def test_labels_tell_the_scene_they_were_made_of():
    rng = np.random.default_rng(0)
    labels = np.array([int(rng.integers(n)) for n in corpus.LABELS.values()])
    told = corpus.told(labels)
    assert list(EMOTIONS).index(told.emotion) == labels[0] and told.pace + 1 == labels[2]
    assert (told.gender == "man") == bool(labels[5]) and corpus.TOPICS[labels[6]]["zh"] == told.topic["chinese"]


def test_the_shipped_manifest_is_clean_and_balanced(capsys):
    assert check_manifest(["check", str(CLIPS)]) == 0
    assert "No item is broken" in capsys.readouterr().out
    manifest = read_manifest(CLIPS)
    emotions = [item.emotion for item in manifest.items]
    assert len(emotions) >= 60 and {emotions.count(name) for name in EMOTIONS} == {len(emotions) // len(EMOTIONS)}
    for item, (kind, language) in itertools.product(manifest.items, itertools.product(CAPTION_TYPES, LANGUAGES)):
        assert len(item.references(kind, language)) == 3
