"""Accuracy, retrievals and cost of every strategy at every cost of retrieval, with intervals, on the same questions.

Cells are compared over the questions that all of them answered (`shared`), and all intervals come from the same
resamples of those: where a hard question is drawn twice, it is so for every line. Whether two lines differ is for
`compare`, which pairs them question by question.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from argo.schema import STRATEGIES
from suite.errors import UserError, nearest
from suite.result import Metric
from suite.stats import Estimate, McNemar, mcnemar, mean_ci, metric, ratio_ci, wilson

Outcome = Mapping[str, float | None]
"""One question in one cell: `correct` (0 or 1; exact match of a free-form answer) and whatever else of `MEANS`."""
MEANS = {
    "f1": "F1 of the words of the answer",
    "support": "share of the supporting passages that were handed on",
    "retrievals": "tried, failed ones included",
    "retrieved": "retrievals that succeeded",
    "reasons": "steps of reasoning",
    "llm_calls": "of one walk by itself, none shared",
    "prompt_tokens": "read",
    "completion_tokens": "generated",
    "cost": "c_r x retrievals + c_p x steps of reasoning",
    "latency_ms": "each call's share of its batch",
    "dropped": "passages that did not fit a prompt",
}
"""Metrics of a question -> what their mean says."""
ALIKE_AT_ANY_COST = tuple(name for name in STRATEGIES if name != "argo")
"""Strategies that do not look at the cost of a retrieval: only what they pay differs from cost point to cost point."""
NEVER, ONLY, NOTHING = "never retrieves", "only retrieves", "answers at once"
BY_DESIGN = {"always_retrieve": ONLY, "always_reason": NEVER, "fixed_k": ONLY}


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Cell:
    """One strategy at one cost of a retrieval, in steps of reasoning (c_r / c_p)."""

    strategy: str
    cost_ratio: float


Grid = Mapping[Cell, Mapping[str, Outcome]]
"""Cell -> id of the question -> outcome."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One cell, summed up.

    Attributes:
        cell: which.
        policy: points of equal policy take the same steps: the optimal policy's word, else the strategy's name.
        metrics: `accuracy` (Wilson), `retrieval_rate` (retrievals over steps) and the means of `MEANS` that are known.
        band: accuracy between 2.5 % and 97.5 % of the common resamples; None where there is one question.
        flags: why the point says little, where it does.
    """

    cell: Cell
    policy: str
    metrics: Mapping[str, Metric]
    band: tuple[float, float] | None
    flags: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Cell `a` minus cell `b`, question by question.

    Attributes:
        gaps: accuracy, and whichever of `MEANS` both know -> difference.
        test: exact McNemar of right and wrong.
    """

    a: Cell
    b: Cell
    gaps: Mapping[str, Estimate]
    test: McNemar


def shared(grid: Grid) -> Grid:
    """The grid over the questions that every cell answered, in the order of the first.

    Raises:
        UserError: there is none, or no cell.
    """
    first, *others = grid.values() or ({},)
    ids = [name for name in first if all(name in other for other in others)]
    if not ids:
        raise UserError(f"No question was answered in all of the {len(grid)} cells; there is nothing to compare.")
    return {cell: {name: outcomes[name] for name in ids} for cell, outcomes in grid.items()}


def ratios(grid: Grid) -> list[float]:
    """Its cost points, ascending."""
    return sorted({cell.cost_ratio for cell in grid})


def strategies(grid: Grid) -> list[str]:
    """Its strategies, in the order of `STRATEGIES`."""
    found = {cell.strategy for cell in grid}
    for name in found.difference(STRATEGIES):
        raise UserError(f"{name} is not a strategy.{nearest(name, STRATEGIES)}")
    return [name for name in STRATEGIES if name in found]


def points(grid: Grid, facts: Mapping[str, Any], *, seed: int) -> dict[Cell, Point]:
    """Every cell summed up, by strategy and then by cost.

    Args:
        grid: over shared questions.
        facts: of the record: `words` (cost ratio as text -> the optimal policy there) and `baselines` (name ->
            accuracy); what is missing is not marked.
        seed: of the bootstrap.
    """
    words = {float(ratio): word for ratio, word in facts.get("words", {}).items()}
    found = {}
    for strategy in strategies(grid):
        for ratio in ratios(grid):
            cell = Cell(strategy=strategy, cost_ratio=ratio)
            if cell in grid:
                outcomes = list(grid[cell].values())
                policy = words.get(ratio, f"{strategy} at {ratio:g}") if strategy == "argo" else strategy
                metrics = cell_metrics(outcomes, seed=seed)
                found[cell] = Point(
                    cell=cell,
                    policy=policy or NOTHING,
                    metrics=metrics,
                    band=_mean(_column(outcomes, "correct"), seed).ci95,
                    flags=(*_degenerate(strategy, outcomes), *_no_better(metrics, facts.get("baselines", {}))),
                )
    return found


def cell_metrics(outcomes: Sequence[Outcome], *, seed: int) -> dict[str, Metric]:
    """`accuracy`, `retrieval_rate` and every mean of `MEANS` that a question has, of one cell."""
    right = [outcome["correct"] == 1 for outcome in outcomes]
    found = {"accuracy": wilson(sum(right), len(right)).metric(unit="1", origin="computed", note="Wilson interval")}
    known = {name for outcome in outcomes for name in outcome}
    for name, note in MEANS.items():
        if name in known:
            unit, origin = ("ms", "measured") if name.endswith("_ms") else ("1", "computed")
            values = tuple(outcome.get(name) for outcome in outcomes)
            found[name] = _metric(values, unit, origin, note, seed)
    if {"retrievals", "reasons"} <= known:
        tried, steps = _column(outcomes, "retrievals"), _steps(outcomes)
        rate = ratio_ci(tried, steps, seed=seed)
        found["retrieval_rate"] = rate.metric(unit="1", origin="computed", note="retrievals / (retrievals + reasons)")
        note = "retrievals, steps of reasoning and the final answer"
        found["iterations"] = _metric(tuple(step + 1 for step in steps), "1", "computed", note, seed)
    return found


def compare(grid: Grid, a: Cell, b: Cell, *, seed: int) -> Comparison:
    """Two cells of the grid, over the questions that both answered."""
    ids = [name for name in grid[a] if name in grid[b]]
    left, right = ([grid[cell][name] for name in ids] for cell in (a, b))
    gaps = {"accuracy": _gap(_column(left, "correct"), _column(right, "correct"), seed)}
    for name in MEANS:
        if all(outcome.get(name) is not None for outcome in (*left, *right)):
            gaps[name] = _gap(_column(left, name), _column(right, name), seed)
    if {"retrievals", "reasons"} <= gaps.keys():
        gaps["iterations"] = _gap(_steps(left), _steps(right), seed)
    test = mcnemar([o["correct"] == 1 for o in left], [o["correct"] == 1 for o in right])
    return Comparison(a=a, b=b, gaps=gaps, test=test)


def against_argo(grid: Grid, *, seed: int) -> list[Comparison]:
    """ARGO minus each other strategy, at each cost point that has both."""
    pairs = [(Cell(strategy="argo", cost_ratio=r), Cell(strategy=s, cost_ratio=r)) for r, s in _others(grid)]
    return [compare(grid, a, b, seed=seed) for a, b in pairs if a in grid and b in grid]


def among_others(grid: Grid, *, seed: int) -> list[Comparison]:
    """Each pair of the strategies that are alike at any cost, once."""
    first: dict[str, Cell] = {}
    for ratio, strategy in _others(grid):
        cell = Cell(strategy=strategy, cost_ratio=ratio)
        if cell in grid:
            first.setdefault(strategy, cell)
    cells = list(first.values())
    return [compare(grid, a, b, seed=seed) for at, a in enumerate(cells) for b in cells[at + 1 :]]


def _others(grid: Grid) -> Iterable[tuple[float, str]]:
    return ((ratio, name) for ratio in ratios(grid) for name in strategies(grid) if name in ALIKE_AT_ANY_COST)


def _degenerate(strategy: str, outcomes: Sequence[Outcome]) -> list[str]:
    """What all its walks are, where that is not what the strategy is for."""
    tried, thought = (sum(outcome.get(name) or 0 for outcome in outcomes) for name in ("retrievals", "reasons"))
    found = NOTHING if not tried and not thought else NEVER if not tried else ONLY if not thought else None
    return [found] if found and found != BY_DESIGN.get(strategy) else []


def _no_better(metrics: Mapping[str, Metric], baselines: Mapping[str, float]) -> list[str]:
    """The strongest baseline that the accuracy is not clearly above."""
    ci95 = metrics["accuracy"].ci95
    name = max(baselines, key=lambda name: baselines[name], default=None)
    if name is None or ci95 is None or ci95[0] > baselines[name]:
        return []
    return [f"not clearly above {name.replace('_', ' ')} ({baselines[name]:.2f})"]


def _column(outcomes: Sequence[Outcome], name: str) -> tuple[float, ...]:
    """Values of a metric that every question has."""
    found = [outcome[name] for outcome in outcomes]
    values = tuple(float(value) for value in found if value is not None)
    assert len(values) == len(found), f"{name} is missing from a question that was answered"
    return values


def _steps(outcomes: Sequence[Outcome]) -> tuple[float, ...]:
    tried, thought = _column(outcomes, "retrievals"), _column(outcomes, "reasons")
    return tuple(r + p for r, p in zip(tried, thought, strict=True))


def _gap(left: Sequence[float], right: Sequence[float], seed: int) -> Estimate:
    """Mean difference with the interval of a paired bootstrap."""
    return _mean(tuple(a - b for a, b in zip(left, right, strict=True)), seed)


# Cells of one policy have equal columns but for the cost: what was worked out for one is not worked out again.
@lru_cache(maxsize=4096)
def _mean(values: tuple[float, ...], seed: int) -> Estimate:
    return mean_ci(values, seed=seed)


@lru_cache(maxsize=4096)
def _metric(values: tuple[float | None, ...], unit: str, origin: Any, note: str, seed: int) -> Metric:
    return metric(values, unit=unit, seed=seed, origin=origin, note=note)
