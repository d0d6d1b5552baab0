"""Every format in its makers' shape, rows and images that are broken, and splits that share no image."""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFilter

from controller.data import Sample, VqaData, accuracy, read_samples
from controller.images import MAX_SIDE, ImageFile
from controller.schema import VqaConfig
from suite.errors import ConfigError, UserError

TEN = ["red", "red", "red", "blue", *("green",) * 6]
IMAGES = range(40)
"""Numbers of the images; at this many both splits have some."""


def picture(**options: Any) -> bytes:
    packed = io.BytesIO()
    Image.new("RGB", (8, 6), "red").save(packed, format="JPEG", **options)
    return packed.getvalue()


def dump(path: Path, content: Any) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return str(path)


def folder_of(path: Path, names: list[str]) -> str:
    for name in names:
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(picture())
    return str(path)


def text_row(number: int, **more: Any) -> dict[str, Any]:
    row = {"question_id": number, "question": f" what is {number}? ", "image_id": f"img{number}", "answers": TEN}
    return row | more


def textvqa(folder: Path, rows: list[Any], **options: Any) -> VqaData:
    images = folder_of(folder / "train_images", [f"img{number}.jpg" for number in IMAGES])
    path = dump(folder / "val.json", {"dataset_name": "textvqa", "data": rows})
    return read_samples(VqaConfig(name="textvqa", path=path, images=options.pop("images", images), **options))


def coco(folder: Path, name: str, answers: Any, **options: Any) -> VqaData:
    asked = [{"question_id": 10 * number, "image_id": number, "question": "what?"} for number in IMAGES]
    told = [{"question_id": 10 * number, "answers": answers} for number in reversed(IMAGES)]
    path = dump(folder / "q.json", {"data_subtype": "train2014", "questions": asked})
    annotations = dump(folder / "a.json", {"annotations": told})
    images = folder_of(folder / "train2014", [f"COCO_train2014_{number:012}.jpg" for number in IMAGES])
    config: dict[str, Any] = {"path": path, "annotations": annotations, "images": images, **options}
    return read_samples(VqaConfig(name=name, **config))


def raw(answers: list[str]) -> list[dict[str, Any]]:
    return [{"answer": text, "answer_id": place} for place, text in enumerate(answers, start=1)]


# ---- formats ----


def test_the_embedded_sets() -> None:
    config = VqaConfig(max_samples=3)
    data = read_samples(config)
    sets = ("shapes", "text", "commonsense", "diagram")
    assert Counter((sample.split, sample.dataset) for sample in data.samples) == {
        (split, name): 3 for split in ("tune", "test") for name in sets
    }
    assert data.problems == ()
    assert len({sample.id for sample in data.samples}) == 24
    assert {(sample.open().mode, sample.open().size) for sample in data.samples} == {("RGB", (96, 96))}
    assert len(config.files()) == 4 and config.digest() == VqaConfig().digest()
    for sample in data.samples:
        assert accuracy(sample, sample.answers[0], "official") == 1
        assert not sample.choices


def test_embedded_diagrams_list_the_answer_among_their_choices() -> None:
    data = read_samples(VqaConfig())
    diagrams = [sample for sample in data.samples if sample.dataset == "diagram"]
    assert len(diagrams) == 1000
    for sample in diagrams:
        assert " or " in sample.question and sample.answers[0] in sample.question


def test_a_letter_is_no_article(tmp_path: Path) -> None:
    """To VQA accuracy `A` is an article: it would take an empty answer for right."""
    sample = Sample(
        id="1", dataset="scienceqa", split="test", question="?", answers=("A",), choices=("an ion", "a salt"),
        image=ImageFile(home=tmp_path, name="x.png"), problem="",
    )  # fmt: skip
    assert accuracy(sample, "A", "official") == 1
    assert accuracy(sample, "", "official") == accuracy(sample, "the", "official") == 0


def test_textvqa(tmp_path: Path) -> None:
    data = textvqa(tmp_path, [text_row(number) for number in IMAGES])
    first = data.samples[0]
    assert (first.id, first.dataset, first.question, first.answers) == ("0", "textvqa", "what is 0?", tuple(TEN))
    assert first.choices == () and first.problem == "" and first.open().size == (8, 6)
    assert accuracy(first, "red", "official") == pytest.approx(0.9)
    assert accuracy(first, "red", "simple") == 1


def test_images_in_a_zip_are_found_in_any_folder_of_it(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        for number in IMAGES:
            archive.writestr(f"deep/train_images/img{number}.jpg", picture())
    rows = [*(text_row(number) for number in IMAGES), text_row(999)]
    data = textvqa(tmp_path, rows, images=str(tmp_path / "images.zip"))
    assert [sample.open().getpixel((0, 0)) for sample in data.samples[:2]] == [(254, 0, 0)] * 2
    assert data.problems == (
        f"val.json, data[40]: there is no image img999.jpg in {tmp_path}/images.zip; add it or drop the row.",
    )
    (tmp_path / "no.zip").write_bytes(b"PK no")
    with pytest.raises(UserError, match=r"no\.zip is neither a folder of images nor a zip of them"):
        textvqa(tmp_path, rows, images=str(tmp_path / "no.zip"))


def test_vqav2_joins_questions_and_answers(tmp_path: Path) -> None:
    data = coco(tmp_path, "vqav2", raw(TEN))
    assert [sample.id for sample in data.samples[:3]] == ["0", "10", "20"]
    assert data.samples[7].image.name == "COCO_train2014_000000000007.jpg"
    assert data.samples[7].answers == tuple(TEN) and data.problems == ()


def test_okvqa_counts_five_answers_twice(tmp_path: Path) -> None:
    five = ["red", "red", "blue", "green", "pink"]
    sample = coco(tmp_path, "okvqa", raw(five)).samples[0]
    assert sample.answers == tuple(text for text in five for _ in range(2))
    assert accuracy(sample, "red", "official") == 1
    assert accuracy(sample, "pink", "official") == pytest.approx(0.6)
    assert coco(tmp_path, "okvqa", raw(TEN)).samples[0].answers == tuple(TEN)
    with pytest.raises(UserError, match="the answers must be texts, one or 10"):
        coco(tmp_path, "vqav2", raw(five))


def test_scienceqa_appends_its_options_and_has_its_own_splits(tmp_path: Path) -> None:
    row = {"question": "Which is it?", "choices": ["an ion", "a salt"], "answer": 1, "hint": "", "image": "image.png"}
    problems = {
        "1": row | {"split": "train", "hint": "See the picture."},
        "2": row | {"split": "val"},
        "3": row | {"split": "test"},
        "4": row | {"split": "test", "image": None},
        "5": row | {"split": "test", "answer": 2},
        "6": row | {"split": "test", "choices": ["one"], "answer": 0},
        "7": row | {"split": "test", "choices": 7},
        "8": row | {"split": "test", "question": ""},
        "9": 9,
    }
    dump(tmp_path / "problems.json", problems)
    kept = [f"{one['split']}/{key}/image.png" for key, one in problems.items() if isinstance(one, dict)]
    folder_of(tmp_path / "images", kept)
    data = read_samples(VqaConfig(name="scienceqa", path=str(tmp_path)))
    assert [(sample.id, sample.split) for sample in data.samples if not sample.problem] == [
        ("1", "tune"), ("2", "tune"), ("3", "test"),
    ]  # fmt: skip
    first = data.samples[0]
    assert first.question == "See the picture. Which is it? A an ion B a salt"
    assert (first.answers, first.choices) == (("B",), ("an ion", "a salt"))
    assert [accuracy(first, text, "lmms") for text in ("B", "(b)", "A", "a salt")] == [1, 1, 0, 0]
    assert first.open().size == (8, 6)
    assert [sentence.partition(":")[0] for sentence in data.problems] == [f"problems.json, {key}" for key in "56789"]


def test_easy_vqa(tmp_path: Path) -> None:
    for part, count in (("train", 3), ("test", 2)):
        dump(tmp_path / part / "questions.json", [["is it red?", "yes", i] for i in range(count)] + [["what?", "red"]])
        folder_of(tmp_path / part / "images", [f"{i}.png" for i in range(count)])
    data = read_samples(VqaConfig(name="easy_vqa", path=str(tmp_path)))
    assert [sample.id for sample in data.samples] == [f"train-{i}" for i in range(4)] + [f"test-{i}" for i in range(3)]
    assert Counter(sample.split for sample in data.samples if not sample.problem) == {"tune": 3, "test": 2}
    assert data.problems[0] == "train/questions.json, row 3: there is no question; each row needs one."
    assert accuracy(data.samples[0], "Yes.", "official") == 1
    assert data.samples[0].open().size == (8, 6)


# ---- splits and sampling ----


def test_splits_are_stable_and_share_no_image(tmp_path: Path) -> None:
    rows = [text_row(100 * turn + number, image_id=f"img{number}") for turn in range(2) for number in IMAGES]
    data = textvqa(tmp_path, rows)
    split = {sample.image.name: sample.split for sample in data.samples}
    assert all(split[sample.image.name] == sample.split for sample in data.samples)
    told = {sample.id: sample.split for sample in textvqa(tmp_path, rows[::-1]).samples}
    assert told == {sample.id: sample.split for sample in data.samples}
    assert 2 <= list(split.values()).count("test") <= 16
    # images of COCO are in the same split whoever asks about them
    by_set = [{s.image.name: s.split for s in coco(tmp_path, name, raw(TEN)).samples} for name in ("vqav2", "okvqa")]
    assert by_set[0] == by_set[1] and set(by_set[0].values()) == {"tune", "test"}


def test_max_samples_takes_the_first_of_each_split_broken_ones_too(tmp_path: Path) -> None:
    rows = [text_row(number, question="" if number == 0 else "what?") for number in IMAGES]
    whole, few = textvqa(tmp_path, rows), textvqa(tmp_path, rows, max_samples=3)
    for split in ("tune", "test"):
        assert [one for one in few.samples if one.split == split] == [
            one for one in whole.samples if one.split == split
        ][:3]
    assert len(few.samples) == 6 and few.problems == whole.problems != ()


# ---- what is broken ----


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ([1], r"data\[40\]: there is no question; each row needs one"),
        (text_row(41, question="  "), "there is no question"),
        (text_row(41, question=5), "there is no question"),
        (text_row(41, answers=None), "there is no right answer; give data whose answers are public"),
        (text_row(41, answers=[]), "there is no right answer"),
        (text_row(41, answers="red"), "the answers must be texts, one or 10"),
        (text_row(41, answers=["red"] * 9), "the answers must be texts, one or 10"),
        (text_row(41, answers=[1] * 10), "the answers must be texts, one or 10"),
        (text_row(3), "the id 3 is taken; give each row its own"),
        (text_row(41), r"there is no image img41\.jpg in .*train_images; add it or drop the row"),
        (text_row(41, image_id="../val"), r"the image \.\./val\.jpg leads out of .*train_images"),
        (text_row(41, image_id="/etc/x"), "leads out of"),
        (text_row(41, image_id="..\\val"), "leads out of"),
        (text_row(41, image_id="x" * 300), "there is no image x"),
    ],
)
def test_a_broken_row_is_a_sample_with_a_problem(tmp_path: Path, row: Any, problem: str) -> None:
    data = textvqa(tmp_path, [*(text_row(number) for number in IMAGES), row])
    assert len(data.samples) == 41 and len(data.problems) == 1
    broken = data.samples[-1]
    assert broken.problem == data.problems[0] and broken.split in ("tune", "test")
    assert len({sample.id for sample in data.samples}) == 41
    assert re.search(problem, broken.problem) and broken.problem.endswith(".")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("{", r"val\.json is not JSON \(.*\); give a file that is TextVQA's, an object with the list \"data\"\."),
        ([], r"val\.json is of another format; give a file that is TextVQA's"),
        ({"questions": []}, "is of another format"),
        ({"data": {}}, "is of another format"),
        ({"data": []}, "dataset=textvqa has no usable sample in its split `tune`"),
    ],
)
def test_a_file_of_another_format_is_refused(tmp_path: Path, content: Any, sentence: str) -> None:
    path, images = dump(tmp_path / "val.json", content), folder_of(tmp_path / "images", ["a.jpg"])
    with pytest.raises(UserError, match=sentence):
        read_samples(VqaConfig(name="textvqa", path=path, images=images))


def test_folders_of_another_format_are_refused(tmp_path: Path) -> None:
    for name in ("scienceqa", "easy_vqa"):
        with pytest.raises(
            UserError, match=r"\.json cannot be read \(No such file or directory\); give a file that is"
        ):
            read_samples(VqaConfig(name=name, path=str(tmp_path)))
    dump(tmp_path / "problems.json", [])
    with pytest.raises(UserError, match="another format; give a file that is ScienceQA's problems.json"):
        read_samples(VqaConfig(name="scienceqa", path=str(tmp_path)))
    with pytest.raises(UserError, match="another format; give a file that is VQA's, an object with the list \"annot"):
        coco(tmp_path, "vqav2", raw(TEN), annotations=dump(tmp_path / "wrong.json", {"questions": []}))


def test_a_split_without_a_usable_sample_is_told_with_the_first_reason(tmp_path: Path) -> None:
    rows = [text_row(number, answers=None) for number in IMAGES]
    with pytest.raises(
        UserError, match=r"split `tune`, and .*; the first broken row: val.json, data\[0\]: there is no "
    ):
        textvqa(tmp_path, rows)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"name": "vqa2"}, "dataset.name=vqa2 is not one of .* Did you mean 'vqav2'"),
        ({"name": "textvqa"}, r"dataset=textvqa needs dataset\.path=FILE\.json\."),
        ({"name": "vqav2", "path": "HERE"}, r"dataset=vqav2 needs dataset\.annotations=FILE\.json\."),
        ({"name": "okvqa", "path": "HERE", "annotations": "HERE"}, "needs dataset.images=FOLDER_OR_ZIP"),
        ({"name": "scienceqa", "path": "no"}, "dataset.path=no does not exist; give FOLDER"),
        ({"name": "easy_vqa", "path": "HERE", "images": "HERE"}, "dataset=easy_vqa takes no dataset.images"),
        ({"path": "HERE"}, "dataset=vqa_mini takes no dataset.path; drop it or choose another dataset"),
        ({"max_samples": 0}, "dataset.max_samples=0 must be at least 1"),
    ],
)
def test_options_are_checked(tmp_path: Path, options: dict[str, Any], sentence: str) -> None:
    given = {name: str(tmp_path) if value == "HERE" else value for name, value in options.items()}
    with pytest.raises(ConfigError, match=sentence):
        VqaConfig(**given)


def test_the_digest_tells_questions_answers_and_images_apart(tmp_path: Path) -> None:
    def digest(rows: list[Any], names: list[str], home: str) -> str:
        images = folder_of(tmp_path / home / "images", names)
        path = dump(tmp_path / home / "val.json", {"data": rows})
        return VqaConfig(name="textvqa", path=path, images=images).digest()

    rows = [text_row(1)]
    first = digest(rows, ["img1.jpg"], "a")
    assert digest(rows, ["img1.jpg"], "b") == first
    assert digest([text_row(2)], ["img1.jpg"], "c") != first
    assert digest(rows, ["img2.jpg"], "d") != first
    assert digest(rows, ["img1.jpg"], "a") == first
    (tmp_path / "a" / "images" / "img1.jpg").unlink()
    assert digest(rows, ["img2.jpg"], "a") != first  # the same folder in the same process


# ---- images ----


def opened(folder: Path, image: Image.Image | bytes, name: str = "x.png", **options: Any) -> Image.Image:
    if isinstance(image, bytes):
        (folder / name).write_bytes(image)
    else:
        image.save(folder / name, **options)
    return ImageFile(home=folder, name=name).open()


def pixels(image: Image.Image) -> list[tuple[int, ...]]:
    return [tuple(pixel) for pixel in np.asarray(image).reshape(-1, 3).tolist()]


def test_what_is_transparent_shows_white(tmp_path: Path) -> None:
    clear = Image.new("RGBA", (2, 1), (255, 0, 0, 0))
    clear.putpixel((1, 0), (255, 0, 0, 255))
    grey = Image.merge("LA", [Image.new("L", (2, 1), 0), Image.frombytes("L", (2, 1), b"\x00\xff")])
    half = Image.new("RGBA", (1, 1), (0, 0, 0, 128))
    palette = Image.frombytes("P", (2, 1), b"\x00\x01")
    palette.putpalette([0, 0, 255, 255, 0, 0])
    assert pixels(opened(tmp_path, clear)) == [(255, 255, 255), (255, 0, 0)]
    assert pixels(opened(tmp_path, grey)) == [(255, 255, 255), (0, 0, 0)]
    assert pixels(opened(tmp_path, half)) == [(127, 127, 127)]
    assert pixels(opened(tmp_path, palette)) == [(0, 0, 255), (255, 0, 0)]
    assert pixels(opened(tmp_path, palette, transparency=b"\x00\xff")) == [(255, 255, 255), (255, 0, 0)]


def test_16_bits_are_scaled_not_clipped(tmp_path: Path) -> None:
    deep = Image.fromarray(np.array([[0, 257, 32_896, 65_535]], dtype=np.uint16))
    assert pixels(opened(tmp_path, deep)) == [(grey,) * 3 for grey in (0, 1, 128, 255)]


@pytest.mark.parametrize("mode", ["1", "L", "CMYK", "YCbCr"])
def test_any_mode_becomes_rgb(tmp_path: Path, mode: str) -> None:
    image = opened(tmp_path, Image.new("RGB", (1, 1), "white").convert(mode), "x.tif")
    assert (image.mode, image.size, image.getpixel((0, 0))) == ("RGB", (1, 1), (255, 255, 255))


def test_a_photo_stands_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned
    assert opened(tmp_path, picture(exif=exif), "x.jpg").size == (6, 8)


@pytest.mark.parametrize("kind", ["png", "jpg"])
def test_8000_pixels_are_scaled_down(tmp_path: Path, kind: str) -> None:
    image = opened(tmp_path, Image.new("RGB", (8000, 200), "red"), f"x.{kind}")
    assert image.size == (MAX_SIDE, round(200 * MAX_SIDE / 8000))
    assert opened(tmp_path, Image.new("RGB", (8000, 1), "red"), f"y.{kind}").size == (MAX_SIDE, 1)


def test_a_decompression_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for limit in (5000, 2000):  # above it Pillow warns, above twice of it it refuses
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        with pytest.raises(UserError, match=r"x\.png in .* has too many pixels \(.*\); scale it down\."):
            opened(tmp_path, Image.new("RGB", (100, 90)))
    monkeypatch.setattr("controller.images.MAX_BYTES", 100)
    with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.png", bytes(1000))
    with pytest.raises(UserError, match="unpacks to"):
        ImageFile(home=tmp_path / "x.zip", name="x.png").open()


def test_images_that_do_not_open_say_so(tmp_path: Path) -> None:
    noise = Image.effect_noise((64, 64), 80).filter(ImageFilter.SHARPEN).convert("RGB")
    for kind in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"):
        packed = io.BytesIO()
        noise.save(packed, format=kind)
        whole = packed.getvalue()
        assert opened(tmp_path, whole).size == (64, 64)
        with pytest.raises(
            UserError, match=r"the image x\.png in .* does not open \(.*\); replace it or drop the row\."
        ):
            opened(tmp_path, whole[: len(whole) // 2])
        rng = np.random.default_rng(0)
        for _ in range(20):  # whatever the damage: an image or the sentence
            damaged = np.frombuffer(whole, dtype=np.uint8).copy()
            damaged[rng.integers(len(damaged), size=8)] = rng.integers(256, size=8)
            try:
                assert opened(tmp_path, damaged.tobytes()).mode == "RGB"
            except UserError as error:
                assert str(error).endswith(".")
    for junk in (b"", b"no image", b"\x89PNG\r\n\x1a\n"):
        with pytest.raises(UserError, match="does not open"):
            opened(tmp_path, junk)
    with pytest.raises(UserError, match=r"there is no image no\.png in"):
        ImageFile(home=tmp_path, name="no.png").open()


def test_a_sample_names_itself_when_its_image_does_not_open(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(b"no")
    sample = Sample(
        id="q7", dataset="own", split="test", question="?", answers=("red",), choices=(),
        image=ImageFile(home=tmp_path, name="x.png"),
    )  # fmt: skip
    with pytest.raises(UserError, match=r"sample q7: the image x\.png in .* does not open"):
        sample.open()
