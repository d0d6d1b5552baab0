"""The unified manifest: what is legal in it, what each broken row is told, and that no path leaves its folder."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from edgecloud import manifest as module
from edgecloud.manifest import Item, main, read_manifest
from suite.errors import UserError


def clip(path: Path, seconds: float = 0.5) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, 0.3 * np.sin(np.arange(int(16_000 * seconds)) / 10), 16_000)
    return path


def write(folder: Path, *items: Any, **top: Any) -> Path:
    path = folder / "manifest.json"
    path.write_text(json.dumps({"version": 1, **top, "items": list(items)}), encoding="utf-8")
    return path


CAPTIONS = {"original": {"chinese": ["他很高兴。"], "english": ["He is happy.", "Joy."]}}


def test_a_whole_manifest(tmp_path: Path) -> None:
    row = {"id": "a", "audio": "wav/a.wav", "seconds": 0.5, "emotion": "happy", "speaker": "s", "transcript": "好"}
    path = write(
        tmp_path, row | {"captions": CAPTIONS}, name="mine", license="CC0", emotions={"happy": ["joy", "高兴"]}
    )
    manifest = read_manifest(path)
    assert (manifest.name, manifest.license, manifest.warnings) == ("mine", "CC0", ())
    assert manifest.emotions == {"happy": ("joy", "高兴")}
    (item,) = manifest.items
    assert (item.id, item.emotion, item.problem) == ("a", "happy", None)
    assert item.references("original", "english") == ("He is happy.", "Joy.")
    assert item.references("original", "chinese") == ("他很高兴。",)
    assert item.references("audio_only", "english") == ()
    clip(tmp_path / "wav" / "a.wav")
    assert manifest.clip(item) == tmp_path / "wav" / "a.wav"


def test_it_is_parsed_again_only_when_it_changed(tmp_path: Path) -> None:
    before = read_manifest(write(tmp_path, {"id": "a", "audio": "a.wav"}))
    assert read_manifest(tmp_path / "manifest.json") is before
    (after,) = read_manifest(write(tmp_path, {"id": "bb", "audio": "a.wav"})).items
    assert after.id == "bb"


def test_a_bare_list_single_texts_and_nulls_are_read_kindly(tmp_path: Path) -> None:
    path = tmp_path / "my.json"
    rows = [
        {"audio": "a.wav", "captions": {"original": {"english": "Joy.", "chinese": None}, "audio_only": None}},
        {"id": 7, "audio": "a.wav", "captions": None, "emotion": None, "seconds": None, "transcript": ""},
    ]
    path.write_text("\ufeff" + json.dumps(rows), encoding="utf-8")
    manifest = read_manifest(path)
    assert manifest.items == (
        Item(id="my.json, item 1", audio="a.wav", captions={"original": {"english": ("Joy.",)}}),
        Item(id="7", audio="a.wav"),
    )
    assert manifest.name == tmp_path.name


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ([1], "not a JSON object"),
        ({"id": ["x"], "audio": "a.wav"}, '"id" must be a text'),
        ({"id": "", "audio": "a.wav"}, '"id" must be a text'),
        ({"id": "b"}, 'no path under "audio"'),
        ({"id": "b", "audio": " "}, 'no path under "audio"'),
        ({"id": "b", "audio": "\ud800"}, 'no path under "audio"'),
        ({"id": "b", "audio": "a.wav", "seconds": "3"}, '"seconds" must be a number above 0'),
        ({"id": "b", "audio": "a.wav", "seconds": float("nan")}, '"seconds" must be a number above 0'),
        ({"id": "b", "audio": "a.wav", "sha256": "abc"}, '"sha256" must be 64 hexadecimal digits'),
        ({"id": "b", "audio": "a.wav", "emotion": 3}, '"emotion" must be a text'),
        ({"id": "b", "audio": "a.wav", "captions": ["x"]}, r'"captions" must be \{type: \{language: \[texts\]\}\}'),
        ({"id": "b", "audio": "a.wav", "captions": {"original": ["x"]}}, '"captions" must be'),
        (
            {"id": "b", "audio": "a.wav", "captions": {"orignal": {}}},
            "the caption type 'orignal' is not one of original, audio_only. Did you mean 'original'?",
        ),
        (
            {"id": "b", "audio": "a.wav", "captions": {"original": {"chinse": ["x"]}}},
            "the language 'chinse' is not one of chinese, english. Did you mean 'chinese'?",
        ),
        (
            {"id": "b", "audio": "a.wav", "captions": {"original": {"english": []}}},
            "english captions of type 'original'",
        ),
        ({"id": "b", "audio": "a.wav", "captions": {"original": {"english": [5]}}}, "must be a list of texts"),
        ({"id": "b", "audio": "a.wav", "captions": {"original": {"english": ["x", " "]}}}, "must be a list of texts"),
        ({"id": "a", "audio": "a.wav"}, "the id 'a' is taken; give each item its own"),
    ],
)
def test_a_broken_row_is_an_item_with_a_problem(tmp_path: Path, row: Any, reason: str) -> None:
    manifest = read_manifest(write(tmp_path, {"id": "a", "audio": "a.wav"}, row, {"id": "c", "audio": "a.wav"}))
    first, broken, last = manifest.items
    assert (first.problem, last.problem) == (None, None)
    assert len({first.id, broken.id, last.id}) == 3
    with pytest.raises(UserError, match=r"^manifest\.json, item 2: .*" + reason) as error:
        manifest.clip(broken)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("3", 'has no "items"'),
        ("[]", 'has no "items"'),
        ('{"items": {}}', 'has no "items"'),
        ('{"version": 2, "items": [{}]}', 'has version 2; this suite reads "version": 1'),
        ('{"emotions": {"sad": []}, "items": [{}]}', '"emotions" must be {emotion: '),
        ('{"emotions": ["sad"], "items": [{}]}', '"emotions" must be {emotion: '),
    ],
)
def test_a_file_that_is_no_manifest_is_one_sentence(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "m.json").write_text(text)
    with pytest.raises(UserError) as error:
        read_manifest(tmp_path / "m.json")
    assert reason in str(error.value) and "\n" not in str(error.value)


JUNK = [
    None,
    True,
    -1,
    2.5,
    float("nan"),
    "",
    " ",
    "a",
    "\ud800",
    "\0",
    [],
    [""],
    ["\ud800"],
    [3],
    [[]],
    {},
    {"\ud800": 1},
]
PLACES = [("items",), ("emotions",), ("name",), ("license",), ("version",), ("items", 0), ("emotions", "happy")]
PLACES += [("items", 0, key) for key in module.ITEM_KEYS]
PLACES += [
    ("items", 0, "captions", "original"),
    ("items", 0, "captions", "original", "english"),
    ("emotions", "\ud800"),
]


@pytest.mark.parametrize("place", PLACES, ids=lambda place: ".".join(map(ascii, place)))
def test_junk_anywhere_is_no_traceback_and_never_reaches_a_record(tmp_path: Path, place: tuple[str | int, ...]) -> None:
    clip(tmp_path / "a.wav")
    for junk in JUNK:
        row = {"id": "a", "audio": "a.wav", "captions": json.loads(json.dumps(CAPTIONS))}
        content: Any = {"items": [row], "emotions": {"happy": ["joy"]}}
        inner = content
        for key in place[:-1]:
            inner = inner[key]
        inner[place[-1]] = junk
        (tmp_path / "manifest.json").write_text(json.dumps(content))
        assert main(["check", str(tmp_path / "manifest.json")]) in (0, 1)
        try:
            manifest = read_manifest(tmp_path / "manifest.json")
        except UserError:
            continue
        for item in manifest.items:
            kept = [item.id, item.emotion, item.references("original", "english")]
            json.dumps(kept, ensure_ascii=False, allow_nan=False).encode()


# ---- paths ----


@pytest.mark.parametrize(
    ("audio", "reason"),
    [
        ("/etc/passwd", "must be a path inside the manifest's folder"),
        ("C:\\clip.wav", "must be a path inside the manifest's folder"),
        ("../outside.wav", "must be a path inside the manifest's folder"),
        ("..\\outside.wav", "must be a path inside the manifest's folder"),
        ("wav/../../outside.wav", "must be a path inside the manifest's folder"),
        ("link.wav", "is a link out of the manifest's folder"),
        ("linked/outside.wav", "is a link out of the manifest's folder"),
        ("missing.wav", "does not exist beside the manifest"),
        (".", "does not exist beside the manifest"),
        ("a\0.wav", "cannot be read"),
        ("a" * 5000, "cannot be read"),
        ("loop.wav", "cannot be read|does not exist"),
    ],
)
def test_no_path_leaves_the_folder(tmp_path: Path, audio: str, reason: str) -> None:
    outside, folder = clip(tmp_path / "outside.wav"), tmp_path / "data"
    folder.mkdir()
    (folder / "link.wav").symlink_to(outside)
    (folder / "linked").symlink_to(tmp_path)
    (folder / "loop.wav").symlink_to("loop.wav")
    manifest = read_manifest(write(folder, {"id": "a", "audio": audio}))
    with pytest.raises(UserError, match=reason):
        manifest.clip(manifest.items[0])


def test_links_inside_the_folder_and_a_folder_that_is_a_link_are_fine(tmp_path: Path) -> None:
    clip(tmp_path / "data" / "wav" / "a.wav")
    (tmp_path / "data" / "b.wav").symlink_to("wav/a.wav")
    write(tmp_path / "data", {"id": "a", "audio": "b.wav"})
    (tmp_path / "other").symlink_to("data")
    manifest = read_manifest(tmp_path / "other" / "manifest.json")
    assert manifest.clip(manifest.items[0]).is_file()


def test_a_given_sha256_is_held_to(tmp_path: Path) -> None:
    content = clip(tmp_path / "a.wav").read_bytes()
    right = {"id": "a", "audio": "a.wav", "sha256": hashlib.sha256(content).hexdigest().upper()}
    manifest = read_manifest(write(tmp_path, right, right | {"id": "b", "sha256": "0" * 64}))
    assert manifest.clip(manifest.items[0]).is_file()
    with pytest.raises(UserError, match="is not the file whose sha256 the manifest gives"):
        manifest.clip(manifest.items[1])


# ---- the checker ----


def test_check_counts_and_exits_0(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clip(tmp_path / "a.wav"), clip(tmp_path / "b.wav", 1.5)
    row = {"captions": CAPTIONS, "emotion": "happy"}
    path = write(tmp_path, {"id": "a", "audio": "a.wav"} | row, {"id": "b", "audio": "b.wav"} | row, name="mine")
    assert main(["check", str(path)]) == 0
    assert capsys.readouterr().out == (
        "mine: 2 good items, 2.0 s, license: not given\n"
        "  original captions: 2 chinese, 4 english\n"
        "  audio_only captions: 0 chinese, 0 english\n"
        "  emotions: happy 2\n"
        "No item is broken.\n"
    )


def test_check_lists_every_broken_row_and_warns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clip(tmp_path / "a.wav"), clip(tmp_path / "long.wav", 61), clip(tmp_path / "short.wav", 0.1)
    (tmp_path / "text.wav").write_text("no audio")
    rows = [{"id": name, "audio": f"{name}.wav"} for name in ("a", "long", "short", "text", "missing")]
    rows[0] |= {"emotoin": "sad", "emotion": "bored"}
    path = write(tmp_path, *rows, {"id": "a", "audio": "a.wav"}, emotions={"sad": ["sad"]}, licence="x")
    assert main(["check", str(path)]) == 1
    out = capsys.readouterr().out
    assert [line.split(": ")[1] for line in out.splitlines() if line.startswith("broken: ")] == [
        "long",
        "short",
        "text",
        "missing",
        "a (item 6)",
    ]
    assert "warning: manifest.json: the key 'licence' is not known and not used. Did you mean 'license'?\n" in out
    assert "item 1: the key 'emotoin' is not known and not used. Did you mean 'emotion'?\n" in out
    assert "warning: \"emotions\" has no words for 'bored'.\n" in out
    assert out.endswith("5 of 6 items are broken.\n")


def test_check_decodes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clip(tmp_path / "a.wav")
    monkeypatch.setattr(soundfile.SoundFile, "read", lambda *_, **__: pytest.fail("it was decoded"))
    assert main(["check", str(write(tmp_path, {"id": "a", "audio": "a.wav"}))]) == 0


def test_wrong_usage_exits_2_and_a_broken_file_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "m.json").write_text("{")
    assert main(["check", str(tmp_path / "m.json")]) == 1
    assert "is not JSON" in capsys.readouterr().err
    for arguments in (["check"], ["chekc", "m.json"], [], ["check", str(tmp_path / "no.json")]):
        with pytest.raises(SystemExit) as end:
            main(arguments)
        assert end.value.code == 2


def test_the_format_in_the_docstring_is_a_manifest(tmp_path: Path) -> None:
    example = (module.__doc__ or "").split("\n\n")[1].replace("9f86d0...", "0" * 64)
    (tmp_path / "m.json").write_text(example)
    manifest = read_manifest(tmp_path / "m.json")
    assert (manifest.items[0].problem, manifest.warnings) == (None, ())
    assert set(json.loads(example)) == set(module.KEYS)
    assert set(json.loads(example)["items"][0]) == set(module.ITEM_KEYS)
