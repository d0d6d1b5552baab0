"""What a call of a model costs, learnt from calls that were measured: a + b x positions.

At the sizes of a draft a call is a fixed overhead and a little for each position, so a line through the medians of the
calls of each length tells the time of any of them. The median, because a busy machine makes some calls slow and none
fast.
"""

from __future__ import annotations

from collections import defaultdict
from statistics import median


class Costs:
    """Measured calls of one model.

    Attributes:
        calls: positions computed -> seconds of each call that computed so many (measured).
    """

    def __init__(self) -> None:
        self.calls: defaultdict[int, list[float]] = defaultdict(list)
        self._line: tuple[float, float] | None = None
        self._known: dict[int, float] = {}

    def add(self, positions: int, seconds: float) -> None:
        """Keep one measured call."""
        self.calls[positions].append(seconds)
        self._line = None
        self._known.clear()

    def line(self) -> tuple[float, float]:
        """(a, b): seconds of a call and of each position in it, least squares over medians weighted by their calls.

        Neither is negative. Calls of one length alone tell no slope: b is then 0, and with no calls at all both are.
        """
        if self._line is None:
            self._line = _fit([(n, median(calls), len(calls)) for n, calls in self.calls.items()])
        return self._line

    def seconds(self, positions: int) -> float:
        """Time of a call that computes so many positions (modelled)."""
        known = self._known.get(positions)
        if known is None:
            a, b = self.line()
            known = self._known[positions] = a + b * positions
        return known


def _fit(points: list[tuple[int, float, int]]) -> tuple[float, float]:
    """The line through (x, y, weight), see `Costs.line`."""
    weight = sum(w for _, _, w in points)
    if not weight:
        return 0.0, 0.0
    x0 = sum(w * x for x, _, w in points) / weight
    y0 = sum(w * y for _, y, w in points) / weight
    spread = sum(w * (x - x0) ** 2 for x, _, w in points)
    b = max(0.0, sum(w * (x - x0) * (y - y0) for x, y, w in points) / spread) if spread else 0.0
    a = y0 - b * x0
    return (a, b) if a >= 0.0 else (0.0, y0 / x0)
