"""What the reference study hopes for, row by row, next to what was reached; what falls short is shown first."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

Target = dict[str, Any]


def target(row: str, what: str, aim: str, reached: str, *, met: bool | None) -> Target:
    """One target of a row of the study; `met` is None where the data cannot tell."""
    return {"row": row, "what": what, "aim": aim, "reached": reached, "met": met}


def table(targets: Iterable[Target]) -> dict[str, Any]:
    """The targets as a table of a record, missed ones first."""
    order = {False: 0, None: 1, True: 2}
    words = {False: "MISSED", None: "cannot tell", True: "met"}
    rows = sorted(targets, key=lambda one: (order[one["met"]], one["row"]))
    return {
        "title": "Targets",
        "header": ["row", "what", "aim", "reached", ""],
        "rows": [[one["row"], one["what"], one["aim"], one["reached"], words[one["met"]]] for one in rows],
    }


def points(difference: float, ci95: tuple[float, float] | None) -> str:
    """A difference of two shares in points, with its interval."""
    interval = f" [{100 * ci95[0]:+.1f}, {100 * ci95[1]:+.1f}]" if ci95 else ""
    return f"{100 * difference:+.1f} points{interval}"


def share(value: float, ci95: tuple[float, float] | None) -> str:
    """A share in per cent, with its interval."""
    interval = f" [{100 * ci95[0]:.1f}, {100 * ci95[1]:.1f}]" if ci95 else ""
    return f"{100 * value:.1f} %{interval}"
