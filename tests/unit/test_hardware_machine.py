"""Provenance of the machine: true where it can be checked, and nothing private."""

from __future__ import annotations

import getpass
import json
import os
import platform
import subprocess
import sys
from types import SimpleNamespace

import pytest

from suite.hardware import machine, nvml

ARM = "processor\t: 0\nBogoMIPS\t: 50.00\nFeatures\t: fp asimd {flags}\nCPU part\t: 0xd4f\n\nprocessor\t: 1\n"
X86 = "processor\t: 0\nmodel name\t: Some CPU @ 2.0GHz\nflags\t\t: fpu sse {flags}\n\nprocessor\t: 1\n"


def test_description_is_plain_json_and_agrees_with_the_system():
    described = machine.describe()
    assert json.loads(json.dumps(described)) == described
    assert 1 <= described["cores"]["allowed"] <= described["cores"]["logical"] == os.cpu_count()
    assert described["cpu"]
    if sys.platform == "linux":
        pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        assert described["memory_gb"] == pytest.approx(pages / 1e9, rel=0.01)


def test_description_holds_no_host_user_or_path(monkeypatch):
    monkeypatch.setattr(platform, "node", lambda: pytest.fail("asked for the host name"))
    text = json.dumps(machine.describe())
    assert os.path.expanduser("~") not in text and os.getcwd() not in text and "/home" not in text
    assert f'"{getpass.getuser()}"' not in text


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/cpuinfo")
@pytest.mark.parametrize(
    ("cpuinfo", "flags", "bf16"),
    [
        (X86, "avx512f", False),
        (X86, "avx512_bf16", True),
        (X86, "amx_bf16 amx_tile", True),
        (X86, "not_bf16x", False),
        (ARM, "asimdhp", False),
        (ARM, "i8mm bf16", True),
    ],
)
def test_bf16_is_read_from_the_flags(tmp_path, monkeypatch, cpuinfo, flags, bf16):
    path = tmp_path / "cpuinfo"
    path.write_text(cpuinfo.format(flags=flags))
    read = machine._cpuinfo
    monkeypatch.setattr(machine, "_cpuinfo", lambda: read(path))
    assert machine.computes_bf16() is bf16
    if cpuinfo is X86:
        assert machine.cpu_model() == "Some CPU @ 2.0GHz"


def test_a_system_without_cpuinfo_still_describes_itself(tmp_path, monkeypatch):
    read = machine._cpuinfo
    monkeypatch.setattr(machine, "_cpuinfo", lambda: read(tmp_path / "absent"))
    assert machine.describe()["cpu"]


def test_gpus_are_listed_by_name_memory_and_driver(monkeypatch):
    class FakeNvml:
        class NVMLError(Exception):
            pass

        nvmlDeviceGetCount = staticmethod(lambda: 2)
        nvmlDeviceGetHandleByIndex = staticmethod(lambda index: index)
        nvmlDeviceGetName = staticmethod(lambda card: f"Card {card}")
        nvmlDeviceGetMemoryInfo = staticmethod(lambda card: SimpleNamespace(total=12_884_901_888))
        nvmlSystemGetDriverVersion = staticmethod(lambda: "580.1")

    monkeypatch.setattr(nvml, "load", lambda: FakeNvml)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert machine.describe()["gpus"] == [{"name": "Card 1", "memory_gb": 12.9, "driver": "580.1"}]


def test_the_hardware_floor_starts_without_torch():
    code = (
        "import sys, suite.hardware.limits, suite.hardware.machine, suite.hardware.meters, suite.hardware.profile\n"
        "suite.hardware.machine.describe(); sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
