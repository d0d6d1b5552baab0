"""The identity of weights, for fingerprints."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from suite.errors import UserError
from suite.models import sources
from suite.models.revision import SMALL_BYTES, revision
from suite.models.spec import ModelConfig


def model_folder(path: Path) -> Path:
    path.mkdir(parents=True)
    (path / "config.json").write_text("{}")
    (path / "model.safetensors").write_bytes(b"\0" * (SMALL_BYTES + 1))
    return path


def test_wheel_is_its_checksum() -> None:
    assert revision(ModelConfig(source="wheel", id="a==1", file="f", sha256="AB" * 32)) == "ab" * 32


def test_path_changes_with_content_size_time_and_name(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "m")
    spec = ModelConfig(source="path", id=str(folder))
    seen = [revision(spec)]
    assert revision(spec) == seen[0]
    (folder / "config.json").write_text("[]")  # same size
    seen.append(revision(spec))
    os.utime(folder / "model.safetensors", ns=(1, 1))
    seen.append(revision(spec))
    (folder / "config.json").rename(folder / "other.json")
    (folder / "config.json").write_text("[]")
    seen.append(revision(spec))
    assert len(set(seen)) == 4
    with pytest.raises(UserError):
        revision(ModelConfig(source="path", id=str(tmp_path / "none")))


def test_small_files_count_by_content_even_when_time_and_size_stay(tmp_path: Path) -> None:
    """Two folders that differ in one byte of a small file only."""
    seen = set()
    for name, text in (("a", "{}"), ("b", "[]")):
        folder = model_folder(tmp_path / name / "m")
        (folder / "config.json").write_text(text)
        for file in folder.iterdir():
            os.utime(file, ns=(1, 1))
        seen.add(revision(ModelConfig(source="path", id=str(folder))))
    assert len(seen) == 2


def test_zoo_is_content_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "zoo_dir", lambda: tmp_path)
    folder = model_folder(tmp_path / "m")
    spec = ModelConfig(source="zoo", id="m")
    before = revision(spec)
    os.utime(folder / "model.safetensors", ns=(1, 1))  # a fresh checkout
    (folder / "README.md").write_text("a card")
    (folder / "train.py").write_text("a recipe")
    assert revision(spec) == before
    (folder / "model.safetensors").write_bytes(b"\0" * SMALL_BYTES + b"\1")
    assert revision(spec) != before


def test_hub_is_the_cached_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    commit = "0123456789abcdef0123456789abcdef01234567"
    assert revision(ModelConfig(id="a/b")) == "unresolved"
    assert revision(ModelConfig(id="a/b", revision="v1")) == "v1"
    assert revision(ModelConfig(id="a/b", revision=commit)) == commit
    refs = tmp_path / "models--a--b" / "refs"
    refs.mkdir(parents=True)
    (refs / "main").write_text(commit)
    assert revision(ModelConfig(id="a/b")) == commit


def test_cache_layout_is_the_hubs_own(tmp_path: Path) -> None:
    """`huggingface_hub` itself must find what `revision` finds, under HF_HOME as under HF_HUB_CACHE."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    root = tmp_path / "hub" / "models--a--b"
    for folder in (root / "refs", root / "snapshots" / commit):
        folder.mkdir(parents=True)
    (root / "refs" / "main").write_text(commit)
    (root / "snapshots" / commit / "config.json").write_text("{}")
    code = (
        "from suite.models.revision import revision; from suite.models.spec import ModelConfig\n"
        "from huggingface_hub import try_to_load_from_cache\n"
        "print(revision(ModelConfig(id='a/b')), try_to_load_from_cache('a/b', 'config.json'))"
    )
    env = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGINGFACE_"))}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**env, "HF_HOME": str(tmp_path)},
        cwd=Path(__file__).resolve().parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    found, path = done.stdout.split()
    assert found == commit
    assert commit in path


def test_no_torch() -> None:
    code = "import sys, suite.models.loading\nassert not {'torch', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).resolve().parents[2], check=True)
