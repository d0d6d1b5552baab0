"""`python -m suite doctor`: is this machine ready for a run, and if not, what to do. Loads no model."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

import psutil
import yaml

from suite.errors import UserError
from suite.hardware import nvml
from suite.hardware.meters import Meter
from suite.models.plan import CardMemory, GpuModeConfig, plan
from suite.paths import cache_dir

Level = Literal["ok", "warn", "fail"]

PYTHON = (3, 11)
DISK_WANTED_GB, DISK_NEEDED_GB = 10.0, 1.0
MEMORY_WANTED_GB = 4.0
QWEN_GB = {"1.5B": 3.1, "3B": 6.2, "7B": 15.2, "14B": 29.5, "32B": 65.5}
"""Weights of Qwen2.5-Instruct by size, in 16 bit."""
EXAMPLE_CARDS, EXAMPLE_GB = 8, 12.0
"""The machine of hardware=rtx3060x8, shown where there is no GPU."""
LAUNCHERS = {"joblib": "hydra-joblib-launcher", "submitit": "hydra-submitit-launcher", "ray": "hydra-ray-launcher"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One answer."""

    level: Level
    found: str
    fix: str = ""
    """What to do, in one sentence; empty when all is well."""


def ok(found: str) -> Check:
    """Nothing to do."""
    return Check(level="ok", found=found)


def warn(found: str, fix: str) -> Check:
    """A run works, less well."""
    return Check(level="warn", found=found, fix=fix)


def fail(found: str, fix: str) -> Check:
    """A run would not work."""
    return Check(level="fail", found=found, fix=fix)


def examine(root: Path) -> dict[str, Check]:
    """All checks by name. A check that itself breaks is a failure, not the end of the others.

    Args:
        root: folder that will hold outputs/ and multirun/.
    """
    checks: dict[str, Callable[[], Check]] = {
        "python": python,
        "torch": torch_installed,
        "gpu": gpu,
        "placement": placement,
        "memory": memory,
        "disk": lambda: disk(root),
        "cache disk": lambda: disk(cache_dir()),
        "cache": cache,
        "models": lambda: models(Path(__file__).resolve().parents[1] / "conf" / "models"),
        "wandb": wandb_installed,
        "launchers": launchers,
        "git": git,
        "energy": energy,
    }
    return {name: _guarded(check) for name, check in checks.items()}


def python() -> Check:
    """The interpreter is new enough."""
    version = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info < PYTHON:
        return fail(version, "Install Python 3.11 or newer and `make run` again.")
    return ok(version)


def torch_installed() -> Check:
    """Installed; imported only where a GPU waits for it, because that takes seconds."""
    version = _version("torch")
    if version is None:
        return fail("not installed", "`make run` installs the pinned packages.")
    return ok(version)


def gpu() -> Check:
    """Cards that the driver shows, and whether torch can use them."""
    driver = nvml.load()
    cards = nvml.cards(driver) if driver is not None else []
    if driver is None or not cards:
        return ok("none; everything embedded runs on the CPU")
    names = ", ".join(driver.nvmlDeviceGetName(card) for card in cards)
    import torch

    if torch.cuda.is_available():
        return ok(names)
    fix = "Install a CUDA build of torch that this driver supports, or run on the CPU with hardware.device=cpu."
    return warn(f"{names}, but torch cannot use it", fix)


def placement() -> Check:
    """Where gpu_mode=auto puts models of several sizes in 16 bit: on these cards, else on those of an example."""
    driver = nvml.load()
    found = nvml.cards(driver) if driver is not None else []
    if driver is not None and found:
        where, free_gb = "", [driver.nvmlDeviceGetMemoryInfo(card).free / 1e9 for card in found]
    else:
        where = f"with {EXAMPLE_CARDS} cards of {EXAMPLE_GB:g} GB: "
        free_gb = [EXAMPLE_GB] * EXAMPLE_CARDS
    cards = [CardMemory(index=index, free_gb=free) for index, free in enumerate(free_gb)]
    return ok(where + "; ".join(f"{size} {_placed(gb, cards)}" for size, gb in QWEN_GB.items()))


def _placed(model_gb: float, cards: list[CardMemory]) -> str:
    try:
        replicas = plan(model_gb, cards, GpuModeConfig(name="auto")).replicas
    except UserError:
        return "does not fit"
    each = max(1, len(replicas[0].card_gb))
    return f"{len(replicas)} x {each} card{'s' if each > 1 else ''}"


def memory() -> Check:
    """Memory that is free now."""
    free_gb = psutil.virtual_memory().available / 1e9
    if free_gb < MEMORY_WANTED_GB:
        fix = f"Free some memory: the embedded models want {MEMORY_WANTED_GB:g} GB."
        return warn(f"{free_gb:.1f} GB free", fix)
    return ok(f"{free_gb:.1f} GB free")


def disk(folder: Path) -> Check:
    """Room on the file system of `folder`, which need not exist yet."""
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    free_gb = shutil.disk_usage(there).free / 1e9
    found = f"{free_gb:.1f} GB free at {there}"
    if free_gb >= DISK_WANTED_GB:
        return ok(found)
    return (warn if free_gb >= DISK_NEEDED_GB else fail)(found, f"Make room: a run wants {DISK_WANTED_GB:g} GB.")


def cache() -> Check:
    """The cache folder can be written."""
    folder = cache_dir()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        fix = "Set EDGEBENCH_CACHE to a folder you can write."
        return fail(f"{folder}: {error.strerror}", fix)
    return ok(str(folder))


def models(folder: Path) -> Check:
    """Whether the wheels that conf/models names are in the cache already."""
    missing: list[str] = []
    present: list[str] = []
    for path in sorted(folder.glob("*.yaml")):
        for spec in (yaml.safe_load(path.read_text(encoding="utf-8")) or {}).values():
            if isinstance(spec, dict) and spec.get("source") == "wheel":
                name = spec["id"].replace("==", "-")
                cached = cache_dir() / "wheels" / f"{name}-{spec['sha256'][:12].lower()}" / spec["file"]
                (present if cached.exists() else missing).append(spec["id"])
    if missing:
        found = f"not fetched yet: {', '.join(dict.fromkeys(missing))}"
        return warn(found, "The first run fetches them through pip; stay online.")
    return ok(", ".join(dict.fromkeys(present)) or "no wheel named")


def wandb_installed() -> Check:
    """The optional dashboard."""
    version = _version("wandb")
    if version is None:
        return warn("not installed", "`pip install wandb` for tracker=wandb.")
    return ok(f"{version}; offline needs no account")


def launchers() -> Check:
    """Hydra's launchers for several jobs at once; all optional."""
    found = [name for name, package in LAUNCHERS.items() if _version(package)]
    return ok(", ".join(found) or "one job at a time; the others are extras")


def git() -> Check:
    """Records name the commit they were made with."""
    where = Path(__file__).resolve().parents[1]
    if shutil.which("git") is None:
        return warn("not installed", "Install git so that records name their code.")
    command = ["git", "-C", str(where), "rev-parse", "--short", "HEAD"]
    sha = subprocess.run(command, capture_output=True, text=True, check=False)
    if sha.returncode != 0:
        fix = "Work in a git clone so that records name their code."
        return warn("no commit", fix)
    return ok(sha.stdout.strip())


def energy(powercap: Path = Path("/sys/class/powercap")) -> Check:
    """Where joules would come from: the GPU driver's counter, the processor's, or nowhere."""
    meter = Meter(powercap=powercap)
    sources = [name for name, found in (("GPU (NVML)", meter.cards), ("processor (RAPL)", meter.packages)) if found]
    if not sources:
        fix = "Nothing to do on most machines: measured energies stay empty; modelled ones need no meter."
        return warn("no meter that this user may read", fix)
    return ok(", ".join(sources))


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _guarded(check: Callable[[], Check]) -> Check:
    try:
        return check()
    except Exception as error:
        said = str(error).partition("\n")[0]
        return fail(f"{type(error).__name__}: {said}", "Repair what the message names, then run doctor again.")
