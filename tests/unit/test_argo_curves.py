"""Curves, comparisons, tables, verdict and plots, on grids whose answers are known."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from scipy.stats import binomtest

from argo.curves import (
    NEVER,
    NOTHING,
    Cell,
    Grid,
    Outcome,
    against_argo,
    among_others,
    cell_metrics,
    compare,
    points,
    shared,
)
from argo.plots import draw
from argo.summary import summarise
from suite.errors import UserError

N = 20
FACTS: dict[str, Any] = {
    "words": {"1": "RRP", "2": "RPP", "3": "RPP", "9": ""},
    "breakpoints": [0.5, 1.5, 8.25],
    "baselines": {"chance": 0.25, "majority": 0.3},
}


def outcome(correct: float, retrievals: float, reasons: int, ratio: float, **other: float | None) -> Outcome:
    steps = retrievals + reasons
    cost = 0.1 * (ratio * retrievals + reasons)
    return {
        "correct": correct,
        "retrievals": retrievals,
        "reasons": reasons,
        "retrieved": retrievals,
        "llm_calls": 2 * steps + 1,
        "cost": cost,
        "latency_ms": 5.0 * steps,
        **other,
    }


def a_grid(
    right: Callable[[str, float], int], ratios: tuple[float, ...] = (1, 2, 3), support: float | None = 1.0
) -> dict[Cell, dict[str, Outcome]]:
    """Of each strategy the first `right(strategy, ratio)` questions right; ARGO's retrievals as in FACTS."""
    steps = {"always_retrieve": (4, 0), "always_reason": (0, 6), "random": (2, 3), "fixed_k": (3, 0)}
    grid = {}
    for ratio in ratios:
        word = FACTS["words"][f"{ratio:g}"]
        for name, (tried, thought) in {"argo": (word.count("R"), word.count("P")), **steps}.items():
            known = {} if support is None else {"support": support}
            grid[Cell(strategy=name, cost_ratio=ratio)] = {
                f"q{i}": outcome(
                    float(i < right(name, ratio)), tried + (i % 2 if tried else 0), thought, ratio, **known
                )
                for i in range(N)
            }
    return grid


def as_good(strategy: str, ratio: float) -> int:
    return {"argo": 16, "always_retrieve": 16}.get(strategy, 8)


def at(strategy: str, ratio: float) -> Cell:
    return Cell(strategy=strategy, cost_ratio=ratio)


def test_a_cell_in_numbers() -> None:
    rows = [
        outcome(1, 3, 1, 2, support=1.0),
        outcome(0, 0, 2, 2, support=None),
        outcome(1, 1, 0, 2, support=0.5),
        outcome(1, 0, 1, 2, support=0.0),
    ]
    found = cell_metrics(rows, seed=1)
    assert (found["accuracy"].value, found["accuracy"].n) == (0.75, 4)
    exact = binomtest(3, 4).proportion_ci(method="wilson")
    assert found["accuracy"].ci95 == pytest.approx((exact.low, exact.high))
    assert found["retrieval_rate"].value == 4 / 8  # of all steps, not the mean of the questions' shares
    assert found["iterations"].value == 3.0  # the final answer is one
    assert (found["support"].value, found["support"].n) == (0.5, 3)  # None is left out, not 0
    assert "1 of 4 samples not measured" in found["support"].note
    assert (found["latency_ms"].unit, found["latency_ms"].origin) == ("ms", "measured")
    assert "f1" not in found


def test_nothing_but_terminating_has_no_retrieval_rate() -> None:
    assert cell_metrics([outcome(1, 0, 0, 2)] * 3, seed=1)["retrieval_rate"].value is None


def test_only_questions_that_every_cell_answered_count() -> None:
    grid = a_grid(as_good)
    del grid[at("random", 2)]["q3"], grid[at("argo", 1)]["q5"]
    assert {len(outcomes) for outcomes in shared(grid).values()} == {N - 2}
    summary = summarise(grid, FACTS, seed=1)
    assert {metric.n for metric in summary.metrics.values()} == {N - 2}
    assert "18 questions; 2 that some cell did not answer are left out" in summary.tables[0]["title"]
    grid[at("random", 2)].clear()
    with pytest.raises(UserError, match="No question was answered in all of the 15 cells"):
        summarise(grid, FACTS, seed=1)


def test_comparisons_are_paired() -> None:
    a, b = at("argo", 2), at("fixed_k", 2)
    grid: Grid = {
        a: {f"q{i}": outcome(float(i % 3 > 0), i, 1, 2) for i in range(N)},
        b: {f"q{i}": outcome(float(i % 3 == 1), i + 2, 1, 2) for i in reversed(range(N))},  # in another order
    }
    found = compare(grid, a, b, seed=1)
    assert found.gaps["retrievals"].ci95 == (-2.0, -2.0)  # the same for every question, however those differ
    assert found.gaps["iterations"].value == -2.0
    assert found.gaps["cost"].value == pytest.approx(-0.4)
    assert (found.test.only_a, found.test.only_b) == (6, 0)
    assert found.test.p_value == pytest.approx(binomtest(6, 6).pvalue)
    assert found.gaps["accuracy"].value == pytest.approx(0.3)


def test_bands_and_gaps_come_from_the_same_resamples() -> None:
    def line(more: float, *, right: bool = True) -> dict[str, Outcome]:
        return {f"q{i}": outcome(float((i % 3 > 0) == right), i**0.5 + more, 1, 2) for i in range(N)}

    grid = {at("argo", 2): line(0), at("random", 2): line(1), at("fixed_k", 2): line(3, right=False)}
    one, _, other = points(grid, {}, seed=1).values()
    low, high = one.metrics["retrievals"].ci95 or (0, 0)
    assert other.metrics["retrievals"].ci95 == pytest.approx((low + 3, high + 3))
    low, high = one.band or (0, 0)
    assert other.band == pytest.approx((1 - high, 1 - low))  # right wherever the first is wrong
    grid[at("always_reason", 2)] = {name: outcome(1, 0, 0, 2) for name in grid[at("argo", 2)]}
    gaps = [
        compare(grid, at(name, 2), at("always_reason", 2), seed=1).gaps["retrievals"] for name in ("argo", "random")
    ]
    low, high = gaps[0].ci95 or (0, 0)
    assert gaps[1].ci95 == pytest.approx((low + 1, high + 1))


def test_points_say_what_keeps_them_from_telling_anything() -> None:
    grid = a_grid(lambda name, ratio: 8 if name == "always_reason" else 18, ratios=(1, 9))
    for name in grid[at("random", 1)]:
        for ratio in (1, 9):
            grid[at("random", ratio)][name] = outcome(1, 0, 3, ratio)
    found = points(grid, FACTS, seed=1)
    assert found[at("argo", 1)].flags == ()
    assert found[at("argo", 9)].flags == (NOTHING,)
    assert found[at("argo", 9)].policy == NOTHING
    assert found[at("random", 9)].flags == (NEVER,)
    assert found[at("fixed_k", 1)].flags == ()  # it only retrieves: by design
    assert found[at("always_reason", 1)].flags == ("not clearly above majority (0.30)",)  # the stronger baseline
    assert [cell.strategy for cell in found][::2] == ["argo", "always_retrieve", "always_reason", "random", "fixed_k"]
    assert [cell.cost_ratio for cell in found] == [1, 9] * 5


def test_an_unknown_strategy_is_named() -> None:
    with pytest.raises(UserError, match=r"fixed is not a strategy"):
        points({at("fixed", 1): {"q": outcome(1, 1, 1, 1)}}, {}, seed=1)


def test_each_pair_of_strategies_is_tested_where_it_can_differ() -> None:
    grid = a_grid(as_good)
    mine = [(one.a.cost_ratio, one.b.strategy) for one in against_argo(grid, seed=1)]
    assert mine == [(r, s) for r in (1, 2, 3) for s in ("always_retrieve", "always_reason", "random", "fixed_k")]
    del grid[at("fixed_k", 1)]
    pairs = [(one.a.strategy, one.b.strategy) for one in among_others(grid, seed=1)]
    assert len(pairs) == len(set(pairs)) == 6
    assert not any("argo" in pair for pair in pairs)


def test_the_record_has_every_number_once() -> None:
    metrics = summarise(a_grid(as_good), FACTS, seed=1).metrics
    assert [name for name in metrics if name.endswith("_accuracy")] == [
        "argo_c1_accuracy", "argo_c2_accuracy", "argo_c3_accuracy",
        "always_retrieve_accuracy", "always_reason_accuracy", "random_accuracy", "fixed_k_accuracy",
    ]  # fmt: skip
    assert [name for name in metrics if name.startswith("random") and name.endswith("_cost")] == [
        "random_c1_cost", "random_c2_cost", "random_c3_cost",
    ]  # fmt: skip
    assert metrics["random_c3_cost"].value == pytest.approx(0.1 * (3 * 2.5 + 3))
    later = {name: {**one, "latency_ms": 99.0} for name, one in a_grid(as_good)[at("random", 3)].items()}
    assert summarise({**a_grid(as_good), at("random", 3): later}, FACTS, seed=1).metrics["random_latency_ms"].value == (
        metrics["random_latency_ms"].value
    )  # measured at the first cost point, as the table has it
    assert metrics["always_reason_accuracy"].note.endswith("not clearly above majority (0.30)")


def table(summary: Any, title: str) -> list[list[str]]:
    (found,) = [one for one in summary.tables if title in one["title"]]
    assert all(len(row) == len(found["header"]) for row in found["rows"])
    return found["rows"]


def test_tables_put_points_of_one_policy_together() -> None:
    summary = summarise(a_grid(as_good), FACTS, seed=1)
    strategies = table(summary, "What each strategy does")
    assert [row[:3] for row in strategies[:2]] == [["argo", "1", "RRP"], ["argo", "2, 3", "RPP"]]
    assert [row[:3] for row in strategies[2:4]] == [["always_retrieve", "any", "–"], ["always_reason", "any", "–"]]
    paired = table(summary, "ARGO against each other strategy")
    assert [row[0] for row in paired] == ["1"] * 4 + ["2, 3"] * 4
    assert paired[0][1:3] == ["argo - always_retrieve", "0\n[0, 0]"]
    assert paired[3][3:] == ["8", "0", "0.00781"]  # fixed_k has 8 of ARGO's 16 right


def test_the_table_against_fixed_k() -> None:
    rows = table(summarise(a_grid(as_good), FACTS, seed=1), "ARGO against fixed_k")
    assert [row[:2] for row in rows[:3]] == [["1", "argo"], ["1", "fixed_k"], ["1", "difference"]]
    argo, fixed, gap = ([cell.split("\n")[0] for cell in row[2:]] for row in rows[:3])
    # accuracy, cost at c_r = c_p, iterations, LLM calls, p
    assert argo == ["0.8", "0.35", "4.5", "8", ""]
    assert fixed == ["0.4", "0.35", "4.5", "8", ""]
    assert gap == ["0.4", "0", "0", "0", "0.00781"]


def test_costs_are_told_for_every_point() -> None:
    rows = table(summarise(a_grid(as_good), FACTS, seed=1), "Cost of a question")
    assert [row[:2] for row in rows] == [[r, kind] for r in "123" for kind in ("mean", "argo - it")]
    by_name = {row[0]: row[3].split("\n")[0] for row in rows if row[1] == "argo - it"}
    assert by_name == {"1": "-0.1", "2": "-0.4", "3": "-0.7"}


@pytest.mark.parametrize(
    ("right", "support", "said"),
    [
        (
            lambda name, ratio: as_good(name, ratio) - 4 * (name == "argo" and ratio < 3),
            1.0,
            "ARGO reaches always_retrieve's accuracy minus 2 points at clearly lower cost, with c_r / c_p = 3 (0.481",
        ),
        (
            lambda name, ratio: 10 if name == "argo" else 16,
            0.5,
            "does not reach always_retrieve's accuracy minus 2 points at any cost point; "
            "it comes nearest at c_r / c_p = 1, with a difference of -0.3",
        ),
        (
            lambda name, ratio: 10 if name == "argo" else 16,
            0.5,
            "6 lacked a supporting passage in ARGO's walk, and 0 had",
        ),
        (
            lambda name, ratio: 10 if name == "argo" else 16,
            1.0,
            "0 lacked a supporting passage in ARGO's walk, and 6 had",
        ),
        (
            lambda name, ratio: 10 if name == "argo" else 16,
            None,
            "Of the 6 questions that only always_retrieve has right",
        ),
        (
            lambda name, ratio: 10 if name == "argo" else 16,
            None,
            "6 name no supporting passages, so why cannot be told",
        ),
    ],
)
def test_the_verdict(right: Callable[[str, float], int], support: float | None, said: str) -> None:
    summary = summarise(a_grid(right, support=support), FACTS, seed=1)
    assert said in summary.verdict
    assert summary.tables[0]["title"].startswith(summary.verdict)


def test_a_verdict_of_few_questions_is_careful() -> None:
    def right(name: str, ratio: float) -> int:
        return {"argo": 10, "always_retrieve": 10}.get(name, 5)

    grid = a_grid(right, ratios=(1,))
    assert "too few" not in summarise(grid, FACTS, seed=1).verdict  # right and wrong on the very same questions
    mine = grid[at("argo", 1)]
    mine["q0"], mine["q19"] = {**mine["q0"], "correct": 0.0}, {**mine["q19"], "correct": 1.0}
    said = summarise(grid, FACTS, seed=1).verdict
    assert "at clearly lower cost" in said
    assert "too few to rule out a larger loss there: the interval goes down to -0." in said


def test_doing_without_retrievals_that_do_not_help_is_no_feat() -> None:
    said = summarise(a_grid(as_good, ratios=(1, 9)), FACTS, seed=1).verdict
    assert "9 (0 [0, 0] of its cost, never retrieving)" in said
    assert said.count("never retrieving") == 1  # at 1 it retrieves
    assert "not shown to help" not in said  # always_retrieve has 16 of 20 right, always_reason 8
    useless = a_grid(lambda name, ratio: 8 if name == "always_retrieve" else as_good(name, ratio))
    assert "retrieving is not shown to help here: always_retrieve - always_reason is 0 [0, 0]." in (
        summarise(useless, FACTS, seed=1).verdict
    )


def test_reaching_it_at_no_lower_cost_is_no_success() -> None:
    grid = {at(name, 2): {f"q{i}": outcome(1, 3, 0, 2) for i in range(N)} for name in ("argo", "always_retrieve")}
    assert "but nowhere at clearly lower cost" in summarise(grid, {}, seed=1).verdict


def test_without_a_rival_there_is_no_verdict() -> None:
    grid = {at("argo", ratio): {"q": outcome(1, 1, 1, ratio)} for ratio in (1, 2)}
    summary = summarise(grid, {}, seed=1)
    assert summary.verdict.startswith("No verdict")
    told = [one["title"].splitlines()[-1].split(":")[0].split(";")[0] for one in summary.tables]
    assert told == ["What each strategy does", "Cost of a question", "What a walk takes by itself"]


def test_plots_hold_lines_baselines_and_breakpoints_and_are_the_same_bytes(tmp_path: Path) -> None:
    names = [tmp_path / place / f"graph_{name}_x.svg" for place in ("one", "two") for name in ("1a", "1b", "cost")]
    for place in ("one", "two"):
        draw(tmp_path / place, summarise(a_grid(as_good), FACTS, seed=1), FACTS, suffix="_x")
    one_a, one_b, cost, *again = (path.read_bytes() for path in names)
    assert [one_a, one_b, cost] == again
    text = one_a.decode()
    for said in ("always_retrieve", "fixed_k", "majority 0.30", "chance 0.25", "policy changes", "c_r / c_p"):
        assert said in text
    assert "majority" not in one_b.decode()
    assert "retrieval calls a question" in one_b.decode()
    # the breakpoints at 0.5 and 8.25 lie beside the axis: one mark moves, and the picture with it
    elsewhere = {**FACTS, "breakpoints": [0.5, 8.25]}
    draw(tmp_path / "one", summarise(a_grid(as_good), FACTS, seed=1), elsewhere, suffix="_x")
    assert "policy changes" not in names[0].read_text()
    moved = {**FACTS, "words": {**FACTS["words"], "3": "PPP"}}
    draw(tmp_path / "two", summarise(a_grid(as_good), moved, seed=1), FACTS, suffix="_x")
    assert names[3].read_bytes() != one_a  # the third point is no longer hollow


def test_a_single_cell_can_be_drawn(tmp_path: Path) -> None:
    facts: dict[str, Any] = {}
    draw(tmp_path / "plots", summarise({at("argo", 2): {"q": outcome(1, 1, 1, 2)}}, facts, seed=1), facts)
    assert len(list((tmp_path / "plots").glob("*.svg"))) == 3
