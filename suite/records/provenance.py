"""Where a number came from: code version, packages, machine, command line. Nothing that names a person or a host."""

from __future__ import annotations

import platform
import subprocess
import sys
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from suite.hardware.machine import describe
from suite.tracking.secrets import command_line

PACKAGES = (
    *("torch", "transformers", "hydra-core", "evaluate", "sacrebleu", "bert-score", "jieba", "soundfile", "soxr"),
    *("numpy", "bitsandbytes"),
)


@cache
def git_state(folder: Path) -> dict[str, Any]:
    """Commit and whether the tree differs from it; both None outside a checkout."""
    try:
        git = ["git", "-C", str(folder)]
        sha = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        status = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return {"git_sha": None, "git_dirty": None}
    return {"git_sha": sha, "git_dirty": bool(status.strip())}


def packages() -> dict[str, str]:
    """Versions of the packages that can move a number; absent ones are left out."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def provenance() -> dict[str, Any]:
    """All of it, for record.json."""
    return {
        **git_state(Path(__file__).resolve().parents[2]),
        "packages": packages(),
        "python": platform.python_version(),
        "machine": describe(),
        "command": command_line([Path(sys.argv[0]).name, *sys.argv[1:]]),
    }
