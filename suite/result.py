"""What a task returns: named metrics with unit, n and a confidence interval, each saying where it comes from."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Origin = Literal["measured", "modelled", "computed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One number of a result.

    Attributes:
        value: the number; None where the meter does not exist on this machine (never 0 in its place).
        unit: "ms", "tokens/s", "%", "MB", "J", "1" for pure ratios and scores.
        n: how many observations stand behind it.
        ci95: 95 % confidence interval, None where n < 2 or the value is None.
        origin: `measured` on this machine, `modelled` from a hardware profile, `computed` from the outputs.
        note: what a reader must know to compare it, such as the tokeniser of a score.
    """

    value: float | None
    unit: str
    n: int
    ci95: tuple[float, float] | None = None
    origin: Origin = "measured"
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        """A plain dict, as stored in record.json."""
        row = asdict(self)
        row["ci95"] = list(self.ci95) if self.ci95 else None
        return row


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What `run(cfg, ctx)` of a task hands back.

    Attributes:
        metrics: by name, in the order they are to be shown.
        facts: anything else worth keeping (resolved engines, dtypes, warnings), JSON-serialisable.
    """

    metrics: dict[str, Metric]
    facts: dict[str, Any] = field(default_factory=dict)
