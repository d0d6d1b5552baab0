"""The study's figures as SVG files, with the same bytes for the same numbers.

Colours are Okabe and Ito's ("Color universal design", 2008), told apart by the colour-blind; each line also has a dash
and a marker of its own, so that print in grey is enough. Maps are cividis (Nunez et al. 2018), and every cell also
says its number. The background is transparent and text is grey: both pages, light and dark, can hold them.

Every function writes one file into a folder that exists, and raises UserError where it cannot. Upright bars are 95 %
intervals; what was not measured leaves a gap.
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from controller.baselines import Standing, Table, hull
from controller.importance import MEASURES, Importance
from controller.space import Space
from suite.records.store import write_atomic
from suite.report.plot import GREY, STYLE
from suite.stats import Estimate

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Estimates = Sequence[Estimate]

LOOKS: tuple[tuple[str, str, Any], ...] = (
    ("#0072b2", "o", "-"),
    ("#d55e00", "s", "--"),
    ("#009e73", "^", "-."),
    ("#cc79a7", "D", ":"),
    ("#e69f00", "v", (0, (5, 1, 1, 1, 1, 1))),
)
"""Colour, marker, dash of the first controller, the second, ...; from the sixth on they begin anew."""
BASELINES: dict[str, tuple[str, str, Any]] = {
    "lookup": ("#56b4e9", "P", (0, (3, 1))),
    "lookup_p95": ("#56b4e9", "*", (0, (3, 1, 1, 1))),
    "random": (GREY, "d", (0, (1, 2))),
    "oracle": ("#a6761d", "X", (0, (1, 1))),
}
"""What looks the same in every figure, whichever controllers there are."""
MOST_POINTS = 500
"""Points of a scatter plot at most: more of them are a blot, and megabytes."""
COLUMNS = 3
"""Small panels side by side."""
Standings = Mapping[str, Sequence[Standing]]
"""Policy (any of `BASELINES`, or a controller) -> how it stands at each budget, the same budgets for all."""


def draw_tradeoff(path: Path, fixed: Table, standings: Standings) -> None:
    """Accuracy against mean latency: up and left is better.

    Args:
        path: where to.
        fixed: every configuration on the same samples, (n, c).
        standings: lines, from the first budget to the last.
    """
    across, heights = fixed.latency_ms.mean(axis=0), fixed.accuracy.mean(axis=0)
    edge = hull(heights, across)
    with _figure(path, "Accuracy against mean latency; along a line the budget grows", size=(7.8, 4.6)) as figure:
        axis = _axis(figure.subplots(), "mean latency of a sample, ms", "accuracy")
        axis.plot(across, heights, ".", color=GREY, markersize=4, alpha=0.6, label="fixed configurations", zorder=1)
        axis.plot(edge.latency_ms, edge.accuracy, "-", color=GREY, linewidth=1, label="hull of them", zorder=1)
        for look, (name, told) in zip(_looks(standings), standings.items(), strict=True):
            _line(axis, [one.latency_ms.value for one in told], [one.accuracy for one in told], look, name)
        _legend(figure, [axis])


def draw_adherence(path: Path, standings: Standings, *, target: float) -> None:
    """Share of samples within the budget, and below it latency relative to the budget, one panel a policy.

    Args:
        path: where to.
        standings: the policies.
        target: share that is wanted, 0 to 1.
    """
    rows = -(-len(standings) // COLUMNS)
    with _figure(path, "Adherence to the budget", size=(7.8, 3.2 + 2.0 * rows)) as figure:
        top, below = figure.subfigures(2, 1, height_ratios=(3.0, 2.0 * rows))
        axis = _axis(top.subplots(), "budget, ms", "share of samples within it")
        _by_budget(axis, standings, {name: [one.within for one in told] for name, told in standings.items()})
        axis.axhline(target, color=GREY, linestyle="--", linewidth=0.8, zorder=1, label=f"target {target:g}")
        _legend(top, [axis])
        panels = _panels(below, len(standings), "budget, ms", "latency / budget", shared=True)
        for panel, (name, told) in zip(panels, standings.items(), strict=True):
            budgets = [one.budget_ms for one in told]
            for look, (statistic, values) in zip(LOOKS, _relative(told).items(), strict=False):
                _line(panel, budgets, values, look, statistic)
            panel.axhline(1.0, color=GREY, linestyle="--", linewidth=0.8, zorder=1)
            panel.set_title(name)
        _legend(below, panels[:1])


def draw_confusion(path: Path, space: Space, counts: Mapping[str, Ints]) -> None:
    """Confusion matrices, one panel a knob; colour is the share of a row.

    Args:
        path: where to.
        space: the settings.
        counts: knob (tier, top_k, blocks; all or some) -> samples by label (rows) and choice (columns), (k, k).
    """
    settings = _settings(space)
    size = (0.9 + sum(0.7 + 0.6 * len(settings[knob]) for knob in counts), 3.8)
    with _figure(path, "Label against choice: samples, and share of the label", size=size) as figure:
        axes = figure.subplots(1, len(counts), squeeze=False)[0]
        for axis, (knob, matrix) in zip(axes, counts.items(), strict=True):
            shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
            cells = [
                [f"{n}\n{share:.0%}" for n, share in zip(*row, strict=True)] for row in zip(matrix, shares, strict=True)
            ]
            _map(axis, shares, cells, rows=settings[knob], columns=settings[knob], limits=(0.0, 1.0))
            axis.set(xlabel="chosen", ylabel="label", title=knob)


def draw_knobs(
    path: Path, space: Space, budgets_ms: Sequence[float], shares: Mapping[str, Mapping[str, Floats]]
) -> None:
    """Which settings are chosen at each budget: one row a policy, one column a knob.

    Args:
        path: where to.
        space: the settings.
        budgets_ms: (m,).
        shares: policy -> knob (tier, top_k, blocks) -> share of samples of each setting at each budget, (m, settings).
    """
    settings, places = _settings(space), np.arange(len(budgets_ms))
    with _figure(path, "Knobs by budget: share of samples", size=(8.2, 1.2 + 1.6 * len(shares))) as figure:
        axes = figure.subplots(len(shares), len(settings), sharex=True, sharey=True, squeeze=False)
        for row, (policy, by_knob) in zip(axes, shares.items(), strict=True):
            for axis, (knob, names) in zip(row, settings.items(), strict=True):
                floor = np.zeros(len(budgets_ms))
                for colour, name, share in zip(_ramp(len(names)), names, by_knob[knob].T, strict=True):
                    axis.bar(places, share, 0.9, floor, color=colour, edgecolor=GREY, linewidth=0.4, label=name)
                    floor += share
                _axis(axis, "budget, ms", policy)
                axis.set_xticks(places, [f"{budget:.0f}" for budget in budgets_ms], fontsize=6.5, rotation=90)
                axis.label_outer()
        small = {"fontsize": 7, "title_fontsize": 8, "handlelength": 1.0, "columnspacing": 1.0, "frameon": False}
        for axis, (knob, names) in zip(axes[0], settings.items(), strict=True):
            axis.legend(title=knob, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=len(names), **small)


def draw_training(
    path: Path,
    curves: Mapping[str, Sequence[Mapping[str, Any]]],
    *,
    quantities: Sequence[str],
    optimum: Mapping[str, float],
) -> None:
    """Training curves, one panel a quantity.

    Args:
        path: where to.
        curves: run -> rows of `Fitted.curve`.
        quantities: of the rows, such as reward, accuracy, adherence, entropy, frac_zero_std; what a run did not log
            is left out.
        optimum: quantity -> its value under the exactly optimised policy, a dashed line.
    """
    rows = -(-len(quantities) // COLUMNS)
    with _figure(path, "Training", size=(8.2, 0.6 + 2.1 * rows)) as figure:
        panels = _panels(figure, len(quantities), "epoch", "", shared=False)
        for panel, quantity in zip(panels, quantities, strict=True):
            for (colour, _, dash), (name, curve) in zip(_looks(curves), curves.items(), strict=True):
                logged = [(row["epoch"], row[quantity]) for row in curve if quantity in row]
                if logged:
                    panel.plot(*zip(*logged, strict=True), linestyle=dash, color=colour, linewidth=1.4, label=name)
            if quantity in optimum:
                panel.axhline(optimum[quantity], color=GREY, linestyle="--", linewidth=1, label="exact optimum")
            panel.set_title(quantity.replace("_", " "))
        _legend(figure, panels)


def draw_importance(path: Path, found: Importance) -> None:
    """Heat map of blocks by data sets, one panel a measure.

    Colour goes with the square root, so that one block that dominates does not hide the others.
    """
    height = 0.9 + sum(0.9 + 0.32 * len(by_set) for by_set in found.scores.values())
    with _figure(path, "Importance of each decoder block, in hundredths", size=(8.2, height)) as figure:
        axes = figure.subplots(len(found.scores), 1, squeeze=False)[:, 0]
        for axis, (measure, by_set) in zip(axes, found.scores.items(), strict=True):
            values = 100 * np.array([_heights(blocks) for blocks in by_set.values()])
            colour = np.sign(values) * np.sqrt(np.abs(values))
            cells = [[f"{value:.1f}" for value in row] for row in values]
            limits = (min(0.0, float(colour.min())), float(colour.max()) or 1.0)
            blocks = [str(block) for block in range(values.shape[1])]
            _map(axis, colour, cells, rows=tuple(by_set), columns=blocks, limits=limits)
            axis.set(xlabel="block", title=measure.replace("_", " "))


def draw_importance_bars(path: Path, found: Importance) -> None:
    """Accuracy drop of each block, one row a data set; the dominating block is cut off, with its value above it."""
    scores = found.scores[MEASURES[0]]
    others = np.concatenate(
        [np.delete([_heights(one), *_ends(one)], found.dominating, axis=1) for one in scores.values()]
    )
    low, high = min(0.0, float(np.nanmin(others))), max(1e-3, float(np.nanmax(others)))
    title = "Accuracy lost without each block"
    with _figure(path, title, size=(7.4, 0.8 + 1.15 * len(scores))) as figure:
        axes = figure.subplots(len(scores), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
        for axis, (colour, _, _), (name, blocks) in zip(axes, _looks(scores), scores.items(), strict=True):
            heights, places = _heights(blocks), np.arange(len(blocks))
            axis.bar(places, heights, color=colour, alpha=0.75)
            axis.vlines(places, *_ends(blocks), color=GREY, linewidth=1.2)
            axis.axhline(0, color=GREY, linewidth=0.6)
            axis.set(xticks=places, ylim=(1.1 * low, 1.2 * high))
            first = found.dominating
            axis.text(first, 1.2 * high, f"{heights[first]:.2f}", ha="center", va="bottom", fontsize=7)
            _axis(axis, "block", name).label_outer()


def draw_estimator_errors(path: Path, space: Space, mape: Mapping[str, Floats]) -> None:
    """Error of the latency estimator by configuration: rows tier and top-k, columns blocks, one panel a quantity.

    Args:
        path: where to.
        space: the configurations.
        mape: quantity (a part, or the total) -> mean absolute error relative to the measured time, (c,).
    """
    tiers, top_ks, depths = space.shape
    rows = [f"{tier}/k{top_k}" for tier in space.tiers for top_k in space.top_ks]
    worst = max(float(np.nanmax(errors)) for errors in mape.values())
    size = (1.0 + (0.36 * depths + 0.2) * len(mape), 1.2 + 0.24 * len(rows))
    with _figure(path, "Estimator: mean absolute error, % of the measured time", size=size) as figure:
        axes = figure.subplots(1, len(mape), sharey=True, squeeze=False)[0]
        for axis, (name, errors) in zip(axes, mape.items(), strict=True):
            values = errors.reshape(tiers * top_ks, depths)
            cells = [["" if np.isnan(value) else f"{100 * value:.0f}" for value in row] for row in values]
            _map(axis, values, cells, rows=rows, columns=_settings(space)["blocks"], limits=(0.0, worst))
            axis.set(xlabel="blocks", title=_part(name))


def draw_estimates(path: Path, parts: Mapping[str, tuple[Floats, Floats]]) -> None:
    """Predicted against measured time, one panel a part, on logarithmic axes.

    Args:
        path: where to.
        parts: part -> measured and predicted in ms, each (rows,); those that are missing or 0 are left out, and of
            many every so-manieth is shown.
    """
    rows = -(-len(parts) // COLUMNS)
    with _figure(path, "Estimator: predicted against measured", size=(7.8, 0.6 + 2.4 * rows)) as figure:
        panels = _panels(figure, len(parts), "measured, ms", "predicted, ms", shared=False)
        for panel, (name, (measured, predicted)) in zip(panels, parts.items(), strict=True):
            known = np.flatnonzero((measured > 0) & (predicted > 0))
            shown = known[:: -(-len(known) // MOST_POINTS) or 1]
            panel.loglog(measured[shown], predicted[shown], ".", color=LOOKS[0][0], markersize=3, alpha=0.4)
            panel.axline((1, 1), (2, 2), color=GREY, linestyle="--", linewidth=1)
            panel.set_title(_part(name))


def draw_regret(path: Path, standings: Standings) -> None:
    """Accuracy that the oracle of each sample has more, by budget; the oracle itself is left out."""
    shown = {name: told for name, told in standings.items() if name != "oracle"}
    with _figure(path, "Regret to the oracle of each sample", size=(7.4, 4.0)) as figure:
        axis = _axis(figure.subplots(), "budget, ms", "accuracy that is missed")
        _by_budget(axis, shown, {name: [one.regret for one in told] for name, told in shown.items()})
        axis.axhline(0, color=GREY, linewidth=0.6)
        _legend(figure, [axis])


def draw_marginals(path: Path, effects: Mapping[str, Mapping[str, Mapping[str, Estimate]]]) -> None:
    """What each knob alone changes, the others at their dearest: one column a knob, one row a quantity.

    Args:
        path: where to.
        effects: quantity with its unit (accuracy, latency in ms) -> knob -> setting, from cheap to dear -> estimate.
    """
    knobs = tuple(dict.fromkeys(knob for by_knob in effects.values() for knob in by_knob))
    with _figure(path, "Effect of each knob, the others at their most", size=(7.8, 0.6 + 2.1 * len(effects))) as figure:
        axes = figure.subplots(len(effects), len(knobs), sharex="col", sharey="row", squeeze=False)
        for row, look, (quantity, by_knob) in zip(axes, LOOKS, effects.items(), strict=False):
            for axis, knob in zip(row, knobs, strict=True):
                settings = by_knob[knob]
                _line(axis, range(len(settings)), tuple(settings.values()), look, quantity)
                axis.set_xticks(range(len(settings)), tuple(settings))
                axis.set_xlim(-0.4, len(settings) - 0.6)
                _axis(axis, knob, quantity).label_outer()


@contextmanager
def _figure(path: Path, title: str, *, size: tuple[float, float]) -> Iterator[Any]:
    """An empty figure, which is written to `path` when it has been drawn."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context({**STYLE, "font.size": 8, "axes.titlesize": 8}):
        figure = Figure(figsize=size, layout="constrained")
        figure.suptitle(title, fontsize=9)
        yield figure
        svg = io.StringIO()
        figure.savefig(svg, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
        write_atomic(path, svg.getvalue())


def _axis(axis: Any, x: str, y: str) -> Any:
    axis.set(xlabel=x, ylabel=y)
    axis.spines[["top", "right"]].set_visible(False)
    return axis


def _legend(figure: Any, axes: Iterable[Any]) -> None:
    """Outside, on the right; a name that several axes have, once."""
    named = {label: handle for axis in axes for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(named.values(), named.keys(), loc="outside right upper", fontsize=8, framealpha=0)


def _panels(figure: Any, count: int, x: str, y: str, *, shared: bool) -> list[Any]:
    """Small panels, with the names of the axes at the outer ones."""
    rows = -(-count // COLUMNS)
    every = figure.subplots(rows, COLUMNS, sharex=shared, sharey=shared, squeeze=False).ravel()
    for place, panel in enumerate(every[:count]):
        lowest = place + COLUMNS >= count
        _axis(panel, x if lowest else "", y if place % COLUMNS == 0 else "")
        panel.tick_params(labelbottom=lowest or not shared)
    for panel in every[count:]:
        panel.set_visible(False)
    return list(every[:count])


def _looks(names: Iterable[str]) -> list[tuple[str, str, Any]]:
    """A baseline's own, and for the others one after the other."""
    free = itertools.cycle(LOOKS)
    return [BASELINES[name] if name in BASELINES else next(free) for name in names]


def _line(axis: Any, x: Sequence[float | None], y: Estimates, look: tuple[str, str, Any], name: str) -> None:
    colour, marker, dash = look
    across = np.array(x, dtype=float)
    axis.plot(across, _heights(y), linestyle=dash, marker=marker, color=colour, markersize=4, linewidth=1.4, label=name)
    axis.vlines(across, *_ends(y), color=colour, linewidth=1, alpha=0.7)


def _by_budget(axis: Any, standings: Standings, values: Mapping[str, Estimates]) -> None:
    """Lines over the budgets, a little beside each other, so that their intervals do not cover each other."""
    for number, (look, name) in enumerate(zip(_looks(standings), standings, strict=True)):
        budgets = np.array([one.budget_ms for one in standings[name]])
        aside = 0.006 * np.ptp(budgets) * (number - (len(standings) - 1) / 2)
        _line(axis, (budgets + aside).tolist(), values[name], look, name)


def _relative(told: Sequence[Standing]) -> dict[str, list[Estimate]]:
    """Mean, p90 and p95 latency as shares of the budget; quantiles have no interval."""
    shares: dict[str, list[Estimate]] = {"mean": [], "p90": [], "p95": []}
    for one in told:
        mean, ends, budget = one.latency_ms.value, one.latency_ms.ci95, one.budget_ms
        shares["mean"].append(
            Estimate(
                value=None if mean is None else mean / budget,
                ci95=(ends[0] / budget, ends[1] / budget) if ends else None,
                n=one.latency_ms.n,
            )
        )
        for name, value in (("p90", one.p90_ms), ("p95", one.p95_ms)):
            shares[name].append(Estimate(value=value / budget, ci95=None, n=one.latency_ms.n))
    return shares


def _settings(space: Space) -> dict[str, list[str]]:
    return {
        "tier": list(space.tiers),
        "top_k": [str(top_k) for top_k in space.top_ks],
        "blocks": [str(depth) for depth in space.depths],
    }


def _part(name: str) -> str:
    return name.removesuffix("_ms").replace("_", " ")


def _heights(estimates: Estimates) -> Floats:
    """Values, NaN where there is none."""
    return np.array([one.value for one in estimates], dtype=float)


def _ends(estimates: Estimates) -> tuple[Floats, Floats]:
    """Where intervals begin and end; NaN where there is none."""
    ends = np.array([one.ci95 or (np.nan, np.nan) for one in estimates], dtype=float)
    return ends[:, 0], ends[:, 1]


def _ramp(count: int) -> list[Any]:
    """Colours from dark to light, told apart in grey too."""
    import matplotlib as mpl

    return list(mpl.colormaps["cividis"](np.linspace(0.05, 0.95, count)))


def _map(
    axis: Any,
    values: Floats,
    cells: Sequence[Sequence[str]],
    *,
    rows: Sequence[str],
    columns: Sequence[str],
    limits: tuple[float, float],
) -> None:
    """Cells of `values` (rows, columns), coloured within `limits`, each with its own text in black or white."""
    low, high = limits
    axis.pcolormesh(values, cmap="cividis", vmin=low, vmax=high, edgecolor="none", linewidth=0)
    axis.invert_yaxis()
    axis.set_yticks(np.arange(len(rows)) + 0.5, rows, fontsize=7)
    axis.set_xticks(np.arange(len(columns)) + 0.5, columns, fontsize=7)
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    for (row, column), value in np.ndenumerate(values):
        ink = "white" if value < low + 0.55 * (high - low) else "black"
        axis.text(column + 0.5, row + 0.5, cells[row][column], ha="center", va="center", color=ink, fontsize=6.5)
