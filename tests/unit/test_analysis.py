"""The analysis of a sweep, on numbers whose answers are known."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgecloud import analysis
from edgecloud.analysis import Point, auroc, expected_tokens, explained, front, reason, recommended, signals
from edgecloud.plots import draw
from edgecloud.trace import Answer, Proposal, SampleTrace
from suite.report.collect import JobRecord
from tests.unit.test_report import make_record


def at(calls: float, quality: float, half: float = 0.1, **changes: Any) -> Point:
    ci95 = (quality - half, quality + half)
    point = {"job": "0", "gate": "entropy", "threshold": 1.0, "k": 3, "calls_ci95": None, "quality_ci95": ci95}
    point["by_sample"] = {}
    return Point(**{**point, "calls": calls, "quality": quality, **changes})


@pytest.mark.parametrize("acceptance", [0.0, 0.3, 0.7, 0.95, 1.0])
@pytest.mark.parametrize("k", [1, 3, 5, 8])
def test_tokens_a_round_are_the_equations_within_1_percent_when_acceptance_is_independent(
    acceptance: float, k: int
) -> None:
    stands = np.random.default_rng(k).random((200_000, k)) < acceptance
    tokens = stands.cumprod(axis=1).sum(axis=1) + 1  # what stood, and the correction or the bonus
    assert expected_tokens(acceptance, k) == pytest.approx(tokens.mean(), rel=0.01)


def test_the_gap_adds_up_from_the_equation_to_the_speed_up() -> None:
    found = explained(4.0, 3.5, 10.0, {"verify_ms": 14.0, "draft_ms": 4.0, "network_ms": 17.0})
    assert found["speedup"] == pytest.approx(3.5 * 10 / 35)
    assert found["gap"]["verify"] == pytest.approx(3.5 - 3.5 * 10 / 14)
    assert sum(found["gap"].values()) == pytest.approx(4.0 - found["speedup"])


def test_auroc_is_the_share_of_pairs_in_order_with_ties_as_half() -> None:
    scores = np.array([0.1, 0.4, 0.4, 0.8, 0.2, 0.9])
    positive = np.array([False, True, False, True, False, False])
    pairs = [(s > t) + 0.5 * (s == t) for s in scores[positive] for t in scores[~positive]]
    found = auroc(scores, positive, np.arange(6) // 2, seed=0)
    assert found.value == pytest.approx(np.mean(pairs))
    assert found.ci95 is not None and found.ci95[0] <= found.value <= found.ci95[1]
    assert auroc(positive.astype(float), positive, np.arange(6) // 2, seed=0).value == 1.0


def sample(name: str, *told: tuple[int, int, float]) -> SampleTrace:
    """A trie whose cloud path has these (edge's token, cloud's token, entropy)."""
    made = SampleTrace(id=name, asked="", prompt=[1])
    node = made.root
    for edge, cloud, entropy in told:
        node.proposal, node.answer = Proposal(edge, entropy, 1.0 - entropy / 4, entropy / 2), Answer(cloud, 0, 0.0)
        node.child(edge).proposal = Proposal(3, 9.0, 0.0, 1.0)  # off the cloud's path: not looked at
        node = node.child(cloud)
    return made


def test_signals_are_judged_along_the_clouds_own_outputs() -> None:
    samples = [sample("a", (5, 5, 0.1), (6, 7, 2.0)), sample("b"), sample("c", (4, 4, 0.2), (4, 5, 0.15), (2, 2, 0.1))]
    found = signals(samples, seed=0)
    assert set(found) == {"entropy", "confidence", "uncertainty"}
    assert found["entropy"].value == pytest.approx(5 / 6)
    assert {round(one.value or 0.0, 9) for one in found.values()} == {round(5 / 6, 9)}
    assert found["entropy"].n == 2
    assert signals([sample("a", (5, 5, 0.1))], seed=0) == {}  # the cloud refused nothing


def test_the_front_holds_what_nothing_beats() -> None:
    points = [at(0.1, 1.0), at(0.2, 0.9), at(0.3, 2.0), at(0.3, 1.5), at(0.05, 0.5), at(0.4, 2.0)]
    assert [(p.calls, p.quality) for p in front(points)] == [(0.05, 0.5), (0.1, 1.0), (0.3, 2.0)]


def around(mean: float, *noise: float) -> dict[str, float]:
    """Qualities of twelve samples, each with what is its own and what one setting adds."""
    return {str(i): mean + 0.5 * i + (noise[i % len(noise)] if noise else 0.0) for i in range(12)}


def test_recommended_is_the_cheapest_that_no_paired_test_tells_from_the_best() -> None:
    points = [
        at(0.1, 1.0, half=5.0, by_sample=around(1.0)),  # its interval reaches the best, its differences do not
        at(0.2, 1.9, by_sample=around(1.9, -0.3, 0.3)),
        at(0.3, 2.0, by_sample=around(2.0)),
        at(0.5, 1.99, by_sample=around(1.99)),
    ]
    best, missing = recommended(points, seed=0)
    assert best.calls == 0.2 and missing is not None and missing.n == 12
    assert missing.value == pytest.approx(-0.1) and missing.ci95 is not None and missing.ci95[0] < 0 < missing.ci95[1]
    told = reason(best, missing, points, "cider")
    assert "task.entropy_threshold=1 task.k=3, 0.200 cloud calls per token: of 4 settings the cheapest" in told
    assert "2.000" in told and "It is -0.100 [-0." in told and "paired over 12 samples" in told


def test_the_best_setting_is_recommended_where_all_cheaper_ones_are_clearly_below() -> None:
    points = [at(0.1, 1.0, by_sample=around(1.0)), at(0.2, 2.0, by_sample=around(2.0)), at(0.3, 2.0)]
    best, missing = recommended(points, seed=0)
    assert (best.calls, missing) == (0.2, None)
    assert "the best cider of 3 settings, 2.000, which no cheaper one reaches" in reason(best, missing, points, "cider")


def test_jobs_without_a_cider_of_each_sample_are_judged_by_agreement(tmp_path: Path) -> None:
    told = {"value": 0.5, "unit": "1", "n": 1, "ci95": None, "origin": "computed", "note": ""}
    record = make_record(
        metrics=dict.fromkeys((analysis.CALLS, "cider", "agreement"), told),
        config={"task": {"gate": "entropy", "entropy_threshold": 1.0, "k": 3}},
        overrides=[],
    )
    row = {"id": "a", "status": "ok", "error": None, "metrics": {"agreement": 0.7}}
    (tmp_path / "samples.jsonl").write_text(json.dumps(row) + "\n")
    quality, (one,) = analysis.measured([JobRecord(folder=tmp_path, label="0", record=record)])
    assert (quality, one.by_sample) == ("agreement", {"a": 0.7})
    (tmp_path / "samples.jsonl").write_text("")
    assert analysis.measured([JobRecord(folder=tmp_path, label="0", record=record)])[1] == []


def test_what_a_bound_reaches_is_read_at_the_same_rate_of_calls_and_paired() -> None:
    bounds = [at(c, q, gate="random", by_sample=around(q)) for c, q in ((0.1, 1.0), (0.3, 2.0))]
    bounds += [at(0.5, 3.0, gate="oracle", by_sample=around(3.0))]
    (told,) = analysis._matched(at(0.2, 1.8, by_sample=around(1.8)), bounds, "cider", seed=0)
    assert "+0.300 [+0.300, +0.300] from random's 1.500" in told and "oracle" not in told  # never beyond its points


def test_the_plots_are_the_same_bytes_for_the_same_numbers(tmp_path: Path) -> None:
    points, calibration = [at(0.1, 1.0), at(0.2, 2.0)], signals([sample("a", (5, 5, 0.1), (6, 7, 2.0))] * 3, seed=0)
    rows = [
        {"k": k, "tokens_analytic": 2.0, "tokens": 1.9, **explained(2.0, 1.9, 5.0, {"verify_ms": 6.0})} for k in (1, 2)
    ]
    for row in rows:
        row["gap"] |= {"draft": 0.1, "network": 0.0}
    seen = []
    for folder in (tmp_path / "a", tmp_path / "b"):
        draw(folder, points, front(points), [at(0.15, 0.7, gate="random")], points[0], calibration, rows, "cider")
        seen.append({path.name: path.read_bytes() for path in folder.iterdir()})
    assert seen[0] == seen[1] and set(seen[0]) == {"pareto.svg", "auroc.svg", "speedup.svg"}


def test_a_sweep_without_speculation_is_left_alone(tmp_path: Path) -> None:
    record = make_record(metrics={}, config={"task": {"method": "cloud"}}, overrides=[])
    (tmp_path / "0").mkdir()
    (tmp_path / "0" / "record.json").write_text(json.dumps(record))
    analysis.analyse(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"0"}
    assert math.isclose(expected_tokens(0.5, 1), 1.5)
