"""A SECap checkout becomes a manifest: complete, the same twice, nothing broken left unsaid."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from edgecloud.import_secap import convert, main
from edgecloud.manifest import read_manifest
from suite.errors import UserError

IDS = ("tx_b_02", "tx_a_01")


def checkout(folder: Path, path: str = "dataset/wav/{}.wav") -> Path:
    """Two clips as SECap ships them: mono, 16 bit, 24 kHz."""
    data = folder / "dataset"
    (data / "wav").mkdir(parents=True)
    for name in IDS:
        soundfile.write(data / "wav" / f"{name}.wav", 0.3 * np.sin(np.arange(12_000) / 9), 24_000, subtype="PCM_16")
    captions = dict(zip(IDS, ("伤心难过，声音颤抖", "语气轻快"), strict=True))
    (data / "fid2captions.json").write_text(json.dumps(captions, ensure_ascii=False), encoding="utf-8")
    (data / "text.txt").write_text(f"{IDS[0]} 人生 就像剥洋葱。 \n{IDS[1]} 你好。\n", encoding="utf-8")
    (data / "wav.scp").write_text("".join(f"{name} {path.format(name)}\n" for name in IDS), encoding="utf-8")
    return folder


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return checkout(tmp_path / "SECap")


def items(out: Path) -> dict[str, dict[str, Any]]:
    return {item["id"]: item for item in json.loads((out / "manifest.json").read_text(encoding="utf-8"))["items"]}


def test_every_clip_with_its_caption_and_transcript(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert convert(source, out) == (2, [])
    item = items(out)["tx_b_02"]
    assert {key: item[key] for key in ("audio", "seconds", "transcript")} == {
        "audio": "wav/tx_b_02.wav",
        "seconds": 0.5,
        "transcript": "人生 就像剥洋葱。",
    }
    manifest = read_manifest(out / "manifest.json")
    assert [one.id for one in manifest.items] == sorted(IDS)
    for one in manifest.items:
        assert one.references("original", "chinese") == one.references("audio_only", "chinese") != ()
        assert manifest.clip(one).is_file()
    assert (out / "wav" / "tx_b_02.wav").samefile(source / "dataset" / "wav" / "tx_b_02.wav")


def test_copies_where_links_cannot_be(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError("another file system")

    monkeypatch.setattr(os, "link", refuse)
    assert convert(source, tmp_path / "out") == (2, [])
    copy, original = tmp_path / "out" / "wav" / "tx_b_02.wav", source / "dataset" / "wav" / "tx_b_02.wav"
    assert copy.read_bytes() == original.read_bytes() and not copy.samefile(original)


@pytest.mark.parametrize("out", ["out", "SECap/dataset/unified"])
def test_twice_is_once(source: Path, tmp_path: Path, out: str) -> None:
    convert(source, tmp_path / out)
    first = (tmp_path / out / "manifest.json").read_bytes()
    assert convert(source, tmp_path / out) == (2, [])
    assert (tmp_path / out / "manifest.json").read_bytes() == first


def test_what_an_earlier_import_wrote_is_no_source(source: Path) -> None:
    convert(source, source / "unified")
    (source / "dataset" / "wav" / "tx_a_01.wav").unlink()
    written, broken = convert(source, source / "unified")
    assert written == 1
    assert broken[0].startswith("tx_a_01: 'dataset/wav/tx_a_01.wav' is not there")


@pytest.mark.parametrize("path", ["/authors/home/{}.wav", "D:\\authors\\{}.wav", "wav/{}.wav", "elsewhere/{}.wav"])
def test_paths_of_another_machine_are_looked_up_by_name(tmp_path: Path, path: str) -> None:
    source = checkout(tmp_path / "SECap", path)
    assert convert(source, tmp_path / "out") == (2, [])


def test_the_text_files_are_found_wherever_they_lie(source: Path, tmp_path: Path) -> None:
    (source / "dataset" / "lists").mkdir()
    for name in ("text.txt", "wav.scp"):
        shutil.move(source / "dataset" / name, source / "dataset" / "lists" / name)
    assert convert(source, tmp_path / "out") == (2, [])
    assert convert(source / "dataset", tmp_path / "out2") == (2, [])


def test_broken_rows_are_listed_and_the_rest_is_written(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = source / "dataset"
    captions = json.loads((data / "fid2captions.json").read_text())
    captions |= {"no_wav": "平静", "gone": "平静", "silent": 7, "text": "平静", "a/b": "平静"}
    (data / "fid2captions.json").write_text(json.dumps(captions))
    (data / "wav" / "text.wav").write_text("no audio")
    with (data / "wav.scp").open("a") as scp:
        scp.write("gone dataset/wav/gone.wav\nsilent x\ntext dataset/wav/text.wav\nextra y\ntx_a_01 again\n\n")
    assert main([str(source), str(tmp_path / "out")]) == 0
    out = capsys.readouterr().out
    assert out.startswith("7 captions, 2 transcripts, 6 wavs\n")
    assert [line.split(": ")[1] for line in out.splitlines() if line.startswith("broken: ")] == [
        "a/b",
        "extra",
        "gone",
        "no_wav",
        "silent",
        "text",
        "tx_a_01",
    ]
    assert out.endswith("2 items written to " + str(tmp_path / "out" / "manifest.json") + ", 7 broken rows\n")
    assert set(items(tmp_path / "out")) == set(IDS)


def test_a_clip_without_transcript_is_legal(source: Path, tmp_path: Path) -> None:
    (source / "dataset" / "text.txt").write_text("")
    assert convert(source, tmp_path / "out") == (2, [])
    assert "transcript" not in items(tmp_path / "out")["tx_a_01"]


def test_nothing_but_an_earlier_import_is_written_over(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    assert convert(source, out) == (2, [])
    (out / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match=r"already holds thesis\.txt, which no import wrote"):
        convert(source, out)
    for folder, name in (("other", "manifest.json"), ("sounds/wav", "a.wav")):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / name).write_text('{"name": "my own"}')
    with pytest.raises(UserError, match=r"already holds manifest\.json"):
        convert(source, tmp_path / "other")
    with pytest.raises(UserError, match="already holds wav"):
        convert(source, tmp_path / "sounds")
    for own in (source, source / "dataset"):
        with pytest.raises(UserError, match="outside OUT|holds the checkout's own files"):
            convert(source, own)


def test_what_is_no_checkout(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main([str(tmp_path / "missing"), str(tmp_path / "out")])
    assert end.value.code == 2
    (source / "dataset" / "fid2captions.json").write_text("[")
    assert main([str(source), str(tmp_path / "out")]) == 1
    assert "is not JSON" in capsys.readouterr().err
    (source / "dataset" / "wav.scp").unlink()
    assert main([str(source), str(tmp_path / "out")]) == 1
    assert "has no wav.scp" in capsys.readouterr().err


def test_nothing_usable_writes_nothing(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(source / "dataset" / "wav")
    assert main([str(source), str(tmp_path / "out")]) == 1
    assert not (tmp_path / "out" / "manifest.json").exists()
    assert capsys.readouterr().out.count("broken: ") == 2
