"""A grid as a reader wants it: one sentence, a few tables, and every number as a metric of the record."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from argo.curves import (
    ALIKE_AT_ANY_COST,
    Cell,
    Comparison,
    Grid,
    Point,
    against_argo,
    among_others,
    points,
    shared,
    strategies,
)
from suite.report.words import MISSING, metric_text, number, with_interval
from suite.result import Metric
from suite.stats import Estimate, ratio_ci

Table = dict[str, Any]
MARGIN = 0.02
"""ARGO reaches another strategy's accuracy when it is at most so far below."""
WALKED = {
    "accuracy": "accuracy",
    "f1": "F1",
    "retrievals": "retrievals",
    "retrieval_rate": "retrievals / steps",
    "reasons": "reasoning steps",
    "llm_calls": "LLM calls",
    "support": "support found",
}
SPENT = {
    "retrieved": "retrievals that succeeded",
    "prompt_tokens": "tokens read",
    "completion_tokens": "tokens written",
    "latency_ms": "ms (batched)",
    "dropped": "passages dropped",
}
VERSUS = {"accuracy": "accuracy", "cost": "cost", "iterations": "iterations", "llm_calls": "LLM calls"}
"""Columns of the comparison with fixed_k."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What a grid comes to.

    Attributes:
        points: every cell summed up.
        metrics: for the record: `<strategy>_<metric>`, of ARGO and of every cost `<strategy>_c<cost ratio>_<metric>`.
        headline: names of the metrics to show first.
        tables: title, header and rows of text.
        verdict: whether ARGO is worth it, in a sentence or two.
    """

    points: Mapping[Cell, Point]
    metrics: dict[str, Metric]
    headline: tuple[str, ...]
    tables: list[Table]
    verdict: str


def summarise(grid: Grid, facts: Mapping[str, Any], *, seed: int) -> Summary:
    """Curves, comparisons and verdict of a grid; `facts` as for `curves.points`.

    Raises:
        UserError: no question was answered in all cells.
    """
    asked = len({name for outcomes in grid.values() for name in outcomes})
    grid = shared(grid)
    found, versus = points(grid, facts, seed=seed), against_argo(grid, seed=seed)
    n = len(next(iter(grid.values())))
    left_out = f"; {asked - n} that some cell did not answer are left out" if asked > n else ""
    over = f"{n} questions{left_out}; 95 % intervals"
    pairs = among_others(grid, seed=seed)
    told = f"{verdict(grid, versus, seed=seed)}{_doubt(pairs)}"
    tables = [
        _walked(found, f"{told}\nWhat each strategy does: {over}"),
        _fixed_k(found, versus) | {"report_only": len(strategies(grid)) > 2},
        _paired(found, versus),
        *({**table, "report_only": True} for table in (_among(pairs), _costs(found, versus), _spent(found))),
    ]
    metrics = dict(_metrics(found))
    return Summary(
        points=found,
        metrics=metrics,
        headline=tuple(accuracy_of(point.cell) for _, point in _policies(found)),
        tables=[table for table in tables if table["rows"]],
        verdict=told,
    )


def verdict(grid: Grid, versus: Sequence[Comparison], *, seed: int) -> str:
    """Whether ARGO reaches always_retrieve's accuracy minus `MARGIN` at clearly lower cost, and if not, why not.

    Clearly lower: the paired interval of the difference in cost lies below 0.
    """
    rivals = [one for one in versus if one.b.strategy == "always_retrieve" and "cost" in one.gaps]
    if not rivals:
        return "No verdict: that takes argo and always_retrieve at one finite cost of retrieval."
    goal = f"always_retrieve's accuracy minus {100 * MARGIN:g} points"
    reached = [one for one in rivals if _value(one.gaps["accuracy"]) >= -MARGIN - 1e-12]
    cheaper = [one for one in reached if (ci95 := one.gaps["cost"].ci95) is not None and ci95[1] < 0]
    if cheaper:
        at = ", ".join(f"{one.a.cost_ratio:g} ({_share(grid, one, seed)})" for one in cheaper)
        return f"ARGO reaches {goal} at clearly lower cost, with c_r / c_p = {at}.{_caution(cheaper)}"
    if reached:
        at = ", ".join(f"{one.a.cost_ratio:g} ({_share(grid, one, seed)})" for one in reached)
        return f"ARGO reaches {goal} with c_r / c_p = {at}, but nowhere at clearly lower cost.{_caution(reached)}"
    best = max(rivals, key=lambda one: (_value(one.gaps["accuracy"]), -one.a.cost_ratio))
    gap = with_interval(best.gaps["accuracy"].value, best.gaps["accuracy"].ci95)
    return (
        f"ARGO does not reach {goal} at any cost point; it comes nearest at c_r / c_p = {best.a.cost_ratio:g}, "
        f"with a difference of {gap}. {_why(grid, best)}"
    )


def _share(grid: Grid, one: Comparison, seed: int) -> str:
    """ARGO's cost as a share of the other's."""
    own, other = ([float(o["cost"] or 0) for o in grid[cell].values()] for cell in (one.a, one.b))
    share = ratio_ci(own, other, seed=seed)
    told = "no cost to save" if share.value is None else f"{with_interval(share.value, share.ci95)} of its cost"
    return told if any(o["retrievals"] for o in grid[one.a].values()) else f"{told}, never retrieving"


def _caution(found: Sequence[Comparison]) -> str:
    """What a reader must know who takes "reaches" for "is shown to be as good"."""
    open_ = [one for one in found if (ci95 := one.gaps["accuracy"].ci95) is None or ci95[0] < -MARGIN]
    if not open_:
        return ""
    where = "there" if len(open_) == len(found) else f"at {', '.join(f'{one.a.cost_ratio:g}' for one in open_)}"
    worst = min((one.gaps["accuracy"].ci95 or (-1.0, 1.0))[0] for one in open_)
    return f" The questions are too few to rule out a larger loss {where}: the interval goes down to {number(worst)}."


def _doubt(pairs: Sequence[Comparison]) -> str:
    """A word of warning where retrieving is not shown to help at all: then it is no feat to do without."""
    for one in pairs:
        if (one.a.strategy, one.b.strategy) == ("always_retrieve", "always_reason"):
            gap = one.gaps["accuracy"]
            if gap.ci95 is None or gap.ci95[0] <= 0:
                told = with_interval(gap.value, gap.ci95)
                return f" Mind that retrieving is not shown to help here: always_retrieve - always_reason is {told}."
    return ""


def _why(grid: Grid, one: Comparison) -> str:
    """What was lacking in ARGO's walks of the questions that only the other has right."""
    own, other = grid[one.a], grid[one.b]
    lost = [name for name in own if other[name]["correct"] == 1 and own[name]["correct"] != 1]
    told = [support for name in lost if (support := own[name].get("support")) is not None]
    start = f"Of the {len(lost)} questions that only always_retrieve has right there,"
    if len(told) < len(lost):
        return f"{start} {len(lost) - len(told)} name no supporting passages, so why cannot be told."
    lacking = sum(support < 1 for support in told)
    return (
        f"{start} {lacking} lacked a supporting passage in ARGO's walk, and {len(lost) - lacking} had all and failed."
    )


# --- tables -------------------------------------------------------------------------------------------------------


def _walked(found: Mapping[Cell, Point], title: str) -> Table:
    names = _known(found, WALKED)
    rows = []
    for at, point in _policies(found):
        policy = point.policy if point.cell.strategy == "argo" else MISSING
        texts = [_text(point, name) for name in names]
        rows.append([point.cell.strategy, at, policy, *texts, "\n".join(point.flags)])
    header = ["strategy", "c_r / c_p", "policy", *(WALKED[name] for name in names), "remarks"]
    return {"title": title, "header": header, "rows": rows}


def _spent(found: Mapping[Cell, Point]) -> Table:
    names = _known(found, SPENT)
    rows = [
        [point.cell.strategy, at, *(_text(point, name) for name in names)] for at, point in _policies(found) if names
    ]
    header = ["strategy", "c_r / c_p", *(SPENT[name] for name in names)]
    return {
        "title": "What a walk takes by itself; a grid shares its calls between walks",
        "header": header,
        "rows": rows,
    }


def _paired(found: Mapping[Cell, Point], versus: Sequence[Comparison]) -> Table:
    """Right and wrong; once for cost points of one policy, since nothing but the cost differs between them."""
    first: dict[tuple[str, str], Comparison] = {}
    for one in versus:
        first.setdefault((found[one.a].policy, one.b.strategy), one)
    groups = {point.policy: at for at, point in _policies(found)}
    rows = [[groups[policy], f"argo - {name}", *_tested(one)] for (policy, name), one in first.items()]
    return {"title": "ARGO against each other strategy", "header": ["c_r / c_p", "", *TESTED], "rows": rows}


def _costs(found: Mapping[Cell, Point], versus: Sequence[Comparison]) -> Table:
    names = list(dict.fromkeys(cell.strategy for cell in found))
    gaps = {one.b: one.gaps.get("cost") for one in versus}
    rows = []
    for ratio in dict.fromkeys(sorted(cell.cost_ratio for cell in found)):
        cells = [Cell(strategy=name, cost_ratio=ratio) for name in names]
        rows.append(
            [f"{ratio:g}", "mean", *(_text(found[cell], "cost") if cell in found else MISSING for cell in cells)]
        )
        if any(cell in gaps for cell in cells):
            rows.append([f"{ratio:g}", "argo - it", *(_gap(gaps.get(cell)) for cell in cells)])
    title = "Cost of a question: c_r x retrievals + c_p x steps of reasoning"
    return {"title": title, "header": ["c_r / c_p", "", *names], "rows": rows}


def _fixed_k(found: Mapping[Cell, Point], versus: Sequence[Comparison]) -> Table:
    """ARGO at each cost against k retrievals for every question."""
    rows = []
    for one in versus:
        if one.b.strategy == "fixed_k":
            for cell in (one.a, one.b):
                rows.append([f"{cell.cost_ratio:g}", cell.strategy, *(_text(found[cell], name) for name in VERSUS), ""])
            gaps = [_gap(one.gaps.get(name)) for name in VERSUS]
            rows.append([f"{one.a.cost_ratio:g}", "difference", *gaps, number(one.test.p_value)])
    header = ["c_r / c_p", "", *VERSUS.values(), "McNemar p"]
    return {"title": "ARGO against fixed_k on the same questions", "header": header, "rows": rows}


def _among(pairs: Sequence[Comparison]) -> Table:
    rows = [[f"{one.a.strategy} - {one.b.strategy}", *_tested(one)] for one in pairs]
    return {"title": "The other strategies among themselves (at any cost)", "header": ["", *TESTED], "rows": rows}


TESTED = ("accuracy", "only the first right", "only the second right", "McNemar p")
"""Columns of a paired comparison; the p-values are exact, and not corrected for their number."""


def _tested(one: Comparison) -> list[str]:
    return [_gap(one.gaps["accuracy"]), str(one.test.only_a), str(one.test.only_b), number(one.test.p_value)]


def _metrics(found: Mapping[Cell, Point]) -> Iterator[tuple[str, Metric]]:
    """Name and metric; of strategies that do not look at the cost, only the cost stands for every cost point."""
    seen = set()
    for point in found.values():
        strategy, ratio = point.cell.strategy, point.cell.cost_ratio
        for name, value in point.metrics.items():
            note = "; ".join(part for part in (value.note, *point.flags) if part) if name == "accuracy" else value.note
            if strategy == "argo" or name == "cost":
                yield f"{strategy}_c{ratio:g}_{name}", replace(value, note=note)
            elif strategy not in seen:
                yield f"{strategy}_{name}", replace(value, note=note)
        seen.add(strategy)


def accuracy_of(cell: Cell) -> str:
    """Name of a cell's accuracy in a record and in a question's row; the same at any cost unless it looks at it."""
    return f"argo_c{cell.cost_ratio:g}_accuracy" if cell.strategy == "argo" else f"{cell.strategy}_accuracy"


def _policies(found: Mapping[Cell, Point]) -> list[tuple[str, Point]]:
    """The first point of each policy, with all cost points at which it is the policy."""
    groups: dict[str, list[Point]] = {}
    for point in found.values():
        groups.setdefault(point.policy, []).append(point)
    at = {name: ", ".join(f"{point.cell.cost_ratio:g}" for point in group) for name, group in groups.items()}
    return [("any" if name in ALIKE_AT_ANY_COST else at[name], group[0]) for name, group in groups.items()]


def _known(found: Mapping[Cell, Point], names: Mapping[str, str]) -> list[str]:
    """Those that every point has."""
    return [name for name in names if all(name in point.metrics for point in found.values())]


def _text(point: Point, name: str) -> str:
    metric = point.metrics.get(name)
    return MISSING if metric is None else metric_text(metric.to_json(), "\n")


def _gap(gap: Estimate | None) -> str:
    return MISSING if gap is None else with_interval(gap.value, gap.ci95, "\n")


def _value(estimate: Estimate) -> float:
    assert estimate.value is not None  # a mean of at least one question
    return estimate.value
