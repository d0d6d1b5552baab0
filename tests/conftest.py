"""What every test needs."""

from __future__ import annotations

import gc
import os
import signal

import pytest

# more threads cost more than they give at the size of the tests, and the processes of `make test` share the cores;
# numba, which quantecon brings, sets torch's threads anew
for library in ("OMP", "NUMBA"):
    os.environ[f"{library}_NUM_THREADS"] = "1"
# a shell's background job is born deaf to Ctrl-C, and so would be every launch that a test interrupts
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish(session: pytest.Session) -> None:
    """What was imported stays: the garbage collector need not look at it again, half a second each time."""
    gc.freeze()
