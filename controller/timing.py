"""The stopwatch of one run.

On a CPU the marks are readings of the clock. On a GPU they are events in its queue, put there between the phases
without waiting for anything, so measuring changes nothing; the only waits are before the first mark and at the end.
"""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass
from typing import Any

import torch

WARM_UP = 10
"""Runs before the first that counts."""
PERCENTILES = (50, 90, 95, 99)


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """What the phases of a run took, and all of it."""

    parts: dict[str, float]
    """Milliseconds by phase; on a GPU its own clock."""
    total_ms: float
    """From start to stop by this machine's clock, measured apart from the parts."""


class Stopwatch:
    """Runs from its making; each `lap` ends a phase."""

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._device = device
        if self._cuda:
            torch.cuda.synchronize(device)  # nothing of what came before runs into the first phase
        self._start = time.perf_counter()
        self._names: list[str] = []
        self._marks: list[Any] = [self._mark()]

    def lap(self, name: str) -> None:
        """The phase that ends here is called `name`."""
        self._names.append(name)
        self._marks.append(self._mark())

    def stop(self) -> Times:
        """All phases, once the device has done them."""
        if self._cuda:
            torch.cuda.synchronize(self._device)
        total_ms = 1000 * (time.perf_counter() - self._start)
        laps = (self._between(one, other) for one, other in itertools.pairwise(self._marks))
        return Times(parts=dict(zip(self._names, laps, strict=True)), total_ms=total_ms)

    def _mark(self) -> Any:
        if not self._cuda:
            return time.perf_counter()
        event: Any = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(self._device))
        return event

    def _between(self, one: Any, other: Any) -> float:
        return float(one.elapsed_time(other) if self._cuda else 1000 * (other - one))
