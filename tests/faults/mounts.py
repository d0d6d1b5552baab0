"""Small and read-only disks, of a process's own: its mount namespace is gone when it ends."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

import pytest

from tests.faults import forked

CLONE_NEWNS, CLONE_NEWUSER = 0x00020000, 0x10000000
MS_RDONLY, MS_REMOUNT, MS_REC, MS_PRIVATE = 1, 32, 0x4000, 0x40000
DENIED = 77
_libc = ctypes.CDLL(None, use_errno=True)


def alone() -> None:
    """Give this process its own mounts, and the right to make some; raises `OSError` where the kernel forbids it."""
    user, group = os.getuid(), os.getgid()
    _call(_libc.unshare(CLONE_NEWNS | (CLONE_NEWUSER if user else 0)))
    if user:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {user} 1")
        Path("/proc/self/gid_map").write_text(f"0 {group} 1")
    _call(_libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None))


def small_disk(folder: Path, size: str, flags: int = 0) -> None:
    """An empty disk at `folder`, of a size such as `100k`; with `MS_REMOUNT` the one that is there becomes so."""
    _call(_libc.mount(b"tmpfs", os.fsencode(folder), b"tmpfs", flags, f"size={size}".encode()))


def _call(result: int) -> None:
    if result:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def allowed() -> bool:
    """Whether a process may have mounts of its own here."""
    child = forked.CONTEXT.Process(target=_try)
    child.start()
    return forked.finish(child) == 0


def _try() -> None:
    try:
        alone()
    except OSError:
        raise SystemExit(DENIED) from None


def skip_unless_allowed() -> None:
    """Skip the test where the kernel or a container forbids mounts."""
    if not allowed():
        pytest.skip("this kernel or container allows no mount namespaces")
