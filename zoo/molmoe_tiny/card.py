"""Write the figures of CARD.md from figures.json and curve.json: no figure there is typed by hand."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.readme import replaced
from zoo.molmoe_tiny.questions import SETS

TARGETS = {
    "tier": ("low to high", 8),
    "blocks": ("8 to 16", 5),
    "top_k": ("4 to 12", 3),
}
"""Of each knob, the difference that must be at least so many points, its interval excluding 0."""
SPEED_UP = 2.5
"""How much faster the cheapest setting must be than the dearest."""


def write(folder: Path) -> None:
    """Fill the blocks `table`, `targets` and `curve` of the card."""
    card = folder / "CARD.md"
    figures = json.loads((folder / "figures.json").read_text(encoding="utf-8"))
    curve = json.loads((folder / "curve.json").read_text(encoding="utf-8"))
    text = card.read_text(encoding="utf-8")
    for name, lines in (("targets", targets(figures)), ("table", table(figures)), ("curve", curves(curve))):
        text = replaced(text, name, "\n".join(lines))
    card.write_text(text, encoding="utf-8")


def targets(figures: dict[str, Any]) -> list[str]:
    """What was to be reached and what was; what falls short comes first."""
    told = []
    for knob, (step, least) in TARGETS.items():
        gap = figures["accuracy"][knob]["differences"][step]
        low, high = (100 * end for end in gap["ci95"])
        value = 100 * gap["value"]
        reached = value >= least and low > 0
        told.append((reached, f"{knob}, {step}: {value:+.1f} points [{low:+.1f}, {high:+.1f}], at least {least}"))
    times = figures["latency"]
    ratio = times["all"]["dearest"]["ms"] / times["all"]["cheapest"]["ms"]
    told.append((ratio >= SPEED_UP, f"dearest setting {ratio:.1f} times as slow as the cheapest, at least {SPEED_UP}"))
    for knob in TARGETS:
        by_setting = [entry["ms"] for entry in times[knob].values()]
        told.append((by_setting == sorted(by_setting), f"latency rises with {knob}"))
    told.sort(key=lambda line: line[0])
    return [f"{'reached' if reached else 'MISSED':<8} {line}" for reached, line in told]


def table(figures: dict[str, Any]) -> Iterator[str]:
    """Accuracy by knob with the others at full, in all and by data set, with 95 % intervals, and latency."""
    columns = ["all", *SETS]
    n = {name: figures["accuracy"]["tier"]["settings"]["high"][name]["n"] for name in columns}
    yield f"{'':<16}" + "".join(f"{f'{name} (n = {n[name]})':<26}" for name in columns) + "ms"
    for knob, rows in figures["accuracy"].items():
        for setting, by_set in rows["settings"].items():
            cells = "".join(f"{_interval(by_set[name]):<26}" for name in columns)
            yield f"{knob + ' ' + setting:<16}{cells}{figures['latency'][knob][setting]['ms']:.1f}"
        for step, gap in rows["differences"].items():
            yield f"  {step}: {100 * gap['value']:+.1f} points [{', '.join(f'{100 * x:+.1f}' for x in gap['ci95'])}]"
    times = figures["latency"]["all"]
    yield f"cheapest of all {times['cheapest']['ms']:.1f} ms, dearest {times['dearest']['ms']:.1f} ms"
    yield "importance by block: " + " ".join(f"{100 * score:.1f}" for score in figures["importance"])


def curves(curve: list[dict[str, float]]) -> Iterator[str]:
    """Training batches, means since the line before."""
    names = list(dict.fromkeys(name for entry in curve for name in entry))
    yield "".join(f"{name:>12}" for name in names)
    for entry in curve:
        yield "".join(f"{entry.get(name, '-'):>12}" for name in names)


def _interval(estimate: dict[str, Any]) -> str:
    low, high = estimate["ci95"]
    return f"{100 * estimate['value']:.1f} [{100 * low:.1f}, {100 * high:.1f}]"
