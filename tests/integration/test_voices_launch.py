"""launch.py on clips, with a tiny random pair of thinkers: what is written, what fails alone, what is shown."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.clips import read_items, write_clip, write_clips, write_manifest
from tests.runs import Here, TinyPair, read_record, read_rows, settled_rows

EXACT = ["task.gate=always", "task.verification=lossless"]


@pytest.fixture(scope="module")
def ears(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Arguments that choose an edge and a cloud that hear and mostly agree."""
    from tests import tiny

    folder = tmp_path_factory.mktemp("ears")
    cloud = tiny.thinker(1)
    tiny.save_thinker(folder / "cloud", cloud)
    tiny.save_thinker(folder / "edge", tiny.related(cloud, 2, noise=0.15))
    models = [f"models.{name}.source=path" for name in ("edge", "cloud")]
    models += [f"models.{name}.id={folder / name}" for name in ("edge", "cloud")]
    exact = ["hardware.dtype=float32", "task.cloud_hardware.dtype=float32", "task.max_new_tokens=24"]
    return [*models, *exact]


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    return write_clips(tmp_path / "data", 3)


def test_clips_are_heard_captioned_and_scored(here: Here, ears: list[str], manifest: Path) -> None:
    given = [*ears, *EXACT, "dataset=voices", f"dataset.path={manifest}"]
    job = here.job(*given)
    rows, record = read_rows(job), read_record(job)
    assert [row["category"] for row in rows] == ["happy", "sad", "happy"]
    assert rows[0]["references"] == ["第0段很高兴，original。"]
    assert len({tuple(row["tokens"]) for row in rows}) == 3, "different clips, different captions"
    assert all(row["metrics"]["features_ms"] > 0 for row in rows)
    assert record["metrics"]["features_ms"]["n"] == 3
    assert "IDF of 3 items" in record["metrics"]["cider"]["note"]
    assert sum(row["metrics"]["cider"] for row in rows) / 3 == pytest.approx(record["metrics"]["cider"]["value"])
    assert record["metrics"]["emotion_accuracy"]["n"] == 3
    assert record["facts"]["headline"] == [
        "cloud_call_rate",
        "cider",
        "bleu",
        "emotion_accuracy",
        "agreement",
        "otps",
        "ttft_ms",
        "acceptance_rate",
    ]
    alone = here.job(*given, "task.method=cloud")
    assert [row["tokens"] for row in read_rows(alone)] == [row["tokens"] for row in rows], "lossless"
    asked = here.job(*given, "dataset.language=english", "dataset.caption_type=audio_only", "dataset.max_samples=1")
    (row,) = read_rows(asked)
    assert row["references"] == ["clip 0 is happy, audio_only", "second"]
    assert row["prompt_tokens"] != rows[0]["prompt_tokens"]
    assert "IDF of 3 items" in read_record(asked)["metrics"]["cider"]["note"]


def test_each_bad_clip_fails_alone(here: Here, ears: list[str], manifest: Path) -> None:
    write_clip(manifest.parent / "short.wav", seconds=0.1)
    (manifest.parent / "text.wav").write_text("no audio")
    items = read_items(manifest)
    good = items[0]
    for name in ("short.wav", "text.wav", "missing.wav", "../c0.wav"):
        items.insert(0, good | {"id": name, "audio": name})
    items.append(good | {"id": "mute", "captions": {}})
    write_manifest(manifest.parent, items)
    job = here.job(*ears, "dataset=voices", f"dataset.path={manifest}", "task.warmup=7")
    failed = {row["id"]: row["error"] for row in read_rows(job) if row["status"] == "failed"}
    assert read_record(job)["samples"] == {"completed": 3, "failed": 5}
    for name, reason in {
        "short.wav": "lasts 0.10 s",
        "text.wav": "is not audio",
        "missing.wav": "does not exist beside the manifest",
        "../c0.wav": "must be a path inside",
        "mute": "no chinese captions of type 'original'",
    }.items():
        assert reason in failed[name]
        assert "\n" not in failed[name]


def test_captions_nobody_wrote_fail_the_job_with_a_sentence(here: Here, ears: list[str], manifest: Path) -> None:
    items = [item | {"captions": {"original": item["captions"]["original"]}} for item in read_items(manifest)]
    write_manifest(manifest.parent, items)
    answer = here(*ears, "dataset=voices", f"dataset.path={manifest}", "dataset.caption_type=audio_only")
    assert answer.code == 1
    assert "None of the 3 samples could be decoded; the first one: " in answer.err + answer.out
    assert "c0: no chinese captions of type 'audio_only'; add them" in answer.err + answer.out


def test_a_clip_of_one_s_own_is_shown_as_it_is_captioned(here: Here, ears: list[str], tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "mine.wav")
    answer = here(*ears, *EXACT, "dataset=voices", f"dataset.audio={clip}", "dataset.language=english")
    assert answer.code == 0, answer
    legend, caption, last, *_ = answer.out.splitlines()
    marks = "~ edge alone   + accepted by the cloud   ! corrected by the cloud   * added by the cloud"
    assert legend == f"mine.wav   {marks}"
    (job,) = (path.parent for path in tmp_path.glob("outputs/*/*/record.json"))
    (row,) = read_rows(job)
    assert "".join(piece for piece, _ in row["pieces"]).strip() == row["text"]
    assert caption.translate(str.maketrans("", "", "~+!*")).strip() == row["text"]
    assert {source for _, source in row["pieces"]} <= set(row["sources"]) <= {"accepted", "corrected", "bonus"}
    calls, emitted = row["metrics"]["calls"], row["metrics"]["emitted"]
    assert last.startswith("TTFT ") and last.endswith(f" tokens/s, {calls} cloud calls for {emitted} tokens")
    again = here.job(*ears, *EXACT, "dataset=voices", f"dataset.audio={clip}", "dataset.language=english", "seed=1")
    assert settled_rows(again) == settled_rows(job), "greedy"


def test_a_bad_clip_of_one_s_own_is_a_sentence(here: Here, ears: list[str], tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "mine.wav", seconds=0.1)
    answer = here(*ears, "dataset=voices", f"dataset.audio={clip}")
    assert answer.code == 1
    assert "mine.wav lasts 0.10 s; a clip needs at least 0.2 s." in answer.err + answer.out
    assert "Traceback" not in answer.err + answer.out


def test_clips_for_a_model_of_text_are_refused_at_once(
    here: Here, pair: TinyPair, ears: list[str], manifest: Path
) -> None:
    def models(edge: list[str], cloud: list[str]) -> list[str]:
        chosen = [one for one in edge if one.startswith("models.edge.")]
        chosen += [one for one in cloud if one.startswith("models.cloud.")]
        return [*chosen, "dataset=voices", f"dataset.path={manifest}"]

    for method in ("specdec", "cloud"):
        answer = here(*models(pair.arguments, pair.arguments), f"task.method={method}")
        name = "edge" if method == "specdec" else "cloud"
        assert answer.code == 1
        assert f"models.{name} ({pair.folder / name}) hears no audio, and dataset=voices holds clips; " in answer.out
        assert "choose models=omni_tiny or another Qwen2.5-Omni, or dataset=prompts." in answer.out
    assert {path.read_text() for path in here.folder.glob("outputs/*/*/samples.jsonl")} == {""}, "nothing was decoded"


def test_a_scorer_that_cannot_be_had_is_told_before_the_decoding(
    here: Here, ears: list[str], manifest: Path, tmp_path: Path
) -> None:
    scorer = f"+models.scorer={{source: path, id: {tmp_path / 'no-bert'}}}"
    answer = here(*ears, scorer, "dataset=voices", f"dataset.path={manifest}")
    assert answer.code == 1
    assert "no-bert is not a model folder" in answer.err + answer.out
    assert "".join(path.read_text() for path in here.folder.glob("outputs/*/*/samples.jsonl")) == ""


def test_text_for_a_model_that_hears_just_works(here: Here, ears: list[str], tmp_path: Path) -> None:
    prompts = tmp_path / "p.jsonl"
    prompts.write_text('{"id": "a", "prompt": "hello?", "references": ["hi"]}\n')
    job = here.job(*ears, *EXACT, "dataset=prompts", f"dataset.path={prompts}")
    (row,) = read_rows(job)
    assert (row["status"], row["metrics"]["features_ms"]) == ("ok", None)
    assert "emotion_accuracy" not in read_record(job)["metrics"]
