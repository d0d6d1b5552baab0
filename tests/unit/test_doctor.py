"""Doctor: each check says what it found, and what to do when it is not well."""

from __future__ import annotations

import socket
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Event, Thread

import pytest

from suite import doctor
from suite.__main__ import main


def test_every_check_answers_and_what_is_not_ok_has_a_fix(tmp_path: Path) -> None:
    checks = doctor.examine(tmp_path)
    names = {"python", "torch", "gpu", "placement", "memory", "disk", "cache", "models", "wandb", "git", "energy"}
    names |= {"nvml", "hub", "wheels", "launchers"}
    assert names <= set(checks)
    for check in checks.values():
        assert check.found
        assert bool(check.fix) == (check.level != "ok")


def test_placement_of_the_reference_models_on_eight_cards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.nvml, "load", lambda: None)
    assert doctor.placement().found == (
        "with 8 cards of 12 GB: 0.5B 8 x 1 card; 1.5B 8 x 1 card; 3B 8 x 1 card; 7B 4 x 2 cards; "
        "14B 2 x 3 cards; 32B 1 x 7 cards"
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


def test_a_dead_network_is_a_warning_with_a_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_HUB_OFFLINE", "PIP_NO_INDEX"):
        monkeypatch.delenv(name, raising=False)
    with socket.socket() as nobody:  # bound, and never listens
        nobody.bind(("127.0.0.1", 0))
        dead = f"http://user:secret@127.0.0.1:{nobody.getsockname()[1]}"
        monkeypatch.setenv("HF_ENDPOINT", dead)
        monkeypatch.setenv("PIP_INDEX_URL", f"{dead}/simple")
        for check, way_out in ((doctor.hub(), "HF_ENDPOINT"), (doctor.wheel_index(), "PIP_INDEX_URL")):
            assert check.level == "warn"
            assert "127.0.0.1" in check.found
            assert way_out in check.fix
            assert "secret" not in check.found + check.fix


class FakeMirror(BaseHTTPRequestHandler):
    """Answers every question with: not here."""

    def do_HEAD(self) -> None:
        self.send_error(404)

    def log_message(self, *_: object) -> None:
        pass


def test_a_server_that_answers_anything_is_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    with HTTPServer(("127.0.0.1", 0), FakeMirror) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("HF_HUB_OFFLINE", "0")
        assert doctor.hub() == doctor.ok(f"127.0.0.1:{server.server_port} answers")
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        assert "HF_HUB_OFFLINE" in doctor.hub().found
        server.shutdown()


def test_pip_is_configured_by_its_variables_and_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("PIP_INDEX_URL", raising=False)
    monkeypatch.delenv("PIP_NO_INDEX", raising=False)
    (tmp_path / "pip.conf").write_text("[global]\nindex-url = file:///mirror/simple\n")
    monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "pip.conf"))
    assert doctor.wheel_index() == doctor.ok("file:///mirror/simple on this machine")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    assert "no-index" in doctor.wheel_index().found


def test_a_check_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    wait = Event()
    monkeypatch.setattr(doctor, "git", lambda: doctor.ok(str(wait.wait(60))))
    monkeypatch.setattr(doctor, "PATIENCE_S", 0.5)
    checks = doctor.examine(tmp_path)
    wait.set()
    assert checks["git"].level == "warn"
    assert "no answer in 0.5 s" in checks["git"].found
    assert list(checks)[0] == "python"


def test_a_driver_without_its_meter_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(doctor.nvml, "load", lambda: None)
    assert doctor.nvml_answers(tmp_path / "none").level == "ok"
    (tmp_path / "version").write_text("NVRM")
    assert "nvidia-ml-py" in doctor.nvml_answers(tmp_path / "version").fix


def test_launchers_name_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_version", lambda name: "1.0" if name == "ray" else None)
    assert doctor.launchers().found == "ray; not installed: joblib, submitit, optuna (pip install NAME)"


def test_warnings_alone_exit_with_zero(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(doctor, "examine", lambda root: {"git": doctor.warn("absent", "Install it.")})
    assert main(["--root", str(tmp_path), "doctor"]) == 0


def test_help_is_there_and_imports_nothing_heavy() -> None:
    code = "import sys, suite.__main__; sys.exit(any(m in sys.modules for m in ('torch', 'numpy', 'rich', 'hydra')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    done = subprocess.run([sys.executable, "-m", "suite", "--help"], capture_output=True, text=True, check=True)
    assert all(command in done.stdout for command in ("doctor", "ls", "table", "report", "diff"))
