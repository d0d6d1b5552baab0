"""How far a long piece of work is: a bar on a terminal, a plain line now and then elsewhere (nohup, a log, CI)."""

from __future__ import annotations

import logging
import os
import sys
import time
from types import TracebackType
from typing import Any, Self

log = logging.getLogger(__name__)
QUIET = "EDGEBENCH_QUIET"
"""Set in the environment of jobs over which a live table stands: a bar of theirs would tear it."""
REPORT_EVERY_S = 10.0  # without a terminal, one line of progress this often


class Progress:
    """Counts `unit`s of work up to a total; the time left is reckoned from what was done here."""

    def __init__(self, label: str, total: int, *, done: int = 0, unit: str = "sample") -> None:
        """Begin at `done` of `total`."""
        self.label, self.total, self.done, self.unit = label, total, done, unit
        self._start = self._spoken = time.monotonic()
        self._before = done
        self._bar: Any = None
        if sys.stderr.isatty() and total > 1 and not os.environ.get(QUIET):
            from tqdm import tqdm

            self._bar = tqdm(desc=label, total=total, initial=done, unit=unit, dynamic_ncols=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()

    def advance(self, more: int = 1) -> None:
        """So much more is done."""
        self.done += more
        if self._bar is not None:
            self._bar.update(more)
            return
        now = time.monotonic()
        if now - self._spoken > REPORT_EVERY_S:
            self._spoken = now
            left_s = (now - self._start) / max(1, self.done - self._before) * max(0, self.total - self.done)
            log.info("%s: %d of %d %ss, about %s left", self.label, self.done, self.total, self.unit, spoken(left_s))


def spoken(seconds: float) -> str:
    """A time span as one says it: 40 s, 12 min, 3.5 h, 6.2 days."""
    for limit, size, name in ((100.0, 1.0, "s"), (6000.0, 60.0, "min"), (172800.0, 3600.0, "h")):
        if seconds < limit:
            digits = 1 if name == "h" else 0
            return f"{seconds / size:.{digits}f} {name}"
    return f"{seconds / 86400:.1f} days"
