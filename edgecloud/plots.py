"""Figures of an analysis, as SVG files with the same bytes for the same numbers."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from suite.records.store import write_atomic
from suite.report.plot import STYLE
from suite.stats import Estimate

if TYPE_CHECKING:
    from edgecloud.analysis import Point


def draw(
    folder: Path,
    points: Sequence[Point],
    front: Sequence[Point],
    bounds: Sequence[Point],
    best: Point,
    calibration: dict[str, Estimate],
    speedup: Sequence[dict[str, Any]],
    quality: str,
) -> None:
    """Write pareto.svg and, where there is something to show, auroc.svg and speedup.svg; see `analysis.analyse`."""
    import matplotlib as mpl

    folder.mkdir(exist_ok=True)
    with mpl.rc_context(STYLE):
        _write(folder / "pareto.svg", _pareto(points, front, bounds, best, quality))
        if calibration:
            _write(folder / "auroc.svg", _auroc(calibration))
        if speedup:
            _write(folder / "speedup.svg", _speedup(speedup))


def _pareto(points: Sequence[Point], front: Sequence[Point], bounds: Sequence[Point], best: Point, quality: str) -> Any:
    figure, axis = _figure(7, 4.2)
    axis.plot([p.calls for p in points], [p.quality for p in points], ".", color="#8888", label="settings")
    for label, shown, style in (
        ("front", front, "o-"),
        ("random gate", [p for p in bounds if p.gate == "random"], "v--"),
        ("oracle gate", [p for p in bounds if p.gate == "oracle"], "^--"),
    ):
        if shown:
            ordered = sorted(shown, key=lambda p: p.calls)
            x, y = [p.calls for p in ordered], [p.quality for p in ordered]
            axis.errorbar(x, y, yerr=_bars(ordered), fmt=style, markersize=4, linewidth=1, label=label)
    axis.plot([best.calls], [best.quality], "*", markersize=14, label=f"recommended: {best.setting}")
    axis.set(xlabel="cloud calls per token", ylabel=quality)
    axis.set_title("quality against cloud calls; bars are 95 % intervals over samples", fontsize=9)
    figure.legend(loc="outside lower center", ncols=3, fontsize=8, framealpha=0)
    return figure


def _auroc(calibration: dict[str, Estimate]) -> Any:
    figure, axis = _figure(5, 2.4)
    for at, one in enumerate(calibration.values()):
        assert one.value is not None
        low, high = one.ci95 or (one.value, one.value)
        axis.errorbar([one.value], [at], xerr=[[max(0.0, one.value - low)], [max(0.0, high - one.value)]], fmt="o")
    axis.axvline(0.5, linestyle=":", color="#808080")
    axis.set_yticks(range(len(calibration)), labels=list(calibration))
    axis.set(xlabel="AUROC for tokens the cloud would refuse (0.5: a coin)", xlim=(0.4, 1.0))
    axis.margins(y=0.3)
    return figure


def _speedup(rows: Sequence[dict[str, Any]]) -> Any:
    rows = sorted(rows, key=lambda row: row["k"])
    timed = [row for row in rows if "gap" in row]
    figure, axes = _figure(8 if timed else 4, 3.4, columns=2 if timed else 1)
    left, *right = axes if timed else (axes,)
    k = [row["k"] for row in rows]
    left.plot(k, [row["tokens_analytic"] for row in rows], "--", label="(1 - a^(k+1)) / (1 - a)")
    left.plot(k, [row["tokens"] for row in rows], "o", label="measured")
    left.set(xlabel="draft length k", ylabel="tokens a round")
    for axis in right:
        for part in ("acceptance", "verify", "draft", "network"):
            axis.plot([row["k"] for row in timed], [row["gap"][part] for row in timed], "o-", markersize=4, label=part)
        axis.set(xlabel="draft length k", ylabel="taken from the speed-up")
    for axis in (left, *right):
        axis.legend(fontsize=8, framealpha=0)
    return figure


def _figure(width: float, height: float, columns: int = 1) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(ncols=columns)


def _bars(points: Sequence[Point]) -> list[list[float]]:
    """Distances down and up, (2, points)."""
    intervals = [p.quality_ci95 or (p.quality, p.quality) for p in points]
    down = [max(0.0, p.quality - low) for p, (low, _) in zip(points, intervals, strict=True)]
    up = [max(0.0, high - p.quality) for p, (_, high) in zip(points, intervals, strict=True)]
    return [down, up]


def _write(path: Path, figure: Any) -> None:
    svg = io.StringIO()
    figure.savefig(svg, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    write_atomic(path, svg.getvalue())
