"""What this machine is, for a record's provenance. No host name, user name or path; no torch."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil

from suite.hardware import nvml

_BF16_FLAGS = frozenset({"avx512_bf16", "amx_bf16", "bf16"})  # Intel and AMD; Intel AMX; Arm


def describe() -> dict[str, Any]:
    """Processor, memory, operating system and GPUs as a JSON-ready dict; memory in GB = 1e9 bytes.

    `cores.allowed` is what the scheduler lets this process use (CPU affinity), which a container may have cut.
    """
    return {
        "cpu": cpu_model(),
        "cores": {
            "logical": os.cpu_count(),
            "physical": psutil.cpu_count(logical=False),
            "allowed": allowed_cores(),
        },
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "os": _os_name(),
        "kernel": f"{platform.system()} {platform.release()}",
        "architecture": platform.machine(),
        "cpu_bf16": computes_bf16(),
        "gpus": _gpus(),
    }


def allowed_cores() -> int:
    """Logical CPUs that this process may run on."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cpu_model() -> str:
    """Marketing name of the processor, or its architecture where the system does not tell."""
    if sys.platform == "darwin":
        return _sysctl("machdep.cpu.brand_string") or platform.machine()
    return _cpuinfo().get("model name") or platform.processor() or platform.machine()


def computes_bf16() -> bool:
    """Whether the CPU has bfloat16 arithmetic; without it bfloat16 is emulated and slower than float32."""
    if sys.platform == "darwin":
        return _sysctl("hw.optional.arm.FEAT_BF16") == "1"
    info = _cpuinfo()
    flags = info.get("flags") or info.get("Features") or ""  # x86 says flags, Arm says Features
    return not _BF16_FLAGS.isdisjoint(flags.split())


def _cpuinfo(path: Path = Path("/proc/cpuinfo")) -> dict[str, str]:
    """The first processor's entry of /proc/cpuinfo; empty where there is none."""
    try:
        first = path.read_text(encoding="utf-8", errors="replace").split("\n\n", 1)[0]
    except OSError:
        return {}
    pairs = (line.partition(":") for line in first.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def _sysctl(name: str) -> str:
    answer = subprocess.run(["sysctl", "-n", name], capture_output=True, text=True, check=False)
    return answer.stdout.strip()


def _os_name() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return f"{platform.system()} {platform.release()}"


def _gpus() -> list[dict[str, Any]]:
    driver = nvml.load()
    if driver is None:
        return []
    version = driver.nvmlSystemGetDriverVersion()
    return [
        {
            "name": driver.nvmlDeviceGetName(card),
            "memory_gb": round(driver.nvmlDeviceGetMemoryInfo(card).total / 1e9, 1),
            "driver": version,
        }
        for card in nvml.cards(driver)
    ]
