"""Doctor: each check says what it found, and what to do when it is not well."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from suite import doctor
from suite.__main__ import main


def test_every_check_answers_and_what_is_not_ok_has_a_fix(tmp_path: Path) -> None:
    checks = doctor.examine(tmp_path)
    names = {"python", "torch", "gpu", "placement", "memory", "disk", "cache", "models", "wandb", "git", "energy"}
    assert names <= set(checks)
    for check in checks.values():
        assert check.found
        assert bool(check.fix) == (check.level != "ok")


def test_placement_of_the_reference_models_on_eight_cards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.nvml, "load", lambda: None)
    assert doctor.placement().found == (
        "with 8 cards of 12 GB: 1.5B 8 x 1 card; 3B 8 x 1 card; 7B 4 x 2 cards; 14B 2 x 3 cards; 32B 1 x 7 cards"
    )


def test_disk_thresholds(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    missing = tmp_path / "not" / "made" / "yet"
    for free_gb, level in ((11, "ok"), (5, "warn"), (0.5, "fail")):
        usage = (0, 0, int(free_gb * 1e9))
        monkeypatch.setattr(
            doctor.shutil, "disk_usage", lambda path, usage=usage: doctor.shutil._ntuple_diskusage(*usage)
        )
        assert doctor.disk(missing).level == level


def test_cache_that_cannot_be_written_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("EDGEBENCH_CACHE", str(tmp_path / "file" / "cache"))
    check = doctor.cache()
    assert check.level == "fail"
    assert "EDGEBENCH_CACHE" in check.fix


def test_models_are_looked_up_where_they_are_unpacked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from suite.models.spec import ModelConfig
    from suite.models.wheels import unpacked

    monkeypatch.setenv("EDGEBENCH_CACHE", str(tmp_path / "cache"))
    sha256 = "ABCDEF012345" + "0" * 52
    spec = f"cloud: {{source: wheel, id: some-model==1.0, file: inside/model.gguf, sha256: {sha256}}}\n"
    (tmp_path / "pair.yaml").write_text("# a comment\nedge: {source: zoo, id: tiny}\n" + spec)
    missing = doctor.models(tmp_path)
    assert (missing.level, "some-model==1.0" in missing.found) == ("warn", True)

    there = tmp_path / "cache" / "wheels" / "some-model-1.0-abcdef012345" / "inside" / "model.gguf"
    there.parent.mkdir(parents=True)
    there.write_text("")
    wheel = ModelConfig(source="wheel", id="some-model==1.0", file="inside/model.gguf", sha256=sha256)
    assert unpacked(wheel) == there  # the loader itself finds it there, so doctor looks in the right place
    assert doctor.models(tmp_path).level == "ok"


def test_energy_is_a_warning_without_a_meter(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(doctor.nvml, "load", lambda: None)
    assert doctor.energy(tmp_path).level == "warn"
    zone = tmp_path / "intel-rapl:0"
    zone.mkdir()
    (zone / "energy_uj").write_text("5")
    (zone / "name").write_text("package-0")
    assert doctor.energy(tmp_path) == doctor.ok("processor (RAPL)")


def test_a_check_that_breaks_fails_alone_and_sets_the_exit_code(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken() -> doctor.Check:
        raise OSError("no such meter\nand a long story")

    monkeypatch.setattr(doctor, "memory", broken)
    assert main(["--root", str(tmp_path), "doctor"]) == 1
    out = capsys.readouterr().out
    assert "OSError: no such meter" in out
    assert "long story" not in out
    assert "python" in out


def test_warnings_alone_exit_with_zero(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(doctor, "examine", lambda root: {"git": doctor.warn("absent", "Install it.")})
    assert main(["--root", str(tmp_path), "doctor"]) == 0


def test_help_is_there_and_imports_nothing_heavy() -> None:
    code = "import sys, suite.__main__; sys.exit(any(m in sys.modules for m in ('torch', 'numpy', 'rich', 'hydra')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    done = subprocess.run([sys.executable, "-m", "suite", "--help"], capture_output=True, text=True, check=True)
    assert all(command in done.stdout for command in ("doctor", "ls", "table", "report", "diff"))
