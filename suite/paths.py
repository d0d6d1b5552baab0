"""Where files live outside a run's own folder: the user cache and the zoo of this repository. No torch here."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import platformdirs

from suite.errors import UserError

NOT_WRITABLE = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENOTDIR, errno.EEXIST}


def cache_dir() -> Path:
    """What can be fetched or made again: $EDGEBENCH_CACHE, else the user's cache folder. It need not exist yet."""
    chosen = os.environ.get("EDGEBENCH_CACHE") or platformdirs.user_cache_dir("edgebench")
    return Path(chosen).expanduser().absolute()


def zoo_dir() -> Path:
    """The embedded models and data of this repository."""
    return Path(__file__).resolve().parents[1] / "zoo"


def build_once(target: Path, build: Callable[[Path], None]) -> Path:
    """Return `target`, made first if it is missing: by one process at a time, and never seen half done.

    Args:
        target: file or folder inside the cache.
        build: creates the file or folder at the path it is given, whose parent is empty scratch space on the same
            disk; what it leaves behind is deleted.

    Raises:
        UserError: the cache cannot be written.
    """
    if target.exists():
        return target
    from filelock import FileLock  # a slow import, and most calls return above

    scratch = target.with_name(f"{target.name}.partial")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(target.with_name(f"{target.name}.lock")):
            if not target.exists():  # else another launch made it while this one waited
                shutil.rmtree(scratch, ignore_errors=True)  # of a launch that was killed
                scratch.mkdir()
                try:
                    build(scratch / target.name)
                    (scratch / target.name).replace(target)
                finally:
                    shutil.rmtree(scratch, ignore_errors=True)
    except OSError as error:
        if error.errno not in NOT_WRITABLE:
            raise
        raise UserError(
            f"the cache folder {target.parent} cannot be written ({error.strerror}); "
            "set EDGEBENCH_CACHE to a folder with space."
        ) from error
    return target
